"""What `tests.hydra_memory` remembers is what Hydra composes."""

import os
import subprocess
import sys

from omegaconf import OmegaConf

from tests.composing import ROOT, composed

CHOSEN = (
    "experiment=smoke",
    "ablation=no_drift",
    "drift=full",
    "seed=3",
    "+trainer.fast_dev_run=2",
)


def test_a_composition_is_that_of_a_process_that_remembers_nothing():
    command = [sys.executable, "train.py", *CHOSEN, "--cfg", "job"]
    alone = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert alone.returncode == 0, alone.stderr
    for _ in range(2):  # as merged, and as remembered
        assert OmegaConf.to_yaml(composed(*CHOSEN)).strip() == alone.stdout.strip()


def test_what_is_written_into_one_is_not_in_the_next():
    first = composed("seed=3")
    first.algorithm.kl_coef = 7.0
    assert composed("seed=3").algorithm.kl_coef != 7.0
    assert composed("seed=4").seed == 4 and composed().seed == 0
