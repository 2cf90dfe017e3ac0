"""The preference pairs of a run: a file's, the hub's, or the sandbox's own."""

from __future__ import annotations

import json

from gprl_lightning.config import Config, DataConfig
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import PreferencePair, split_pairs, survey_pairs
from gprl_lightning.errors import ConfigError
from gprl_lightning.sandbox.preference_data import sandbox_pairs


def preference_pairs(config: Config) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return the (train, held-out) pairs of ``data``, or the sandbox's own, gold-labelled; of the
    former the first ``data.max_rows``.

    A training pair that is in ``data.held_out_path``, too, is left out, and a line says so.
    """
    train, held_out = _all_pairs(config)
    return train[: config.data.max_rows], held_out


def _all_pairs(config: Config) -> tuple[list[PreferencePair], list[PreferencePair]]:
    data = config.data
    if data.path == "sandbox":
        return sandbox_pairs(config)
    train = pairs_of(data, data.path, data.split, "data.path")
    if data.held_out_path is None:
        return split_pairs(train, data.held_out, config.preference_training.seed)
    held_out = pairs_of(data, data.held_out_path, data.held_out_split, "data.held_out_path")
    known = {_said(pair) for pair in held_out}
    kept = [pair for pair in train if _said(pair) not in known]
    if not kept:
        raise ConfigError(
            f"data.held_out_path={data.held_out_path!r}: expected other pairs than those of "
            f"data.path; found all {len(train)} of them. Give another file, or leave the key out."
        )
    if len(kept) < len(train):
        print(f"{data.path}: {len(train) - len(kept)} pairs left out: they are held out, too")
    return kept, held_out


def _said(pair: PreferencePair) -> str:
    return json.dumps([pair.prompt, sorted(pair.answers)])


def pairs_of(
    data: DataConfig, path: str, split: str, setting: str = "data.path"
) -> list[PreferencePair]:
    """Return the pairs at `path`, the value of `setting`, and print what reading them found."""
    keys = PairKeys(
        chosen=data.chosen_key,
        rejected=data.rejected_key,
        prompt=data.prompt_key,
        label=data.label_key,
        margin=data.margin_key,
        subset=data.subset_key,
        rating=data.rating_key,
    )
    found = survey_pairs(path, split, keys, setting)
    for note in found.notes():
        print(f"{path}: {note}")
    return found.pairs
