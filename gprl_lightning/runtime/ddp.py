"""Lightning's DDP, which says which process is missing or has died: `runtime.peers`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from omegaconf import DictConfig
from torch import distributed as dist

from gprl_lightning.errors import InvariantError, PeerLost
from gprl_lightning.runtime.peers import MEETINGS, Children, Watch, exit_with, store_of_the_run

# Lightning's names for it, with what they stand for.
DDP: dict[str, dict[str, bool]] = {
    "ddp": {},
    "ddp_find_unused_parameters_false": {"find_unused_parameters": False},
    "ddp_find_unused_parameters_true": {"find_unused_parameters": True},
}


class Launcher(_SubprocessScriptLauncher):
    """Starts the other processes of this machine, and watches over them."""

    folder = Path()  # where they leave their logs
    children: Children | None = None

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any):
        """Start them, as Lightning does, and call the function."""
        self.cluster_environment.validate_settings(self.num_processes, self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
            logs = [self.folder / log_name(r) for r in range(1, self.num_processes)]
            self.children = Children(self.procs, logs, self.end)
            self.children.start()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            lost = "" if isinstance(error, InvariantError) else self.lost()
            if not lost and not _of_the_network(error):
                raise
            raise PeerLost(
                f"trainer.devices: expected all {self.cluster_environment.world_size()} processes "
                f"to the end; found: {lost or one_line(error)} The same command goes on from the "
                "newest checkpoint."
            ) from error

    def end(self, message: str) -> None:
        """End all of them, and this process."""
        if self.children is not None:
            self.children.kill()
        exit_with(message)

    def lost(self) -> str:
        """Return which of them has died; empty if none has, or others started them."""
        if self.children is None:
            return ""
        self.children.stopped.wait(1.0)  # until a process that has closed its sockets has ended
        return self.children.lost()


def _of_the_network(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def one_line(error: RuntimeError) -> str:
    """Return the beginning of what torch says, which goes on for pages."""
    return str(error).splitlines()[0][:200]


def log_name(local_rank: int) -> str:
    """Return Hydra's log of a process that Lightning has started."""
    return f"train_ddp_process_{local_rank}.log"


class Watched(ParallelStrategy):
    """A strategy that ends by itself, and says why, when another process has died or is not heard
    of; to be mixed into one of Lightning's.

    Args:
        folder: the run's folder.
        peer_timeout: seconds that a process may be waited for.
        options: of Lightning's strategy.
    """

    def __init__(self, folder: Path, peer_timeout: float, **options: Any):
        # Collectives give up later than the watch, which knows whom they wait for.
        options["timeout"] = timedelta(seconds=1.5 * peer_timeout + 10)
        super().__init__(**options)
        self.folder, self.peer_timeout = folder, peer_timeout
        self.watch: Watch | None = None

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        nodes = getattr(self, "num_nodes", 1)
        launcher = Launcher(self.cluster_environment, len(self.parallel_devices or ()), nodes)
        launcher.folder = self.folder
        self._launcher = launcher

    def begin_watch(self) -> None:
        """Watch over the other processes, once all have met."""
        store = store_of_the_run(self.peer_timeout)
        self.watch = Watch(store, self.global_rank, self.world_size, self.peer_timeout, self.end)
        MEETINGS.set_out("the start")
        self.watch.start()

    def end(self, message: str) -> None:
        """End this process and those that it has started."""
        if isinstance(self._launcher, Launcher):
            self._launcher.end(message)
        exit_with(message)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        MEETINGS.set_out("a training step")
        return super().training_step(*args, **kwargs)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        MEETINGS.set_out("a validation step")
        return super().validation_step(*args, **kwargs)

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        MEETINGS.set_out("a barrier")
        super().barrier(*args, **kwargs)

    def teardown(self) -> None:
        """End the watch: each process now ends by itself."""
        if self.watch is not None:
            self.watch.stopped.set()
        if isinstance(self._launcher, Launcher) and self._launcher.children is not None:
            self._launcher.children.stopped.set()
        super().teardown()


class WatchedDDP(Watched, DDPStrategy):
    """Lightning's DDP, watched."""

    def setup_distributed(self) -> None:
        super().setup_distributed()
        self.begin_watch()


def strategy_of(trainer: DictConfig, folder: Path, peer_timeout: float, gather: bool = True) -> Any:
    """Return the trainer's strategy: `WatchedDDP` where it would be DDP, and ours for fsdp2."""
    name = trainer.get("strategy") or "auto"
    if not isinstance(name, str):
        return instantiate(name)
    if name == "fsdp2":
        from gprl_lightning.runtime.fsdp2 import WatchedFSDP2

        return WatchedFSDP2(folder, peer_timeout, gather)
    if name in DDP or (name == "auto" and processes_of(trainer) > 1):
        return WatchedDDP(folder, peer_timeout, **DDP.get(name, {}))
    return name


def processes_of(trainer: Mapping[str, Any]) -> int:
    """Return how many processes a trainer of this configuration has here."""
    devices, accelerator = trainer.get("devices", "auto"), trainer.get("accelerator", "auto")
    if devices in ("auto", -1, "-1"):
        devices = torch.cuda.device_count() if accelerator != "cpu" else 1
    listed = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    count = int(listed) if isinstance(listed, int | str) else len(listed)
    return count * trainer.get("num_nodes", 1)
