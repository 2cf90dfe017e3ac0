"""Prepares a process for a job: its seed, threads, memory and console."""

from __future__ import annotations

import logging
import warnings

import lightning as L
import torch
from transformers.utils.logging import disable_progress_bar

from gprl_lightning.config import Config
from gprl_lightning.runtime.malloc import keep_freed_blocks


def prepare(config: Config) -> None:
    """Seed, choose threads and what malloc keeps, and leave the console to us."""
    quiet()
    if config.keep_freed_memory:
        keep_freed_blocks()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, verbose=False)


def quiet() -> None:
    """Leave the console to the run's own progress and table: libraries speak up from a warning
    on."""
    disable_progress_bar()
    # The hub's client names some of its loggers after their files, and so not under its own name.
    of_the_hub = [name for name in logging.root.manager.loggerDict if "huggingface_hub" in name]
    for name in ("lightning.pytorch", "lightning.fabric", "httpx", "huggingface_hub", *of_the_hub):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ours, on purpose: frozen models are in eval, and prompts come from an iterable of our own.
    for message in (".*in eval mode at the start of training.*", ".*does not have many workers.*"):
        warnings.filterwarnings("ignore", message)
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
