"""Conversations to text and tokens by a tokenizer's chat template: strict and repeatable. Ours.

One renderer for policies and preference models. As transformers renders, but for four things. What
the template prints must be defined: a mistyped key is an error and not an empty text. Its clock
stands still and its dice are gone: the same conversation is the same text on every day and in every
resume. Special tokens that are spelt in a message are read as the letters that they are written in:
``<eos>`` in an answer must not end it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateRuntimeError, Undefined

from gprl_lightning.core.batch import Messages
from gprl_lightning.errors import ConfigError

NOW = datetime(2024, 7, 26)  # the date that Llama 3's template falls back to
GUARD = "\ufdd0"  # a noncharacter, put into a special token that a message spells
# Names that a tokenizer may lack, and that templates then print as nothing.
SPECIAL_NAMES = {f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}


class _Printed(Undefined):
    """A value that is not there: false in a condition, an error where it is printed or read."""

    def _refuse(self) -> NoReturn:
        self._fail_with_undefined_error()

    def __str__(self) -> str:
        return "" if self._undefined_name in SPECIAL_NAMES else self._refuse()

    def __iter__(self) -> Any:
        return self._refuse()

    def __len__(self) -> int:
        return self._refuse()


@lru_cache(maxsize=16)
def _compiled(template: str) -> Template:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    environment = _compile_jinja_template(template).environment.overlay(undefined=_Printed)
    environment.filters = {**environment.filters, "random": _no_dice}
    environment.globals = {
        **environment.globals,
        "strftime_now": NOW.strftime,
        "lipsum": _no_dice,
    }
    return environment.from_string(template)


def _no_dice(*_: Any, **__: Any) -> NoReturn:
    raise TemplateRuntimeError("it draws at random, so that no run could be resumed")


class ChatTemplate:
    """A tokenizer with its chat template.

    Args:
        tokenizer: a Hugging Face tokenizer.
        section: ``policy`` or ``preference_model``, for messages.
        special_tokens: let the tokenizer add its special tokens around the text.

    Raises:
        ConfigError: there is no template, or it is no Jinja.
    """

    def __init__(self, tokenizer: Any, section: str, special_tokens: bool = False):
        if tokenizer.chat_template is None:
            raise ConfigError(
                f"{section}.chat_template=null: the tokenizer of {section}.path has no chat "
                f"template. Expected a Jinja file in {section}.chat_template that writes a "
                "conversation as text, or an instruction-tuned model."
            )
        self.tokenizer, self.section, self.special_tokens = tokenizer, section, special_tokens
        try:
            _compiled(tokenizer.get_chat_template())
        except (
            Exception
        ) as error:  # Jinja's own, Python's for what it is compiled to, the tokenizer's
            raise ConfigError(
                f"{section}.chat_template: expected a Jinja template; found: "
                f"{' '.join(str(error).split())[:200]} (line {getattr(error, 'lineno', '?')}). "
                "Correct the file, or set another."
            ) from error
        names = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
        names |= set(tokenizer.all_special_tokens)
        ordered = sorted(filter(None, names), key=len, reverse=True)  # one that is "" is none
        self.special = re.compile(
            "(" + "|".join(map(re.escape, ordered)) + ")" if ordered else "$^"
        )
        self.around = self._around() if special_tokens else ([], [])

    def __deepcopy__(self, memo: dict[int, Any]) -> ChatTemplate:
        return self  # it has no state

    def text(self, messages: Messages, generation: bool = False) -> str:
        """Write a conversation, and, for ``generation``, what stands before the next answer.

        Raises:
            ConfigError: the template refuses these roles, as some do a system prompt, or prints
                what is not defined.
        """
        return self._render(messages, generation).replace(GUARD, "")

    def tokens(
        self, conversations: Sequence[Messages], generation: bool = False
    ) -> list[list[int]]:
        """Return the tokens of each conversation. Raises as `text`."""
        texts = [self._render(messages, generation) for messages in conversations]
        plain = [text for text in texts if GUARD not in text]
        options = {"add_special_tokens": self.special_tokens, "verbose": False}
        rows = iter(self.tokenizer(plain, **options)["input_ids"] if plain else [])
        return [self._split(text) if GUARD in text else next(rows) for text in texts]

    def _render(self, messages: Messages, generation: bool) -> str:
        rows = [{"role": m["role"], "content": self._guarded(m["content"])} for m in messages]
        try:
            return _compiled(self.tokenizer.get_chat_template()).render(
                messages=rows,
                tools=None,
                documents=None,
                add_generation_prompt=generation,
                **self.tokenizer.special_tokens_map,
            )
        except Exception as error:  # an expression may raise whatever Python's may
            whose = "policy's" if self.section == "policy" else "preference model's"
            raise ConfigError(
                f"data.system_prompt or data.path: the {whose} chat template refuses a prompt of "
                f"the roles {[m['role'] for m in messages]}: {' '.join(str(error).split())[:200]}. "
                f"Drop such rows, or set another {self.section}.chat_template."
            ) from error

    def _guarded(self, content: str) -> str:
        while self.special.search(content):
            content = self.special.sub(lambda m: m[0][0] + GUARD + m[0][1:], content)
            if any(len(found) == 1 for found in self.special.findall(content)):
                break  # a special token of one character has no inside
        return content

    def _split(self, text: str) -> list[int]:
        """Tokens of a text in which some special tokens are guarded: those are letters.

        The text is cut at the true special tokens, as tokenizers do themselves; a piece with
        guards in it is read by itself, with special tokens split, and all else as it stands.
        """
        front, back = self.around
        ids, span = [*front], ""
        for piece in [*self.special.split(text), GUARD]:
            if GUARD not in piece:
                span += piece
                continue
            ids += self._ids(span, False) + self._ids(piece.replace(GUARD, ""), True)
            span = ""
        return [*ids, *back]

    def _ids(self, text: str, split: bool) -> list[int]:
        if not text:
            return []
        options = {"add_special_tokens": False, "split_special_tokens": split, "verbose": False}
        return self.tokenizer(text, **options)["input_ids"]

    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text."""
        inner = self._ids("a", False)
        whole = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        places = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
        start = places[0] if places else 0
        return whole[:start], whole[start + len(inner) :]
