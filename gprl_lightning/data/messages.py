"""Chat messages of a data row: what they may be, and what is refused. Ours.

The roles are those that every chat template knows: a system prompt, if there is one, comes first;
user and assistant follow. Templates that meet another order leave messages out or move them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gprl_lightning.core.batch import Messages
from gprl_lightning.data.rows import shown
from gprl_lightning.errors import ConfigError

ROLES = ("system", "user", "assistant")
# Characters of a text: above the context of every model, below what takes minutes to tokenise.
LONGEST_TEXT = 1 << 22


def checked_messages(value: Any, where: str, name: str, fix: str) -> Messages:
    """Return a list of messages, each as role and content alone.

    Args:
        value: what the row has.
        where: the row's place, for messages.
        name: of the column.
        fix: what to do about it.

    Raises:
        ConfigError: no list of messages; another role; a system prompt that is not the first
            message; a content that is no text, or that no text can hold.
    """

    def refuse(expected: str, found: Any) -> NoReturn:
        raise ConfigError(f"{where}: {name!r} must be {expected}; found {found}. {fix}")

    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        refuse("a text, or a list of messages", shown(value))
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            refuse("a text, or messages with 'role' and 'content'", shown(message))
        role, content = message["role"], message["content"]
        if role not in ROLES:
            refuse(
                f"messages of the roles {', '.join(ROLES)}", f"{shown(role)} in message {number}"
            )
        if role == "system" and number > 1:
            refuse("messages with the system prompt first", f"one as message {number}")
        if not isinstance(content, str):
            refuse("messages with a text as 'content'", shown(content))
        if problem := text_problem(content):
            refuse("messages that a model can read", f"{problem} in message {number}")
    return tuple({"role": m["role"], "content": m["content"]} for m in value)


def text_problem(text: str) -> str:
    """Return what makes a text unreadable; empty if nothing does."""
    if len(text) > LONGEST_TEXT:
        return f"{len(text):,} characters (at most {LONGEST_TEXT:,})"
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode("utf8")
    except UnicodeEncodeError as error:
        return f"half a character, {text[error.start]!a}"
    return ""


def has_blank_turn(messages: Messages) -> bool:
    """Return whether a message of the user, or the system's, has no word."""
    return any(not m["content"].strip() for m in messages if m["role"] != "assistant")
