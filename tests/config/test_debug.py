"""`debug=…` and `trainer.fast_dev_run`: what they change, on every experiment."""

from __future__ import annotations

import pytest

from gprl_lightning.config.fast_dev_run import honour_fast_dev_run
from gprl_lightning.config.validation import validate
from gprl_lightning.errors import ConfigError
from tests.composing import composed

EXPERIMENTS = ("sandbox", "smollm2_135m", "study", "train_gpm_sandbox", "train_gpm_gemma_2b")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_fast_is_two_short_iterations_of_any_experiment_apart_from_its_runs(experiment):
    of_data = ["data.path=sandbox"] if "gemma" in experiment else []
    cfg = composed(f"experiment={experiment}", "debug=fast", *of_data)
    config = validate(cfg)
    assert (config.iterations, config.checkpoint_every, config.data.max_rows) == (2, 1, 32)
    assert config.rollout.max_new_tokens == 16 and config.preference_training.sandbox_pairs == 32
    assert config.logger == {} and config.paths.output == "runs/debug"


def test_overfit_keeps_one_iterations_prompts_and_no_leash():
    config = validate(composed("debug=overfit", "data.prompts_per_step=4"))
    assert config.data.max_rows == 4 and config.algorithm.kl_coef == 0
    assert config.drift.mode == "monitor_only" and config.drift.anchor


def test_profile_profiles():
    config = validate(composed("debug=profile"))
    assert config.trainer["profiler"] == "simple" and config.iterations == 10


@pytest.mark.parametrize(("asked", "iterations"), [("true", 1), ("3", 3)])
def test_fast_dev_run_is_so_many_iterations_without_a_logger(asked, iterations):
    cfg = composed(f"+trainer.fast_dev_run={asked}")
    honour_fast_dev_run(cfg)
    config = validate(cfg)
    assert config.iterations == iterations and config.logger == {}
    assert "fast_dev_run" not in config.trainer


def test_fast_dev_run_of_a_preference_model_is_so_many_batches_of_pairs():
    cfg = composed("experiment=train_gpm_sandbox", "+trainer.fast_dev_run=2")
    honour_fast_dev_run(cfg)
    assert validate(cfg).data.max_rows == 2 * cfg.preference_training.batch_size


def test_fast_dev_run_off_changes_nothing_and_nonsense_is_refused():
    cfg = composed("+trainer.fast_dev_run=false")
    honour_fast_dev_run(cfg)
    assert cfg == composed()
    with pytest.raises(ConfigError, match=r"trainer.fast_dev_run='often': expected true"):
        honour_fast_dev_run(composed("+trainer.fast_dev_run=often"))
