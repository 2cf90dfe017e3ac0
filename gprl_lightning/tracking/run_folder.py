"""What every task writes into its run folder before it begins and when it has ended."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from transformers.utils.logging import disable_progress_bar

from gprl_lightning.config import Config, EvaluationConfig
from gprl_lightning.config.judging import quoted_judge
from gprl_lightning.runtime.malloc import keep_freed_blocks
from gprl_lightning.tracking.grid_results import SUMMARY_FILE
from gprl_lightning.tracking.provenance import provenance, write_json


def prepare(config: Config) -> None:
    """Seed, choose threads and what malloc keeps, and leave the console to us."""
    quiet()
    if config.keep_freed_memory:
        keep_freed_blocks()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, verbose=False)


def begin(cfg: DictConfig, folder: Path) -> None:
    """Save what the run is made of, once nothing can refuse it any more.

    From here on, and not before, the folder is this run's: the summary of an earlier one is gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    write_json(folder / "provenance.json", provenance())


def quiet() -> None:
    """Leave the console to the run's own progress and table: libraries speak up from a warning
    on."""
    disable_progress_bar()
    # The hub's client names some of its loggers after their files, and so not under its own name.
    of_the_hub = [name for name in logging.root.manager.loggerDict if "huggingface_hub" in name]
    for name in ("lightning.pytorch", "lightning.fabric", "httpx", "huggingface_hub", *of_the_hub):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ours, on purpose: frozen models are in eval, and prompts come from an iterable of our own.
    for message in (".*in eval mode at the start of training.*", ".*does not have many workers.*"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")


def cautions_of(folder: Path) -> list[str]:
    """Return what ``summary.json`` says against the set-up of a run; empty while it goes on."""
    file = folder / SUMMARY_FILE
    return json.loads(file.read_text(encoding="utf8")).get("cautions", []) if file.exists() else []


def judge_of(folder: Path) -> str:
    """Return the judge of a run's held-out win rate by its name; empty if the run does not say."""
    file = folder / "config.yaml"
    if not file.exists():
        return ""
    stored = OmegaConf.select(OmegaConf.load(file), "evaluation", default={})
    merged = OmegaConf.merge(OmegaConf.structured(EvaluationConfig), stored)
    return quoted_judge(cast("EvaluationConfig", OmegaConf.to_object(merged)))


def write_summary(
    config: Config,
    folder: Path,
    final: dict[str, float],
    paths: dict[str, Path],
    cautions: Sequence[str] = (),
) -> None:
    """Write ``summary.json``: what a grid's table reads, what made the run, its cautions."""
    summary = {
        "name": config.name,
        "seed": config.seed,
        "final": final,
        "paths": {name: str(path) for name, path in paths.items()},
        "cautions": list(cautions),
        **provenance(),
    }
    write_json(folder / SUMMARY_FILE, summary)
