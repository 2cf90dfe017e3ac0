"""Keep the laboratory's runs as small files, or write its page: ``laboratory FOLDER``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import gprl_lightning.config.validation  # noqa: F401  # the schema that conf/ is held against
from gprl_lightning.cli.train import conf_folder
from gprl_lightning.errors import ConfigError
from gprl_lightning.runtime.run_identity import flattened
from gprl_lightning.study.baselines_page import with_measured
from gprl_lightning.study.figures import save
from gprl_lightning.study.laboratory_figure import pictures_of
from gprl_lightning.study.laboratory_page import measured_part
from gprl_lightning.study.laboratory_records import (
    ARM,
    Label,
    Settings,
    keep,
    label_of,
    read,
    require_registered,
    write,
)
from gprl_lightning.study.laboratory_tuning import require_chosen
from gprl_lightning.study.stopping import BETA
from gprl_lightning.tracking.grid_results import SUMMARY_FILE

EXPERIMENT = "experiment=laboratory"
# Changes no number of a run, or repeats what stands elsewhere.
ASIDE = (
    "name", "logger", "paths", "threads", "checkpoint_every", "trainer", "callbacks",
    "preference_model.source",
)  # fmt: skip
SEEDS = ("seed", "preference_training.seed")
# Kept with every run, so that no later change of the experiment goes by unseen.
PINNED = (
    "iterations", "algorithm.kl_coef", "optimizer.lr", "rollout.group_size",
    "data.prompts_per_step", "evaluation.prompts", "preference_training.sandbox_pairs",
    "preference_training.label_noise", "sandbox.gold", "preference_model.num_axes",
)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """Keep runs, or write page and pictures. Return the exit code.

    Raises:
        ConfigError: a run of another configuration than the registered one, or a page without
            the two marks.
    """
    parser = argparse.ArgumentParser(
        prog="python -m gprl_lightning laboratory", description=(__doc__ or "").strip()
    )
    parser.add_argument("source", type=Path, help="the grid's folder, or that of the kept runs")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER",
        help="keep each finished run of the grid as one small JSON here",
    )  # fmt: skip
    parser.add_argument(
        "--page", type=Path,
        help="a Markdown file whose measured part is replaced; its pictures go beside it",
    )  # fmt: skip
    asked = parser.parse_args(arguments)
    if asked.keep is None and asked.page is None:
        parser.error("expected --keep FOLDER, --page FILE, or both")
    try:
        for file in () if asked.keep is None else keep_runs(asked.source, asked.keep):
            print(file)
        if asked.page is not None:
            print(write_page(asked.keep or asked.source, asked.page))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return 0


def keep_runs(grid: Path, folder: Path) -> Iterator[Path]:
    """Keep each finished run of a grid that is not kept yet."""
    kept = read(folder, registered)
    for job in sorted(file.parent for file in grid.glob(f"*/{SUMMARY_FILE}")):
        label = label_of(job)
        if label in [one.label for one in kept]:
            continue
        stored = yaml.safe_load((job / "config.yaml").read_text(encoding="utf8"))
        found, wanted, own = flattened(stored), _composed(label), registered(label)
        # A key that came or went since the run is none of its own, unless the arm sets it.
        shared = {key: value for key, value in wanted.items() if key in found or key in own}
        require_registered(str(job), {k: v for k, v in found.items() if k in shared}, shared)
        new = keep(job, label, own)
        require_chosen(kept, label.arm, new.settings)
        kept.append(new)
        yield write(new, folder)


def write_page(folder: Path, page: Path) -> Path:
    """Write the measured part of the page, with its pictures, from kept runs."""
    kept = read(folder, registered)
    for one in kept:
        require_chosen(kept, one.label.arm, one.settings)
    drawn = pictures_of(kept)
    names = {name: f"{page.stem}_{name}.png" for name in drawn}
    text = with_measured(page.read_text("utf8"), measured_part(kept, names))
    for name, picture in drawn.items():
        save(picture, page.parent / names[name])
    page.write_text(text, encoding="utf8")
    return page


def registered(label: Label) -> Settings:
    """Return what sets a registered run's configuration apart, and what all runs share."""
    base = _without(_base(), SEEDS)
    own = _without(_composed(Label(label.arm, 0, label.beta)), SEEDS)
    return {k: v for k, v in own.items() if k in PINNED or k not in base or base[k] != v}


@lru_cache(maxsize=1)
def _base() -> Settings:
    return _flat(EXPERIMENT)


@lru_cache(maxsize=512)
def _composed(label: Label) -> Settings:
    beta = [] if label.beta is None else [f"{BETA}{label.beta:g}"]
    return _flat(EXPERIMENT, f"{ARM}{label.arm}", f"seed={label.seed}", *beta)


def _flat(*overrides: str) -> Settings:
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        cfg: Any = compose("config", [*overrides])
    return _without(flattened(OmegaConf.to_container(cfg, resolve=True)), ASIDE)


def _without(config: Settings, sections: Sequence[str]) -> Settings:
    return {
        k: v for k, v in config.items() if not any(f"{k}.".startswith(f"{s}.") for s in sections)
    }
