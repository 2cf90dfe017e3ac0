"""A finished run as a stream, from its ``metrics.csv``: learned exploits, where there were any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.preference import pairwise_scores, total_scores, win_probability
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.study.streams import Evidence
from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.rollout_log import logged_iterations, read_rows, rollout_file


def recorded_evidence(folder: Path, ensemble: Sequence[PreferenceModel] = ()) -> Evidence:
    """Return what the monitors would have read in each iteration.

    The variances are squares of the logged mean std, the surprise is the entropy plus the KL, which
    is its expectation, and the gold is the held-out win rate, interpolated between evaluations. A
    run without a monitor has no anchored scores: then there are none, and no alarm by them. What an
    ensemble disagrees about is read off the rollouts that the run kept, and holds until the next.

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
        disagreement=ensemble_disagreement(folder, ensemble, len(kl)) if ensemble else None,
    )


@torch.no_grad()
def ensemble_disagreement(
    run: Path, ensemble: Sequence[PreferenceModel], iterations: int
) -> Float[Tensor, " iterations"]:
    """Return how far an ensemble's win probabilities lie apart in each iteration.

    The standard deviation over the models of ``P(i beats j)``, mean over the pairs of answers to
    one prompt and over prompts: of the kept rollouts (``rollouts/``), each holding until the next
    and the first for those before it, too. After the ensembles of Coste et al. (2023), whose
    rewards are on one scale; ours are made comparable as probabilities.

    Raises:
        ConfigError: the run kept no rollouts.
    """
    kept = logged_iterations(run)
    if not kept:
        raise ConfigError(
            f"detectors.ensemble: expected runs that kept rollouts; {run} has none. Give runs with "
            "callbacks=rollout_table."
        )
    found = []
    for iteration in kept:
        rows = read_rows(rollout_file(run, iteration))
        groups: dict[int, list[str]] = {}
        prompts: dict[int, str] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row["response"])
            prompts[row["group"]] = row["prompt"]
        asked: list[Messages] = [({"role": "user", "content": prompts[group]},) for group in groups]
        chances = []
        for model in ensemble:
            embedded = model.embed(asked, list(groups.values()))
            scores = pairwise_scores(embedded.vectors)
            total = total_scores(scores, embedded.eigenvalues[:, None, None])
            chances.append(win_probability(total, model.tau).double())
        size = chances[0].shape[-1]
        spread = torch.stack(chances).std(0, unbiased=False)
        found.append(float(spread.mean() * size / (size - 1)))  # no pair with oneself
    places = np.searchsorted(kept, np.arange(1, iterations + 1), side="right") - 1
    return torch.tensor(found, dtype=torch.float64)[np.maximum(places, 0)]
