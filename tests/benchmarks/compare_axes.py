"""What makes a GPM's axes distinct? The study's preference models and each option, side by side.

    python -m tests.benchmarks.compare_axes OUT.csv --seeds 0,1 --only k3,decorrelated [KEY=VALUE …]

Each model is trained on the study's pairs (or taken from the cache, if a run has trained it), and
judged on held-out answers, all of them, to requests that it has not seen: accuracy, correlation
between axes' group scores, how much the gate varies over prompts, the cyclic triads that the model
voices, and within-prompt correlation of its group score with each axis of the gold.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.config.validation import validate
from gprl_lightning.core.preference import group_scores
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.evaluation.preference import evaluate_preference_model
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.sandbox.gold import GoldJudge
from gprl_lightning.sandbox.preference_data import sandbox_pairs
from gprl_lightning.tasks.sandbox_preference_model import sandbox_preference_model
from tests.composing import composed

MODEL, TRAINING = "preference_model.", "preference_training."
BY_AXIS, NO_NORM = MODEL + "l2_scope=axis", [MODEL + "l2_normalize=false", MODEL + "tau=1"]
DECORRELATED, CYCLIC = TRAINING + "decorrelation=0.3", TRAINING + "cyclic_votes=4"
ATTRIBUTES = TRAINING + "axis_attributes=[sentiment,relevance,length]"
MODELS: dict[str, list[str]] = {
    "bt": ["preference_model=sandbox_bt", "algorithm=grpo", "drift=disabled"],
    "k1": [MODEL + "num_axes=1"],
    "k2": [MODEL + "num_axes=2"],
    "k3": [],
    "k4": [MODEL + "num_axes=4"],
    "decorrelated": [DECORRELATED],
    "decorrelated_more": [TRAINING + "decorrelation=1"],
    "norm_by_axis": [BY_AXIS],
    "norm_by_axis_decorrelated": [BY_AXIS, DECORRELATED],
    "no_norm": NO_NORM,
    "gate_temperature": [MODEL + "gate_temperature=0.1"],
    "gate_information": [TRAINING + "gate_information=0.3"],
    "angles_not_spread": [TRAINING + "spread_angles=false"],
    "attributes": [ATTRIBUTES],
    "attributes_norm_by_axis": [ATTRIBUTES, BY_AXIS],
    "attributes_decorrelated": [ATTRIBUTES, DECORRELATED],
    "cyclic_gold": [CYCLIC],
    "cyclic_gold_no_norm": [CYCLIC, *NO_NORM],
    "more_pairs": [TRAINING + "sandbox_pairs=4000", TRAINING + "sandbox_prompts=1000"],
}


def answers_of(pairs: list[PreferencePair]) -> dict[str, list[str]]:
    """All different answers in the pairs, by request."""
    found: dict[str, dict[str, None]] = {}
    for pair in pairs:
        found.setdefault(pair.prompt[-1]["content"], {}).update(dict.fromkeys(pair.answers))
    return {prompt: list(texts) for prompt, texts in found.items() if len(texts) >= 3}


def gold_cycles(answers: dict[str, list[str]], judge: GoldJudge) -> float:
    """The share of triads of answers on which the gold goes round."""
    cyclic = triads = 0
    for prompt, texts in answers.items():
        request = judge.request_of(prompt)
        for a, b, c in itertools.combinations(texts, 3):
            wins = {judge.prefer(request, *p) for p in ((a, b), (b, c), (c, a))}
            cyclic += len(wins) == 1
            triads += 1
    return cyclic / triads


@torch.no_grad()
def gold_correlation(
    model: PreferenceModel, answers: dict[str, list[str]], judge: GoldJudge
) -> dict[str, list[float]]:
    """Within-prompt correlation of each gold axis with the model's group score, and with each
    axis's: [total, axis 0, …]."""
    scores, values = [], []
    for prompt, texts in answers.items():
        messages = ({"role": "user", "content": prompt},)
        found = model.embed([messages], [texts])
        by_axis = group_scores(found.vectors)[0]
        scores.append(torch.cat([(by_axis * found.eigenvalues).sum(-1, keepdim=True), by_axis], -1))
        rows = [judge.axes(judge.request_of(prompt), text) for text in texts]
        gold = torch.tensor([list(row.values()) for row in rows])
        values.append(gold - gold.mean(0))
    x, y = torch.cat(scores).double(), torch.cat(values).double()
    names = list(judge.names)
    return dict(zip(names, _correlation(x, y).T.tolist(), strict=True))


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    products = x.T @ y
    norms = x.square().sum(0).sqrt()[:, None] * y.square().sum(0).sqrt()
    return products / norms.clamp(min=1e-12)


def row_of(name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train (or load) one model, and measure it."""
    config = validate(composed("experiment=study", f"seed={seed}", *MODELS[name], *overrides))
    model = sandbox_preference_model(config)
    held_out = sandbox_pairs(config)[1]
    judge = GoldJudge(cyclic_votes=config.preference_training.cyclic_votes)
    answers, found = answers_of(held_out), evaluate_preference_model(model, held_out)
    axes = found["axes"]
    correlations = gold_correlation(model, answers, judge)
    return {
        "model": name,
        "seed": seed,
        "accuracy": found["accuracy"],
        "axis_correlation": axes["mean_correlation"],
        "axis_absolute_correlation": axes["mean_absolute_correlation"],
        "gate_std": sum(axes["eigenvalue_std"]) / len(axes["eigenvalue_std"]),
        "model_cycles": found["model_cycles"]["share"],
        "gold_cycles": gold_cycles(answers, judge),
        "variance_share": axes["variance_share"],
        **{f"gold_{gold}": values[0] for gold, values in correlations.items()},
        "axes_and_gold": {gold: values[1:] for gold, values in correlations.items()},
    }


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("overrides", nargs="*", help="of the configuration, as paths.cache=FOLDER")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default=",".join(MODELS), help="names of MODELS")
    args = parser.parse_intermixed_args()  # overrides after options, too
    for seed, name in itertools.product(map(int, args.seeds.split(",")), args.only.split(",")):
        row = row_of(name, seed, args.overrides)
        with args.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
        print({k: v for k, v in shown.items() if k not in ("variance_share", "axes_and_gold")})


if __name__ == "__main__":
    main()
