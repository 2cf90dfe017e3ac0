"""The configuration, composed by Hydra from `conf/` and the command line, handed to its task.

``gprl-train`` and ``python train.py`` are the same command. It is validated before anything heavy
is imported.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gprl_lightning.cli import entry
from gprl_lightning.config.fast_dev_run import honour_fast_dev_run
from gprl_lightning.config.targets import check_targets
from gprl_lightning.config.validation import validate

PACKAGE = Path(__file__).parents[1]


def conf_folder() -> Path:
    """Return the folder of the configuration: an installed package holds it, a checkout has it
    beside the package."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
def compose_and_run(cfg: DictConfig) -> None:
    """Validate the configuration, and run the task that it names."""
    with entry.job():
        honour_fast_dev_run(cfg)
        config = validate(cfg)
        with entry.first_imports():  # torch, transformers and lightning: only for a real run
            from gprl_lightning.benchmarks.run import run_benchmark
            from gprl_lightning.study.detector_study import detector_study
            from gprl_lightning.tasks import best_of_n, train_policy, train_preference_model
            from gprl_lightning.tasks.machine import settle_micro_batch, settle_precision

        tasks = {
            "train_policy": train_policy.train_policy,
            "train_preference_model": train_preference_model.train_preference_model,
            "eval_preference_model": train_preference_model.eval_preference_model,
            "best_of_n": best_of_n.best_of_n_by_source,
            "detector_study": detector_study,
            "benchmark": run_benchmark,
        }
        settle_precision(config, cfg)
        settle_micro_batch(config, cfg)
        check_targets(cfg)
        tasks[config.task](config, cfg, Path(HydraConfig.get().runtime.output_dir))


def main() -> None:
    """Run the command line."""
    entry.run(compose_and_run)
