"""What every task writes into its run folder before it begins and when it has ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf

from gprl_lightning.config import Config, EvaluationConfig
from gprl_lightning.config.judging import quoted_judge
from gprl_lightning.tracking.grid_results import SUMMARY_FILE
from gprl_lightning.tracking.provenance import provenance, write_json


def begin(cfg: DictConfig, folder: Path) -> None:
    """Save what the run is made of, once nothing can refuse it any more.

    From here on, and not before, the folder is this run's: the summary of an earlier one is gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY_FILE).unlink(missing_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    write_json(folder / "provenance.json", provenance())


def cautions_of(folder: Path) -> list[str]:
    """Return what ``summary.json`` says against the set-up of a run; empty while it goes on."""
    file = folder / SUMMARY_FILE
    return json.loads(file.read_text(encoding="utf8")).get("cautions", []) if file.exists() else []


def judge_of(folder: Path) -> str:
    """Return the judge of a run's held-out win rate by its name; empty if the run does not say."""
    file = folder / "config.yaml"
    if not file.exists():
        return ""
    stored = (yaml.safe_load(file.read_text(encoding="utf8")) or {}).get("evaluation") or {}
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
