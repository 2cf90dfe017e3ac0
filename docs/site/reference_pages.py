"""The reference pages: every key with type, default, range and comment, every option, every metric.

Read from the schemas' source, without importing the package: a field's comment stands behind it, or
on the lines above it; its range is what ``__post_init__`` requires.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CONFIG = "gprl_lightning/config"
OPTIONS = "gprl_lightning/core/options.py"
METRICS = "gprl_lightning/tracking/metrics.py"


@dataclass(frozen=True)
class Key:
    """One option of a schema."""

    name: str
    type: str
    default: str
    range: str
    comment: str


def pages(root: Path) -> dict[str, str]:
    """Return the texts of the pages by their paths."""
    return {
        "reference/keys.md": keys_page(root),
        "reference/options.md": options_page(root),
        "reference/metrics.md": metrics_page(root),
    }


def keys_page(root: Path) -> str:
    """Return the page of all keys, one table per section of the configuration."""
    classes = schemas(root)
    lines = [
        "# Reference of all keys",
        "",
        "Every key that `train.py` takes, from the schemas that check it. Write "
        "`section.key=value` on the command line. The default is the schema's; a file of `conf/` "
        "may set another, and `python train.py --cfg job` prints what a run would use. `None` is "
        "written `null`.",
        "",
    ]
    for section, name in sections(classes):
        doc, keys = classes[name]
        lines += [f"## {section or 'top level'}", "", " ".join(doc.split()), ""]
        lines += ["| key | type | default | range | what it is |", "|---|---|---|---|---|"]
        for key in keys:
            full = f"{section}.{key.name}" if section else key.name
            code = [f"`{full}`", f"`{key.type}`", f"`{key.default}`"]  # where a | divides nothing
            cells = code + [text.replace("|", "\\|") for text in (key.range, key.comment)]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def schemas(root: Path) -> dict[str, tuple[str, list[Key]]]:
    """Return each schema's docstring and keys by the name of its class."""
    words = literals(root)
    found = {}
    for file in sorted((root / CONFIG).glob("*.py")):
        text = file.read_text(encoding="utf8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                doc = ast.get_docstring(node) or ""
                ranges = ranges_of(node, words)
                found[node.name] = doc, list(keys_of(node, text.splitlines(), ranges, words))
    return found


def sections(classes: dict[str, tuple[str, list[Key]]]) -> Iterator[tuple[str, str]]:
    """Yield (section, class) of all that `Config` is made of, itself first, in its own order."""
    waiting = [("", "Config")]
    while waiting:
        section, name = waiting.pop(0)
        yield section, name
        nested = []
        for key in classes[name][1]:
            inner = key.type.split(" ")[0]
            if inner in classes:
                nested.append((f"{section}.{key.name}".lstrip("."), inner))
        waiting[:0] = nested


def keys_of(
    node: ast.ClassDef, lines: list[str], ranges: dict[str, str], words: dict[str, str]
) -> Iterator[Key]:
    for field in node.body:
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        kind, name = ast.unparse(field.annotation), field.target.id
        literal = words.get(kind.split(" ")[0])
        yield Key(
            name=name,
            type=("str" + kind.removeprefix(kind.split(" ")[0])) if literal else kind,
            default=default_of(field.value),
            range=ranges.get(name) or literal or "",
            comment=comment_of(field, lines),
        )


def default_of(value: ast.expr | None) -> str:
    """Return the default as it is written; of a factory, what it makes."""
    if isinstance(value, ast.Call):
        for keyword in value.keywords:
            if keyword.arg == "default_factory":
                made = keyword.value
                if isinstance(made, ast.Lambda):
                    return ast.unparse(made.body)
                empty = {"dict": "{}", "list": "[]"}
                return empty.get(ast.unparse(made), "below")
    return ast.unparse(value) if value is not None else "required"


def comment_of(field: ast.AnnAssign, lines: list[str]) -> str:
    """Return the comment behind a field, or the comment lines above it."""
    last = lines[(field.end_lineno or field.lineno) - 1][field.end_col_offset or 0 :]
    inside = "\n".join(lines[field.lineno - 1 : field.end_lineno])
    if "#" in last:
        return last.split("#", 1)[1].strip()
    above: list[str] = []
    row = field.lineno - 2
    while lines[row].strip().startswith("#"):
        above.insert(0, lines[row].strip().lstrip("# "))
        row -= 1
    return " ".join(above) if above or "#" not in inside else inside.split("#", 1)[1].strip()


def literals(root: Path) -> dict[str, str]:
    """Return the words that each `Literal` of `core.options` allows, by its name."""
    found = {}
    for node in ast.parse((root / OPTIONS).read_text(encoding="utf8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            name = ast.unparse(node.targets[0])
            found[name] = _words(node.value)
    return found


def _words(node: ast.AST) -> str:
    texts = [
        n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]
    return ", ".join(f"`{text}`" for text in texts)


def ranges_of(node: ast.ClassDef, words: dict[str, str]) -> dict[str, str]:
    """Return what ``__post_init__`` requires of each field, in words."""
    found: dict[str, str] = {}
    local: dict[str, ast.expr] = {}
    checks = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__post_init__"]
    for statement in (n for check in checks for n in ast.walk(check)):
        if isinstance(statement, ast.Assign):
            local[ast.unparse(statement.targets[0])] = statement.value
    for call in (n for check in checks for n in ast.walk(check) if isinstance(n, ast.Call)):
        match ast.unparse(call.func):
            case "require" if isinstance(call.args[3], ast.Constant):
                for name in _fields(call.args[0], local):
                    found.setdefault(name, str(call.args[3].value))
            case "one_of":
                for name in _fields(call.args[0], local):
                    kind = ast.unparse(call.args[2])
                    literal = local.get(kind, call.args[2])
                    found[name] = words.get(kind.rpartition(".")[2]) or _words(literal)
            case "at_least":
                low = ast.unparse(call.args[2])
                for name in (n for a in call.args[3:] for n in _names(a, local)):
                    found.setdefault(name, f">= {low}")
    return {name: text for name, text in found.items() if text}


def _names(node: ast.expr, local: dict[str, ast.expr]) -> list[str]:
    """Return the names that an argument stands for: a text, or a starred tuple of texts."""
    if isinstance(node, ast.Starred):
        node = local.get(ast.unparse(node.value), node.value)
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]


def _fields(node: ast.expr, local: dict[str, ast.expr]) -> list[str]:
    """Return the fields that a key such as ``"rollout.top_p"`` or ``key + "top_p"`` names."""
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return [str(texts[-1]).rpartition(".")[2]] if texts else []


def options_page(root: Path) -> str:
    """Return the page of all options of all groups, each with the first comment of its file."""
    lines = [
        "# Reference of all options",
        "",
        "Each is one word on the command line, `group=option`, and one file of `conf/`.",
        "",
    ]
    for folder in sorted(f for f in (root / "conf").rglob("*") if f.is_dir()):
        files = sorted(folder.glob("*.yaml"))
        group = folder.relative_to(root / "conf").as_posix()
        if not files or group.startswith("hydra/help"):
            continue
        lines += [f"## {group}", "", "| option | what it is |", "|---|---|"]
        for file in files:
            link = f"[`{file.stem}`](../../conf/{group}/{file.name})"
            lines.append(f"| {link} | {' '.join(header(file)[:1]).replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


def header(file: Path) -> list[str]:
    """Return the comment lines at the head of a YAML file, without Hydra's package line."""
    lines = []
    for line in file.read_text(encoding="utf8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return lines


def metrics_page(root: Path) -> str:
    """Return the page of all metrics, with the comments of their file."""
    text = (root / METRICS).read_text(encoding="utf8")
    lines = [
        "# Reference of all metrics",
        "",
        "The columns of `metrics.csv`, and what the loggers get. Those of axes and judges end in "
        "`/` and its name.",
        "",
        "| metric | what it is |",
        "|---|---|",
    ]
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            row = text.splitlines()[node.lineno - 1]
            comment = row.split("#", 1)[1].strip() if "#" in row else ""
            lines.append(f"| `{node.value.value}` | {comment} |")
    return "\n".join(lines) + "\n"
