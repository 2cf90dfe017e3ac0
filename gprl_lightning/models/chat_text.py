"""Conversations as the tokens that a preference model reads, in training as in scoring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.options import Values
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.chat_template import ChatTemplate

TextFormat = Literal["gpm", "chat"]
# What stands before an answer whose values do not see the prompt: a turn in which nothing is said.
# Not no turn at all: many templates refuse a conversation that begins with the assistant.
NEUTRAL: Messages = ({"role": "user", "content": ""},)


@dataclass(frozen=True)
class TokenizedText:
    """What the heads read of one conversation.

    Attributes:
        ids: tokens at whose end the values are read.
        prompt_tokens: how many of them come before the answer (of a dialogue: its `first_prompt`).
        gate: tokens at whose end the gate reads; () if it reads at the end of those.
    """

    ids: tuple[int, ...]
    prompt_tokens: int
    gate: tuple[int, ...] = ()


@dataclass(frozen=True)
class TextBatch:
    """Padded texts: those of the rows, then the prompts that a gate reads by themselves.

    Attributes:
        input_ids: tokens, padded on either side.
        mask: True on real tokens.
        prompt_tokens: tokens up to the end of the prompt, which the gate reads; at least 1.
        gate_texts: the text whose prompt that is: the row's own, or one behind all rows.
    """

    input_ids: Int[Tensor, "texts tokens"]
    mask: Bool[Tensor, "texts tokens"]
    prompt_tokens: Int[Tensor, " rows"]
    gate_texts: Int[Tensor, " rows"]

    def to(self, *args: Any, **kwargs: Any) -> TextBatch:
        """Move it to another device, as ``Tensor.to``."""
        fields = (self.input_ids, self.mask, self.prompt_tokens, self.gate_texts)
        return TextBatch(*(field.to(*args, **kwargs) for field in fields))


class ChatText:
    """Turns conversations into tokens.

    ``gpm`` is how the published GPM and BT models were trained (GPM's code): the chat template's
    text, tokenised *with* special tokens (a template that prints BOS gives it twice), cut on the
    right, the last token overwritten with EOS. ``chat`` is how sequence-classification reward
    models are read: the template's text as it is.

    Args:
        tokenizer: with a chat template.
        max_tokens: longer texts are cut on the right.
        text_format: ``gpm`` or ``chat``.
        values: ``conversation``: values and gate read one text, the whole conversation.
            ``answer_only`` (ours): the values read the last message alone, behind an empty user
            turn, and the gate reads all that comes before it.

    Raises:
        ConfigError: a tokenizer without a chat template, or, for ``gpm``, without an EOS token.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_tokens: int = 2048,
        text_format: TextFormat = "gpm",
        values: Values = "conversation",
    ):
        if text_format == "gpm" and tokenizer.eos_token_id is None:
            raise ConfigError(
                "preference_model.path: the tokenizer has no EOS token, which ends every text of a "
                "preference model. Set eos_token in its tokenizer_config.json."
            )
        if max_tokens < 2:
            raise ConfigError(f"preference_model.max_tokens={max_tokens}: expected >= 2.")
        self.tokenizer, self.max_tokens, self.text_format = tokenizer, max_tokens, text_format
        self.values: Values = values
        self.chat = ChatTemplate(tokenizer, "preference_model", text_format == "gpm")
        self.read = self.cut = 0  # conversations so far, and how many were longer than max_tokens
        pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id: int = next(pad for pad in pads if pad is not None)

    def __call__(self, conversations: Sequence[Messages]) -> list[TokenizedText]:
        """Tokens of each conversation, and of the prompt that the gate reads: `first_prompt`, or,
        for values of the answer alone, all before the answer."""
        if self.values == "answer_only":
            return self._apart(conversations)
        heads = {_key(first_prompt(c)): first_prompt(c) for c in conversations}
        lengths = [len(ids) for ids in self._ids([*heads.values()])]
        prompt_tokens = dict(zip(heads, lengths, strict=True))
        return [
            TokenizedText(tuple(ids), max(1, min(prompt_tokens[_key(first_prompt(c))], len(ids))))
            for c, ids in zip(conversations, self._ids(conversations, True), strict=True)
        ]

    def _apart(self, conversations: Sequence[Messages]) -> list[TokenizedText]:
        """Values that do not see the prompt, and a gate that does."""
        prompts = {_key(c[:-1]): c[:-1] for c in conversations}
        gates = {
            key: tuple(ids[: self.max_tokens])
            for key, ids in zip(prompts, self.chat.tokens([*prompts.values()]), strict=True)
        }
        head = len(self.chat.tokens([NEUTRAL])[0])
        answers = self._ids([(*NEUTRAL, c[-1]) for c in conversations], True)
        return [
            TokenizedText(tuple(ids), max(1, min(head, len(ids))), gates[_key(c[:-1])])
            for c, ids in zip(conversations, answers, strict=True)
        ]

    def require_prefix(self, conversation: Messages) -> None:
        """Check that the conversation's text begins with that of its `first_prompt`.

        Raises:
            ConfigError: it does not, so that the gate would read at a place inside a word. Some
                templates move the system prompt to the last user message.
        """
        head, text = self.chat.text(first_prompt(conversation)), self.chat.text(conversation)
        if not text.startswith(head):
            raise ConfigError(
                "preference_model.chat_template: expected a text that begins with the text of its "
                f"first messages, which the gate reads; found another beginning for the roles "
                f"{[m['role'] for m in conversation]}. Set a template that writes every message in "
                "its place, or drop such rows from data.path (or data.system_prompt)."
            )

    def _ids(self, conversations: Sequence[Messages], counted: bool = False) -> list[list[int]]:
        rows = self.chat.tokens(conversations)
        if counted:
            self.read += len(rows)
            self.cut += sum(len(ids) > self.max_tokens for ids in rows)
        rows = [ids[: self.max_tokens] for ids in rows]
        if self.text_format == "gpm":
            rows = [[*ids[:-1], self.tokenizer.eos_token_id] for ids in rows]
        return rows

    def collate(self, rows: Sequence[TokenizedText]) -> TextBatch:
        """Pad on the right to the longest text. A prompt that several gates read is there once."""
        texts, gates = with_gates(rows)
        width = max(len(text.ids) for text in texts)
        ids = torch.full((len(texts), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros((len(texts), width), dtype=torch.bool)
        for i, text in enumerate(texts):
            ids[i, : len(text.ids)] = torch.tensor(text.ids)
            mask[i, : len(text.ids)] = True
        prompt_tokens = torch.tensor([texts[gate].prompt_tokens for gate in gates])
        return TextBatch(ids, mask, prompt_tokens, torch.tensor(gates))


def with_gates(rows: Sequence[TokenizedText]) -> tuple[list[TokenizedText], list[int]]:
    """Return all texts to read, the rows and behind them each different prompt of a gate of its
    own, and for each row the place of the text in which its gate reads."""
    places = {
        gate: len(rows) + i for i, gate in enumerate(dict.fromkeys(r.gate for r in rows if r.gate))
    }
    texts = [*rows, *(TokenizedText(gate, len(gate)) for gate in places)]
    return texts, [places.get(row.gate, i) for i, row in enumerate(rows)]


def first_prompt(conversation: Messages) -> Messages:
    """Return what the gate reads: the first message (GPM's code), with a system message before
    it (ours: the same system message for all prompts would give all the same eigenvalues)."""
    return conversation[: 2 if conversation[0]["role"] == "system" else 1]


def _key(messages: Messages) -> tuple[str, ...]:
    return tuple(part for m in messages for part in (m["role"], m["content"]))
