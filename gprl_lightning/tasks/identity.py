"""The identity of a run that is about to start, from its parts; see `runtime.run_identity`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from gprl_lightning.core.batch import Prompt
from gprl_lightning.core.checksum import checksum
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.models.tokenizer_files import tokenizer_fingerprint
from gprl_lightning.runtime.run_identity import RunIdentity, flattened


def run_identity(
    config: dict[str, Any],
    prompts: Sequence[Prompt],
    policy: Policy,
    source: PreferenceSource,
    processes: int,
) -> RunIdentity:
    """Take the identity of a run that is about to start, its policy as it starts."""
    return RunIdentity(
        config=flattened(config),
        data=_digest([(p.uid, p.messages, dict(p.columns)) for p in prompts]),
        tokenizer=_digest((tokenizer_fingerprint(policy.tokenizer), policy.eos_ids)),
        policy=checksum(policy.named_parameters()),
        preference_model=_digest({**source.identity(), "axes": source.axes, "tau": source.tau}),
        processes=processes,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
