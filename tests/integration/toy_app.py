"""train.py without the training: composes, validates, leaves a summary or fails as told."""

import json
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from gprl_lightning.cli import entry as cli
from gprl_lightning.config.validation import validate

CONF = str(Path(__file__).parents[2] / "conf")


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(cfg: DictConfig) -> None:
    with cli.job():
        config = validate(cfg)
        if config.algorithm.weighting == os.environ.get("TOY_FAILS"):
            raise RuntimeError("planted")
        folder = Path(HydraConfig.get().runtime.output_dir)
        win_rate = 0.5 + 0.1 * config.seed
        summary = {
            "final": {"eval/win_rate": win_rate},
            "arguments": sys.argv[1:],
            "run_dir": HydraConfig.get().run.dir,
            "process": os.getpid(),
            "logger": config.logger,
        }
        (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    cli.run(main)
