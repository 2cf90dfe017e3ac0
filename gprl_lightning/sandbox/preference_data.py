"""The sandbox's own pairs: sampled from a configuration's starting policy once, then cached."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from filelock import FileLock

from gprl_lightning.config import Config, DataConfig, PolicyConfig
from gprl_lightning.config.models import Dtype
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import PreferencePair, read_pairs
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.builtin import ASSETS, policy_folder
from gprl_lightning.models.policy import Policy, load_policy
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.sandbox.gold_judge import SandboxGoldJudge
from gprl_lightning.sandbox.golds import gold_of
from gprl_lightning.sandbox.pairs import label_pairs, sample_responses
from gprl_lightning.sandbox.prompts import sandbox_prompts

# What decides a label: the gold's code and its data.
GOLD_CODE = (
    "gold.py", "contextual_gold.py", "ngram.py", "sentences.py", "requests.py", "pairs.py"
)  # fmt: skip
GOLD_DATA = ("gold_scales.json", "related_words.json", "ngram.npz")


def sandbox_pairs(config: Config) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return (train, held-out) pairs of the starting policy's answers to train requests,
    gold-labelled.

    The held-out pairs are about other requests than the train pairs.
    """
    cache = Path(config.paths.cache)
    stem = cache / f"pairs_{pairs_fingerprint(config)}"
    files = [Path(f"{stem}_{part}.jsonl") for part in ("train", "held_out")]
    counts = (config.preference_training.sandbox_pairs, config.preference_training.held_out_pairs)

    def whole() -> bool:  # a file that was cut would train under the fingerprint of the whole one
        return [_rows(file) for file in files] == list(counts)

    if not whole():  # where they are nothing is written: a cache may be read-only
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{stem}.lock"):
            if not whole():
                for file, pairs in zip(files, _make(config), strict=True):
                    _write(file, pairs)
    keys = PairKeys(label="label", margin="margin")
    try:
        train, held_out = (read_pairs(file, keys=keys) for file in files)
    except ConfigError as error:
        raise ConfigError(
            f"paths.cache: expected whole pairs in {stem}_*.jsonl, where they were made before; "
            f"found damaged ones. Delete these files: the same command makes them again. ({error})"
        ) from error
    return train, held_out


def _rows(file: Path) -> int:
    """Lines of a file; 0 if there is none."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def pairs_fingerprint(config: Config) -> str:
    """Return a hash of what the pairs depend on: policy weights, the gold, and the options of
    sampling."""
    policy = Path(policy_folder(config.policy.path, config.paths.cache))
    digest = hashlib.sha256()
    for file in sorted([*policy.glob("*.safetensors"), policy / "tokenizer.json"]):
        digest.update(file.read_bytes())
    for folder, names in ((ASSETS.parent, GOLD_CODE), (ASSETS, GOLD_DATA)):
        for name in names:
            digest.update((folder / name).read_bytes())
    options = config.preference_training
    sampling = [
        options.sandbox_pairs,
        options.sandbox_prompts,
        options.held_out_pairs,
        options.responses_per_prompt,
        options.label_noise,
        options.length_bias,
        options.cyclic_votes,
        options.seed,
        config.sandbox.gold,
        config.rollout.max_new_tokens,
        config.rollout.temperature,
        config.data.system_prompt,
        _dtype(config),
    ]
    digest.update(json.dumps(sampling).encode())
    return digest.hexdigest()[:12]


def _make(config: Config) -> tuple[list[PreferencePair], list[PreferencePair]]:
    options = config.preference_training
    data = DataConfig(path="sandbox", system_prompt=config.data.system_prompt)
    prompts, _ = sandbox_prompts(data)
    per_prompt = options.responses_per_prompt
    sampling = Sampling(per_prompt, config.rollout.max_new_tokens, config.rollout.temperature)
    prompts = prompts[: options.sandbox_prompts]
    asked = [(p.uid, p.messages) for p in prompts]
    responses = sample_responses(starting_policy(config), sampling, asked, options.seed)
    share = options.held_out_pairs / (options.sandbox_pairs + options.held_out_pairs)
    cut = len(prompts) - round(len(prompts) * share)
    messages = [p.messages for p in prompts]
    label = partial(label_pairs, judge=SandboxGoldJudge(gold_of(config)), seed=options.seed)
    worse = partial(label, label_noise=options.label_noise, length_bias=options.length_bias)
    train = worse(messages[:cut], responses[:cut], count=options.sandbox_pairs)
    held_out = label(messages[cut:], responses[cut:], count=options.held_out_pairs)
    tasks = {p.messages[-1]["content"]: str(p.columns["task"]) for p in prompts}
    train, held_out = (
        [replace(pair, subset=tasks[pair.prompt[-1]["content"]]) for pair in part]
        for part in (train, held_out)
    )
    return train, held_out


def _write(file: Path, pairs: list[PreferencePair]) -> None:
    partial_file = file.with_suffix(".partial")
    with partial_file.open("w", encoding="utf8") as lines:
        for pair in pairs:
            lines.write(json.dumps(asdict(pair)) + "\n")
    partial_file.replace(file)


def starting_policy(config: Config) -> Policy:
    """Return the policy as it starts, without adapters, on the GPU where there is one."""
    plain = PolicyConfig(dtype=_dtype(config), attention=config.policy.attention)
    folder = policy_folder(config.policy.path, config.paths.cache)
    policy = load_policy(plain, folder, config.rollout.temperature)
    return policy.cuda() if torch.cuda.is_available() else policy


def _dtype(config: Config) -> Dtype:
    """bfloat16 weights where the run computes in bfloat16: twice as fast, and pairs are only
    sampled."""
    mixed = "bf16" in str(config.trainer.get("precision"))
    return "bfloat16" if mixed else config.policy.dtype
