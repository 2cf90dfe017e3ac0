"""The style of an answer as Arena-Hard counts it: tokens, headers, list items, bold text."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

CODE = re.compile("```([^`]*)```")
ENCODING = "o200k_base"  # of gpt-4o, by which the authors count
CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Style:
    """Counts of one answer, code blocks left out (but not from the tokens)."""

    tokens: int
    headers: tuple[int, ...]  # of levels 1 to 6
    lists: tuple[int, int]  # ordered, unordered
    bold: tuple[int, int]  # by asterisks, by underscores

    @property
    def marks(self) -> tuple[int, int, int]:
        """The sums: headers, list items, bold texts."""
        return sum(self.headers), sum(self.lists), sum(self.bold)

    def metadata(self) -> dict[str, Any]:
        """Return the counts as the authors' files hold them."""
        return {
            "token_len": self.tokens,
            "header_count": {f"h{i}": n for i, n in enumerate(self.headers, 1)},
            "list_count": dict(zip(("ordered", "unordered"), self.lists, strict=True)),
            "bold_count": dict(zip(("**", "__"), self.bold, strict=True)),
        }


def style_of(text: str, count: CountTokens) -> Style:
    """Return the style of an answer."""
    plain = text
    for block in CODE.findall(text):
        plain = plain.replace(block, "")

    def found(pattern: str) -> int:
        return len(re.findall(pattern, plain, re.MULTILINE))

    return Style(
        tokens=count(text),
        headers=tuple(found(rf"^#{{{level}}}\s") for level in range(1, 7)),
        lists=(found(r"^\s*\d+\.\s"), found(r"^\s*[-*+]\s")),
        bold=(found(r"\*\*[^*\n]+\*\*"), found(r"__[^_\n]+__")),
    )


@cache
def token_counter() -> tuple[CountTokens | None, str | None]:
    """Return the authors' token counter, or None and a sentence that says why there is none.

    Another tokenizer's lengths would give another number under the same name.
    """
    try:
        encoding = importlib.import_module("tiktoken").get_encoding(ENCODING)
    except ImportError:
        why = "it needs the tiktoken package: pip install 'gprl-lightning[benchmarks]'."
    except Exception as error:  # its vocabulary is downloaded on first use
        why = f"tiktoken cannot load {ENCODING} ({type(error).__name__})."
    else:
        return lambda text: len(encoding.encode(text, disallowed_special=())), None
    return None, f"No style control: {why}"
