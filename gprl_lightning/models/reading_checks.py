"""Whether policy and judge read what they ought to, tried on the run's prompts at load. Ours.

A template that drops the answer, or a head of zeros, makes every comparison a tie, and a run on it
learns nothing without a word. One prompt of each sequence of roles is tried, and every length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch

from gprl_lightning.core.batch import Messages, Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.deferred import when_filled
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel, answered
from gprl_lightning.models.preference_source import PreferenceSource

ANSWERS = ("zqx is one answer", "another answer is qzy")
SPECIAL = 8  # tokens that a tokenizer may put around a text
OTHER = "quite another question: qxz"


def require_readable(
    policy: Policy, judge: PreferenceSource | None, prompts: Sequence[Prompt]
) -> None:
    """Check templates and judge on the prompts; a judge that has no template (or None) passes.

    Raises:
        ConfigError: a template refuses some of them, drops the prompt or the answer, or ignores
            ``add_generation_prompt``; the judge has no room for an answer, or gives two different
            answers the same vector.
    """
    examples = _by_roles(prompts)
    for messages in examples.values():
        _require_prompt(policy, messages)
    if not isinstance(judge, PreferenceModel):
        return
    for messages in examples.values():
        _require_answer(judge, messages)
    _require_room(judge, prompts)
    when_filled([judge], partial(_require_difference, judge, next(iter(examples.values()))))


def _by_roles(prompts: Iterable[Prompt]) -> dict[tuple[str, ...], Messages]:
    """The first prompt of each sequence of roles: what a template goes by."""
    found: dict[tuple[str, ...], Messages] = {}
    for prompt in prompts:
        found.setdefault(tuple(m["role"] for m in prompt.messages), prompt.messages)
    return found


def _require_prompt(policy: Policy, messages: Messages) -> None:
    chat = policy.chat
    written = chat.text(messages, generation=True)
    other = chat.text((*messages[:-1], {"role": "user", "content": OTHER}), generation=True)
    if not written.strip() or written == other:
        raise ConfigError(
            "policy.chat_template: expected a text with the user's message in it; found the same "
            f"text, {written[:60]!r}, for two different ones. Correct the template."
        )
    head, _, _ = chat.text(answered(messages, ANSWERS[0])).partition(ANSWERS[0])
    ignores = written == chat.text(messages)
    if ignores and head.startswith(written) and head[len(written) :].strip():
        raise ConfigError(
            "policy.chat_template: expected add_generation_prompt to write what stands before an "
            f"answer, {head[len(written) :]!r}; found that it writes nothing, so that the policy "
            "would go on as the user. Add it to the template."
        )


def _require_answer(judge: PreferenceModel, messages: Messages) -> None:
    text = judge.text
    first, second = (text.chat.text(answered(messages, answer)) for answer in ANSWERS)
    if first == second:
        raise ConfigError(
            "preference_model.chat_template: expected two different answers to give two texts; "
            f"found {first[:60]!r} for both. Every comparison would be a tie: correct the template."
        )
    asked: Messages = (*messages[:-1], {"role": "user", "content": OTHER})
    if first == text.chat.text(answered(asked, ANSWERS[0])):
        raise ConfigError(
            "preference_model.chat_template: expected the prompt in the text; found the same text "
            "for two different prompts. Correct the template."
        )
    if text.values == "answer_only":
        text([answered(messages, ANSWERS[0])])  # the template takes the answer by itself
    elif judge.prompt_head is not None:
        text.require_prefix(answered(messages, ANSWERS[0]))


def _require_room(judge: PreferenceModel, prompts: Sequence[Prompt]) -> None:
    """A text is cut on the right: a prompt that fills it leaves nothing of the answers."""
    room, chat = judge.text.max_tokens, judge.text.chat
    if judge.text.values == "answer_only":
        return  # the prompt takes none of the answer's room
    overhead: dict[tuple[str, ...], int] = {}
    long: dict[int, int] = {}
    for prompt in prompts:
        roles = tuple(m["role"] for m in prompt.messages)
        letters = sum(len(m["content"].encode()) for m in prompt.messages)
        if roles not in overhead:  # what the template adds; a token is a byte at least
            written = chat.text(answered(prompt.messages, ""))
            overhead[roles] = max(0, len(written.encode()) - letters) + SPECIAL
        if letters + overhead[roles] < room:
            continue
        tokens = len(chat.tokens([answered(prompt.messages, "")])[0])
        if tokens + 1 >= room:
            long[prompt.uid] = tokens
    if long:
        worst = max(long, key=lambda uid: long[uid])
        raise ConfigError(
            f"preference_model.max_tokens={room}: expected room for an answer behind every prompt; "
            f"found {len(long)} prompts without, the longest, prompt {worst}, of {long[worst]} "
            "tokens of the preference model. All answers to it would be equal. Raise it, or drop "
            "such prompts from data.path."
        )


@torch.no_grad()
def _require_difference(judge: PreferenceModel, messages: Messages) -> None:
    # To a small vocabulary both answers may be unknown words: the prompt's own are not.
    asked = messages[-1]["content"]
    answers = (*ANSWERS, asked, " ".join(reversed(asked.split())))
    vectors, _ = judge.embed_conversations([answered(messages, a) for a in answers])
    if all(torch.equal(vectors[0], other) for other in vectors[1:]):
        raise ConfigError(
            "preference_model.path: expected different vectors for different answers; found the "
            "same for two. Its head is of zeros, or it does not read the answer: use another."
        )
