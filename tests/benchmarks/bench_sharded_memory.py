"""Memory of each process of a sharded run, by the number of processes.

``python -m tests.benchmarks.bench_sharded_memory [PROCESSES …]``: policy, reference and preference
model of 30M parameters in float32 (and moments, and gradients), MiB beyond the libraries: when
training starts, at most from then on, and at most once the last iteration has been saved.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.integration.run_sharded import __file__ as script

COUNTS = ("1", "2", "4")


def main() -> None:
    # What is freed leaves the process.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "PYTHONPATH": os.getcwd()}
    for world in map(int, sys.argv[1:] or COUNTS):
        folder = Path(tempfile.mkdtemp())
        words = [str(folder), str(world), "large", "memory"]
        command = [sys.executable, script, *words]
        subprocess.run(command, check=True, env=environment, stderr=subprocess.DEVNULL)
        for rank in range(world):
            found = torch.load(folder / f"rank{rank}.pt", weights_only=False)
            print(f"{world} processes, rank {rank}: {found['memory']} MiB", flush=True)


if __name__ == "__main__":
    main()
