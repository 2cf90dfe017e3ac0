"""A page for each algorithm, the paper index over them: from conf/algorithm and what it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from reference_pages import header

ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
TARGET = re.compile(r"_target_: (gprl_lightning\.[\w.]+)")
OVERRIDE = re.compile(r"override /algorithm/(\w+)@algorithm\.\w+: (\w+)")
PAPERS = {"gprl": "2605.18721", "grpo": "2402.03300", "grpo_bt": "2402.03300"}
OWN = {"advantage": "gprl", "policy_loss": "clip"}  # of algorithm/gprl, from which others start


def words(root: Path) -> list[str]:
    """Return the algorithms by the words that choose them, GPRL first."""
    found = sorted(file.stem for file in (root / "conf/algorithm").glob("*.yaml"))
    return sorted(found, key=lambda word: word != "gprl")


def pages(root: Path) -> dict[str, str]:
    """Return the texts of the pages by their paths."""
    found = {f"algorithms/{word}.md": page(root, word) for word in words(root)}
    return found | {"algorithms/index.md": index(root)}


def index(root: Path) -> str:
    """Return the paper index."""
    lines = [
        "# Paper index",
        "",
        "Every method is one word. Its page has its configuration, its differences from the "
        "paper, and its source. How they differ from one another: [baselines](../baselines.md).",
        "",
        "| method | paper | what it is |",
        "|---|---|---|",
    ]
    for word in words(root):
        first = " ".join(header(root / f"conf/algorithm/{word}.yaml")).split(". ")[0].rstrip(".")
        lines.append(f"| [`{word}`]({word}.md) | {paper_link(root, word)} | {first} |")
    return "\n".join(lines) + "\n"


def paper_link(root: Path, word: str) -> str:
    text = " ".join(header(root / f"conf/algorithm/{word}.yaml"))
    found = ARXIV.search(text)
    number = found[1] if found else PAPERS[word]
    return f"[{number}](https://arxiv.org/abs/{number})"


def page(root: Path, word: str) -> str:
    """Return an algorithm's page: what it is, how to run it, its configuration, its source."""
    file = root / f"conf/algorithm/{word}.yaml"
    text = file.read_text(encoding="utf8")
    body = re.sub(r"^(#.*\n)+", "", text).strip()
    lines = [f"# {word}", "", " ".join(header(file)), "", f"Paper: {paper_link(root, word)}.", ""]
    lines += ["```bash", command(word), "```", "", "## Configuration", ""]
    lines += [f"[`conf/algorithm/{word}.yaml`](../../conf/algorithm/{word}.yaml)", ""]
    lines += ["```yaml", body, "```", ""]
    if "gprl@algorithm" in text or word == "grpo":
        lines += ["All else is [`gprl`](gprl.md)'s.", ""]
    files = parts(root, text)
    for part in files:
        lines += [f"[`{part}`](../../{part})", "", "```yaml"]
        lines += [(root / part).read_text(encoding="utf8").strip(), "```", ""]
    targets = TARGET.findall(text) + [
        t for part in files for t in TARGET.findall((root / part).read_text(encoding="utf8"))
    ]
    lines += ["## Source", ""]
    for target in dict.fromkeys(targets):
        lines += source(root, target)
    return "\n".join(lines)


def command(word: str) -> str:
    more = " preference_model=sandbox_bt drift=disabled" if word == "grpo" else ""
    return f"python train.py algorithm={word}{more}"


def parts(root: Path, text: str) -> list[str]:
    """Return the files of the advantage rule and the policy loss that an algorithm is made of."""
    chosen = OWN | dict(OVERRIDE.findall(text))
    if "PairObjective" in text:  # it has neither
        return []
    return [f"conf/algorithm/{group}/{option}.yaml" for group, option in chosen.items()]


def source(root: Path, target: str) -> list[str]:
    """Return the source of a class, and a link to its file."""
    module, _, name = target.rpartition(".")
    path = module.replace(".", "/") + ".py"
    text = (root / path).read_text(encoding="utf8")
    for node in ast.parse(text).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            code = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
            return [f"`{name}` in [`{path}`](../../{path})", "", "```python", code, "```", ""]
    return [f"`{target}` in [`{path}`](../../{path})", ""]
