"""Train a policy with GPRL, or train or evaluate a preference model: ``python train.py --help``.

Hydra composes the configuration from ``conf/`` and the command line; it is validated before
anything heavy is imported, and handed to the task that it names.
"""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gprl_lightning.cli import entry
from gprl_lightning.config.validation import validate


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    with entry.job():
        config = validate(cfg)
        with entry.first_imports():  # torch, transformers and lightning: only for a real run
            from gprl_lightning.benchmarks.run import run_benchmark
            from gprl_lightning.study.detector_study import detector_study
            from gprl_lightning.tasks import train_policy, train_preference_model

        tasks = {
            "train_policy": train_policy.train_policy,
            "train_preference_model": train_preference_model.train_preference_model,
            "eval_preference_model": train_preference_model.eval_preference_model,
            "detector_study": detector_study,
            "benchmark": run_benchmark,
        }
        tasks[config.task](config, cfg, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    entry.run(main)
