"""A finished run as a stream, from its ``metrics.csv``: learned exploits, where there were any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gprl_lightning.errors import ConfigError
from gprl_lightning.study.streams import Evidence
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import read_metrics


def recorded_evidence(folder: Path) -> Evidence:
    """What the monitors would have read in each iteration.

    The variances are squares of the logged mean std, the surprise is the entropy plus the KL, which
    is its expectation, and the gold is the held-out win rate, interpolated between evaluations. A
    run without a monitor has no anchored scores: then there are none, and no alarm by them.

    Raises:
        ConfigError: the run lacks something; the message says what.
    """
    columns = read_metrics(folder / "metrics.csv")

    def column(name: str) -> Tensor:
        if name not in columns:
            raise ConfigError(
                f"detectors.runs: expected a run that logged {name}; {folder} has none. Give "
                "finished runs with an evaluation."
            )
        return torch.tensor(columns[name][1], dtype=torch.float64)

    def per_axis(name: str) -> Tensor:
        found = sum(key.startswith(f"{name}/") for key in columns)
        axes = [column(metrics.per_axis(name, axis)) for axis in range(found)]
        return torch.stack(axes, 1) if axes else torch.zeros(len(kl), 0, dtype=torch.float64)

    kl = column(metrics.KL)
    variance = per_axis(metrics.AXIS_SCORE_STD).square()
    gold = np.interp(
        columns[metrics.KL][0], columns[metrics.EVAL_WIN_RATE][0], column(metrics.EVAL_WIN_RATE)
    )
    return Evidence(
        variance=variance,
        weighted_variance=variance * per_axis(metrics.AXIS_EIGENVALUE).square(),
        anchored=per_axis(metrics.AXIS_ANCHORED_SCORE),
        surprise=column(metrics.ENTROPY) + kl,
        kl=kl,
        length=column(metrics.RESPONSE_LENGTH),
        gold=torch.from_numpy(gold),
    )
