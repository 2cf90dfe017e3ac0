"""The identity of a run that is about to start, from its parts; see `runtime.run_identity`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.checksum import checksum
from gprl_lightning.models.deferred import weights_of
from gprl_lightning.models.tokenizer_files import tokenizer_fingerprint
from gprl_lightning.modules.parts import Parts
from gprl_lightning.runtime.run_identity import RunIdentity, flattened

PROBE: Messages = ({"role": "user", "content": "?"},)


def run_identity(config: dict[str, Any], parts: Parts, processes: int) -> RunIdentity:
    """Take the identity of a run that is about to start, its policy as it starts.

    It covers what the objective has asked for: pairs and preference source only if they were
    built.
    """
    policy = parts.policy
    data: list[object] = [[(p.uid, p.messages, dict(p.columns)) for p in parts.prompts]]
    if "pairs" in vars(parts):
        data.append([asdict(pair) for part in parts.pairs for pair in part])
    source: dict[str, object] = {}
    if "source" in vars(parts):
        found = parts.source
        source = {**found.identity(), "axes": found.axes, "tau": found.tau}
    # By the template as it is rendered now: what it writes may hang on more than its own text.
    written = policy.chat.text(PROBE, generation=True)
    return RunIdentity(
        config=flattened(config),
        data=_digest(data),
        tokenizer=_digest((tokenizer_fingerprint(policy.tokenizer), policy.eos_ids, written)),
        policy=checksum(weights_of(policy)),
        preference_model=_digest(source),
        processes=processes,
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:16]
