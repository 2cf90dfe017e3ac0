"""Whether tokenizer, chat template and end-of-sequence tokens belong to the model beside them."""

from __future__ import annotations

from typing import Any

from gprl_lightning.core.batch import Messages
from gprl_lightning.errors import ConfigError, NotText, TokenizerMismatch
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.preference_source import PreferenceSource

MARK = "zqx"  # an answer that no template writes by itself


def require_policy_tokens(policy: Policy) -> None:
    """Check that every token that can be fed or must end a response is one that the model knows.

    Raises:
        TokenizerMismatch: ids beyond the embedding, or a chat template whose turns end with a token
            that does not end a response.
    """
    embedding = policy.causal_lm.get_input_embeddings()
    rows = int(embedding.weight.shape[0])  # type: ignore[union-attr]
    _require_ids("policy.path", _highest_id(policy.tokenizer), rows)
    for name, ids in (("EOS", policy.eos_ids), ("pad", (policy.pad_id,))):
        if not all(0 <= token < rows for token in ids):
            raise TokenizerMismatch(
                f"policy.path: expected {name} ids below {rows}, the rows of the embedding; found "
                f"{list(ids)}. Correct its generation_config.json and tokenizer_config.json."
            )
    ends = _turn_ends(policy)
    if ends and not set(ends) & set(policy.eos_ids):
        raise TokenizerMismatch(
            "policy.path: expected the token with which the chat template ends the assistant's "
            f"turn among the EOS ids {list(policy.eos_ids)}; found {ends}, so that no response "
            "could end. Add it to eos_token_id in generation_config.json, or set another "
            "policy.chat_template."
        )


def require_judge_text(source: PreferenceSource, policy: Policy) -> None:
    """Check that a network reads responses by a tokenizer of its own; other sources read text.

    Raises:
        NotText: it has the policy's tokenizer object.
        TokenizerMismatch: its tokenizer knows ids that its backbone does not.
    """
    if not isinstance(source, PreferenceModel):
        return
    if source.tokenizer is policy.tokenizer:
        raise NotText(
            "preference_model.path: expected a tokenizer of its own; found the policy's, whose "
            "tokens another model reads as another text. Load it with load_preference_model."
        )
    embedding = source.backbone.get_input_embeddings()
    highest = _highest_id(source.tokenizer)
    _require_ids("preference_model.path", highest, int(embedding.weight.shape[0]))


def _highest_id(tokenizer: Any) -> int:
    return max(tokenizer.get_vocab().values())


def _require_ids(key: str, highest: int, rows: int) -> None:
    if highest >= rows:
        raise TokenizerMismatch(
            f"{key}: expected token ids below {rows}, the rows of the model's embedding; found a "
            f"tokenizer with ids up to {highest}. Use the tokenizer files that belong to the model."
        )


def _turn_ends(policy: Policy) -> list[int]:
    """The special tokens that the chat template writes behind an assistant's answer."""
    turns: Messages = (
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": MARK},
    )
    tokenizer: Any = policy.tokenizer
    try:
        text = policy.chat.text(turns)
    except ConfigError:
        return []  # a template of some other kind of conversation; encoding the prompts will tell
    tail = text.rpartition(MARK)[2]
    special = set(tokenizer.all_special_ids)
    special |= {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [i for i in tokenizer(tail, add_special_tokens=False).input_ids if i in special]
