"""The identity of a run that is about to start, from its parts; see `runtime.run_identity`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.checksum import checksum
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.runtime.run_identity import RunIdentity, flattened


def run_identity(
    config: dict[str, Any],
    prompts: Sequence[Prompt],
    policy: Policy,
    preference_model: PreferenceModel,
    processes: int,
) -> RunIdentity:
    """Take the identity of a run that is about to start, its policy as it starts."""
    judge = preference_model
    gate = (judge.eigenvalue_scale, judge.gate_temperature)
    options = (judge.kind, judge.tau, gate, judge.l2_normalize, judge.l2_scope)
    text = (judge.text.max_tokens, judge.text.text_format, _tokenizer(judge.tokenizer))
    return RunIdentity(
        config=flattened(config),
        data=_digest([(p.uid, p.messages) for p in prompts]),
        tokenizer=_digest((_tokenizer(policy.tokenizer), policy.eos_ids)),
        policy=checksum(policy.named_parameters()),
        preference_model=_digest((checksum(judge.named_parameters()), options, text)),
        processes=processes,
    )


def _tokenizer(tokenizer: Any) -> str:
    """Vocabulary, template, and how it splits a text: merges are not in the vocabulary."""
    probe = tokenizer("The quick brown fox, 1234 jumps: über\n\tlazy dogs?").input_ids
    vocabulary = sorted(tokenizer.get_vocab().items())
    return _digest((vocabulary, tokenizer.chat_template, tokenizer.eos_token_id, probe))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
