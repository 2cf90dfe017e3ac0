"""A grid's folder with known answers: curves that are planted, and what a real run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import MetricsCSV

ITERATIONS = range(0, 41, 10)


def write_run(
    folder: Path,
    arm: str,
    seed: int,
    gold: list[float],
    kl: list[float],
    monitored: bool = False,
    finished: bool = True,
    key: str = "ablation",
) -> Path:
    """One job with these curves at iterations 0, 10, …, 40."""
    job = folder / f"{key}={arm},seed={seed}"
    (job / ".hydra").mkdir(parents=True)
    overrides = [f"seed={seed}", f"{key}={arm}", "grid=paper_table"]
    (job / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    log = MetricsCSV(job)
    for place, iteration in enumerate(ITERATIONS):
        row = {
            metrics.EVAL_WIN_RATE: gold[place],
            metrics.EVAL_WIN_RATE_LOW: gold[place] - 0.07,
            metrics.EVAL_WIN_RATE_HIGH: gold[place] + 0.07,
            metrics.EVAL_WIN_RATE_EVEN: gold[place] + 0.01,
            metrics.EVAL_WIN_RATE_ODD: gold[place] - 0.01,
            metrics.EVAL_PROXY_WIN_RATE: 0.5 + 0.1 * place,
            metrics.EVAL_LENGTH_CONTROLLED: gold[place] - 0.01,
            metrics.EVAL_KL: kl[place],
            metrics.EVAL_RESPONSE_LENGTH: 20.0 + place,
            metrics.EVAL_DISTINCT_BIGRAMS: 0.6 - 0.1 * place,
            metrics.per_axis(metrics.EVAL_GOLD, "fluency"): 3.0 - 0.2 * place,
            metrics.ENTROPY: 1.0,
        }
        if monitored and iteration:
            row |= {
                metrics.DRIFT_DIVERGENCE: 0.01 * place,
                metrics.DRIFT_THRESHOLD: 0.02,
                metrics.DRIFT_ACTIVE: float(place > 2),
                metrics.DRIFT_KL_COEF: 0.01 * (1 + place),
            }
        log.log_metrics(row, step=iteration)
    if finished:
        summary = {"seed": seed, "git_commit": "abc123", "command": ["python", "train.py"]}
        (job / "summary.json").write_text(json.dumps({**summary, "final": {}}))
    return job


def planted(folder: Path, seeds: int = 6) -> Path:
    """Full GPRL keeps its gold, GRPO + BT loses .4 of it; the controller makes no difference.

    `kl_only` is ahead at equal step for the one reason that it has moved less: as a function of √KL
    its curve is that of GRPO + BT.
    """
    rng = np.random.default_rng(0)
    far = [0.0, 4.0, 16.0, 36.0, 64.0]  # √KL: 0, 2, 4, 6, 8
    near = [0.0, 1.0, 4.0, 9.0, 16.0]  # √KL: 0, 1, 2, 3, 4
    hacked = np.array([0.5, 0.65, 0.6, 0.4, 0.2])
    kept = np.array([0.5, 0.65, 0.7, 0.7, 0.7])
    as_far = np.interp([0, 1, 2, 3, 4], [0, 2, 4, 6, 8], hacked)
    for seed in range(seeds):
        common = rng.normal(0, 0.02)
        for arm, curve, kl, monitored in (
            ("grpo_bt", hacked, far, False),
            ("none", kept, far, True),
            ("no_drift", kept, far, False),
            ("kl_only", as_far, near, True),
        ):
            noise = rng.normal(0, 0.005, 5)
            gold = [float(v) for v in curve + common + noise]
            write_run(folder, arm, seed, gold, kl, monitored)
    order = {"ablation": "grpo_bt,none,no_drift,kl_only", "seed": "0,1,2,3,4,5"}
    config = {"hydra": {"sweeper": {"params": order}}}
    (folder / "multirun.yaml").write_text(yaml.safe_dump(config))
    return folder
