"""``trainer.profiler``: where a run's time goes, written to its folder."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.profilers import Profiler, PyTorchProfiler, SimpleProfiler

from gprl_lightning.errors import ConfigError

KINDS: dict[str, type[Profiler]] = {"simple": SimpleProfiler, "pytorch": PyTorchProfiler}


def make_profiler(kind: str | None, folder: Path) -> Profiler | None:
    """Return Lightning's profiler of that name, with its table in ``fit-profile.txt`` of
    ``folder``.

    ``simple`` times the hooks of the training loop; ``pytorch`` every operator of some steps, with
    a trace beside the table for chrome://tracing.

    Raises:
        ConfigError: no such profiler.
    """
    if kind is None:
        return None
    if kind not in KINDS:
        raise ConfigError(f"trainer.profiler={kind!r}: expected null, {' or '.join(KINDS)}.")
    return KINDS[kind](dirpath=folder, filename="profile")
