"""The pool of the detector study: made once for a configuration, then cached."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from gprl_lightning.config import Config
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.sandbox.golds import gold_of
from gprl_lightning.sandbox.pairs import sample_responses
from gprl_lightning.sandbox.preference_data import starting_policy
from gprl_lightning.study import planting
from gprl_lightning.study.planting import PLANTS
from gprl_lightning.study.pool import Measured, Pool, Version, make_pool, with_own_worse
from gprl_lightning.tasks.build import build_preference_model, build_prompts
from gprl_lightning.tasks.sandbox_preference_model import fingerprint

POOL_SEED = 99  # keeps this sampling apart from that of pairs, whose seeds are small


def study_pool(config: Config) -> Pool:
    """Return the pool of ``detectors``, from the cache or made now."""
    stem = Path(config.paths.cache) / f"detector_pool_{_fingerprint(config)}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    file = stem.with_suffix(".pt")
    with FileLock(f"{stem}.lock"):
        if not file.exists():
            partial = stem.with_suffix(".partial")
            torch.save(_plain(_made(config)), partial)
            partial.replace(file)
    return with_own_worse(_pool(torch.load(file, weights_only=True)), config.detectors.strengths)


def _made(config: Config) -> Pool:
    options, judge = config.detectors, build_preference_model(config)
    policy = starting_policy(config)
    prompts, _ = build_prompts(config)
    # The last train requests: of these a preference model has seen the fewest pairs.
    asked = [(p.uid, p.messages) for p in prompts[-options.prompts :]]
    size, longest = options.responses + 1, config.rollout.max_new_tokens
    sampling = Sampling(size, longest, config.rollout.temperature)
    responses = sample_responses(policy, sampling, asked, config.seed + POOL_SEED)
    versions = [
        Version(plant.__name__, strength) for plant in PLANTS for strength in options.strengths
    ]
    messages = [m for _, m in asked]
    return make_pool(policy, judge, gold_of(config), messages, responses, versions, longest)


def _fingerprint(config: Config) -> str:
    """A hash of what the pool depends on: the preference model, the plants, the sizes."""
    plants = Path(planting.__file__).read_text(encoding="utf8")
    options = config.detectors
    sizes = [options.prompts, options.responses, options.strengths, config.seed]
    parts = [config.preference_model.path, fingerprint(config), plants, sizes]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _plain(pool: Pool) -> dict[str, Any]:
    """Tensors and names only, which can be loaded without trust."""
    versions = {
        f"{version.name} {version.strength}": astuple(measured)
        for version, measured in pool.exploited.items()
    }
    parts = (pool.eigenvalues, pool.anchors, astuple(pool.clean))
    return {"pool": parts, "versions": versions}


def _pool(stored: dict[str, Any]) -> Pool:
    def version(text: str) -> Version:
        name, strength = text.split()
        return Version(name, int(strength))

    eigenvalues, anchors, clean = stored["pool"]
    exploited = {version(name): Measured(*parts) for name, parts in stored["versions"].items()}
    return Pool(eigenvalues, anchors, Measured(*clean), exploited)
