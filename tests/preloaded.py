"""Loads what the processes of `tests.processes` have when they begin: all that a run may need."""

import gc
from contextlib import suppress
from importlib import import_module

from tests.composing import composed

for name in (
    "gprl_lightning.cli.report",
    "gprl_lightning.cli.train",
    "gprl_lightning.study.detector_study",
    "gprl_lightning.tasks.best_of_n",
    "gprl_lightning.tasks.train_policy",
    "gprl_lightning.tasks.train_preference_model",
    "gprl_lightning.tracking.wandb_logger",
    "tests.worlds",
    "wandb.sdk.wandb_run",
):
    import_module(name)
with suppress(ImportError):
    import_module("pandas")  # W&B loads it where it is there
composed(hydra=True)  # the files that most runs read are remembered (`tests.hydra_memory`)
gc.freeze()  # what is shared stays shared, and the collector never looks at it
