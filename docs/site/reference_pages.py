"""The reference pages: every key with type, default, range and comment, every option, every metric.

Read from the schemas and their source: a field's type carries its range, its comment stands behind
it or on the lines above it.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from gprl_lightning import config
from gprl_lightning.config.section import NAMES, expected

CONFIG = "gprl_lightning/config"
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
    found = {}
    for file in sorted((root / CONFIG).glob("*.py")):
        text = file.read_text(encoding="utf8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
                doc = ast.get_docstring(node) or ""
                hints = hints_of(getattr(config, node.name))
                found[node.name] = doc, list(keys_of(node, text.splitlines(), hints))
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


def keys_of(node: ast.ClassDef, lines: list[str], hints: dict[str, Any]) -> Iterator[Key]:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            name = field.target.id
            yield Key(
                name=name,
                type=kind_of(hints[name]),
                default=default_of(field.value),
                range=range_of(hints[name]),
                comment=comment_of(field, lines),
            )


def hints_of(schema: Any) -> dict[str, Any]:
    """Return the types of a schema's fields, with their ranges."""
    return {name: f.rebuild_annotation() for name, f in schema.__pydantic_fields__.items()}


def kind_of(hint: Any) -> str:
    """Return a type without its range: ``int | None``, ``str``, ``list[float | str]``."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return kind_of(parts[0])
    if kind is Literal:
        return type(parts[0]).__name__
    if kind in (Union, types.UnionType):
        return " | ".join(dict.fromkeys("None" if p is type(None) else kind_of(p) for p in parts))
    if parts:
        return f"{kind.__name__}[{', '.join(map(kind_of, parts))}]"
    return getattr(hint, "__name__", str(hint))


def range_of(hint: Any) -> str:
    """Return what a type allows of its kind, in words; empty if it allows all."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return ", ".join(f"`{word}`" for word in parts)
    if kind is Annotated and not any(map(range_of, parts[:1])):
        text = expected(hint)
        return "" if text in NAMES.values() else text
    if kind in (Annotated, Union, types.UnionType, list):
        return ", or ".join(filter(None, map(range_of, parts)))
    return ""


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
