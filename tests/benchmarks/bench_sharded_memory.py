"""Memory of each process of a sharded run, by the number of processes.

``python -m tests.benchmarks.bench_sharded_memory [PROCESSES …]``: policy, reference and preference
model of 30M parameters in float32 (and moments, and gradients), read from files, by several
processes shard by shard. MiB beyond the libraries: at most before training starts, as it starts, at
most from then on, and at most once the last iteration has been saved; with ``rollout.gather`` and
without.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.integration.run_sharded import __file__ as script
from tests.integration.run_sharded import write_files

COUNTS = ("1", "2", "4")


def main() -> None:
    # What is freed leaves the process.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.getcwd()}
    for world in map(int, sys.argv[1:] or COUNTS):
        for road in ((), ("layers",))[: 1 if world == 1 else 2]:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_files(folder, {"large"})
                words = [name, str(world), "large", "memory", "files", *road]
                command = [sys.executable, script, *words]
                subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
                for rank in range(world):
                    found = torch.load(folder / f"rank{rank}.pt", weights_only=False)
                    how = " ".join((f"{world} processes, rank {rank}", *road))
                    print(f"{how}: {found['memory']} MiB", flush=True)


if __name__ == "__main__":
    main()
