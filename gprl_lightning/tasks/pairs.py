"""The preference pairs of a run: a file's, the hub's, or the sandbox's own."""

from __future__ import annotations

from gprl_lightning.config import Config, DataConfig
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import PreferencePair, split_pairs, survey_pairs
from gprl_lightning.sandbox.preference_data import sandbox_pairs


def preference_pairs(config: Config) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Return the (train, held-out) pairs of ``data``, or the sandbox's own, gold-labelled."""
    data = config.data
    if data.path == "sandbox":
        return sandbox_pairs(config)
    train = pairs_of(data, data.path, data.split)
    if data.held_out_path is not None:
        return train, pairs_of(data, data.held_out_path, data.held_out_split)
    return split_pairs(train, data.held_out, config.preference_training.seed)


def pairs_of(data: DataConfig, path: str, split: str) -> list[PreferencePair]:
    """Return the pairs at `path`, and print what reading them found."""
    names = (data.chosen_key, data.rejected_key, data.prompt_key, data.label_key, data.margin_key)
    found = survey_pairs(path, split, PairKeys(*names))
    for note in found.notes():
        print(f"{path}: {note}")
    return found.pairs
