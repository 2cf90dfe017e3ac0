"""Cycles that hold for unseen prompts and responses: GPMs of k axes and Bradley-Terry, three seeds.

    python -m tests.benchmarks.bench_cycles

Held-out accuracy, in the world of `tests.cycles`. No scalar can pass 2/3. Four minutes on one core.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from gprl_lightning.evaluation.preference import evaluate_preference_model
from tests.cycles import BRADLEY_TERRY_CEILING, cycle_model, cyclic_pairs, fit

SEEDS = (0, 1, 2)
ARMS: dict[str, dict[str, Any]] = {
    "Bradley-Terry": {"kind": "bradley_terry", "num_axes": 1},
    "GPM, k = 1": {"num_axes": 1},
    "GPM, k = 1, without L2, tau 1": {"num_axes": 1, "l2_normalize": False, "tau": 1.0},
    "GPM, k = 2": {"num_axes": 2},
    "GPM, k = 3": {"num_axes": 3},
    "GPM, k = 4": {"num_axes": 4},
}


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    train, held_out = cyclic_pairs(1600, 0), cyclic_pairs(200, 1)
    print(f"ceiling of any scalar: {100 * BRADLEY_TERRY_CEILING:.1f} %")
    for name, options in ARMS.items():
        accuracies, cyclic = [], []
        for seed in SEEDS:
            model = cycle_model(pairs=train, seed=seed, **options)
            accuracies.append(fit(model, train, held_out, epochs=3))
            found = evaluate_preference_model(model, held_out)
            cyclic.append(found["model_cycles"]["share"])
        figures = "  ".join(f"{100 * a:5.1f} %" for a in accuracies)
        voiced = "  ".join(f"{100 * c:5.1f} %" for c in cyclic)
        print(f"{name:32} accuracy {figures}   cyclic triads {voiced}", flush=True)


if __name__ == "__main__":
    main()
