"""TensorBoard and MLflow by Lightning's loggers: counted in iterations, and never in a run's way.

Either is imported when a run starts that asks for it. Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from gprl_lightning.errors import ConfigError
from gprl_lightning.tracking.metrics import ITERATION

SQLITE = "sqlite:///"


@contextmanager
def _installed(extra: str) -> Iterator[None]:
    """Name the extra that a logger needs if its package is missing."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"logger={extra}: expected its package; found: {error}. Run pip install "
            f"'gprl-lightning[{extra}]', or choose logger=csv."
        ) from error


class _Held(Logger):
    """Holds back what a logger raises: it is shown once, and the logger is left alone from then on.

    A server that does not answer would cost its time-out in every iteration; `metrics.csv` has all.
    """

    failed = False

    def _safely(self, action: Callable[[], Any]) -> None:
        if self.failed:
            return
        try:
            action()
        except Exception as error:  # of any kind: training needs no such service
            self.failed = True
            rank_zero_warn(f"{type(self).__name__} failed, the run goes on without it: {error!r}")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log what was measured at its iteration, which is not Lightning's count of updates."""
        row = {name: value for name, value in metrics.items() if name not in ("epoch", ITERATION)}
        at = int(metrics.get(ITERATION, step or 0))
        self._safely(lambda: super(_Held, self).log_metrics(row, at))  # type: ignore[arg-type]

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:  # type: ignore[override]
        """Log the configuration."""
        self._safely(lambda: super(_Held, self).log_hyperparams(params))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close what is open."""
        self._safely(lambda: super(_Held, self).finalize(status))


class GPRLTensorBoardLogger(_Held, TensorBoardLogger):  # type: ignore[misc]
    """Event files in ``tensorboard/`` of the run's folder.

    Args:
        save_dir: the run's folder.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, save_dir: str | Path):
        with _installed("tensorboard"):
            super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False)


class GPRLMLFlowLogger(_Held, MLFlowLogger):  # type: ignore[misc]
    """An MLflow run per job.

    Args:
        tracking_uri: a database file or a server of MLflow.
        experiment_name: what this run is a part of.
        run_name: shown for this run.
        tags: to search by.

    Raises:
        ConfigError: MLflow is not installed.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment_name: str,
        run_name: str,
        tags: Mapping[str, str] | None = None,
    ):
        if tracking_uri.startswith(SQLITE):
            Path(tracking_uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        with _installed("mlflow"):
            super().__init__(experiment_name, run_name, tracking_uri, dict(tags or {}))
