"""Loads what the processes of `tests.processes` have when they begin: all that a run may need."""

import gc
from importlib import import_module

for name in (
    "gprl_lightning.cli.report",
    "gprl_lightning.cli.train",
    "gprl_lightning.study.detector_study",
    "gprl_lightning.tasks.best_of_n",
    "gprl_lightning.tasks.train_policy",
    "gprl_lightning.tasks.train_preference_model",
    "tests.worlds",
):
    import_module(name)
gc.freeze()  # what is shared stays shared, and the collector never looks at it
