"""Prompts that are too long are found before the run, not in the iteration that draws them."""

from __future__ import annotations

from collections.abc import Sequence

from gprl_lightning.core.batch import Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.policy_tokens import text_tokens

SEEN = 2  # times the room: what is counted of a text that is far longer
LETTERS = 32  # characters of a token, at most in earnest


def require_room(
    prompts: Sequence[Prompt], policy: Policy, max_prompt_tokens: int, max_new_tokens: int
) -> None:
    """Check that every prompt fits ``max_prompt_tokens``, and with its response the policy's
    context.

    Raises:
        ConfigError: one does not; none is ever cut.
    """
    context = getattr(policy.causal_lm.config.get_text_config(), "max_position_embeddings", None)
    room = max_prompt_tokens
    if context is not None:
        room = min(room, context - max_new_tokens)
    if room < 1:
        raise ConfigError(
            f"rollout.max_new_tokens={max_new_tokens}: expected less than the policy's context of "
            f"{context} tokens. Lower rollout.max_new_tokens, or choose another policy.path."
        )
    lengths = {p.uid: _tokens(policy, p, room) for p in prompts}
    long = [uid for uid, length in lengths.items() if length > room]
    if not long:
        return
    worst = max(long, key=lambda uid: lengths[uid])
    found = f"found {len(long)} longer ones; the longest, prompt {worst}, has {lengths[worst]:,}"
    if lengths[worst] > SEEN * room:
        found += " or more"
    if room < max_prompt_tokens:
        raise ConfigError(
            f"rollout.max_new_tokens={max_new_tokens}: expected prompts of at most {room} tokens, "
            f"what it leaves of the policy's context of {context}; {found}. Lower it, or drop such "
            "prompts from data.path: none is cut silently."
        )
    raise ConfigError(
        f"data.max_prompt_tokens={max_prompt_tokens}: expected prompts of at most that many; "
        f"{found}. Raise it, or drop such prompts from data.path: none is cut silently."
    )


def _tokens(policy: Policy, prompt: Prompt, enough: int) -> int:
    """A prompt's tokens; 0 where it cannot have more than `enough`: a token is a byte at least.

    Of a text that is far too long the beginning is counted: megabytes would take minutes.
    """
    if len(policy.chat.text(prompt.messages, generation=True).encode()) <= enough:
        return 0
    for message in prompt.messages:
        if len(message["content"]) > LETTERS * SEEN * enough:
            beginning = message["content"][: LETTERS * SEEN * enough]
            count = len(text_tokens(policy.tokenizer, beginning))
            if count > SEEN * enough:
                return count
    return len(policy.chat.tokens([prompt.messages], generation=True)[0])
