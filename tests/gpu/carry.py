"""What a GPU machine without a network lacks, as one archive to carry there.

    python -m tests.gpu.carry carried.tar.gz [--python 3.12] [--cuda 130]     # here, with a network
    mkdir site && tar xf carried.tar.gz -C site && PYTHONPATH=site make gpu   # there

What comes with torch, lightning, transformers, peft and pytest is expected to be there already; the
rest is taken without its needs. Of bitsandbytes' libraries only the one for that CUDA is kept: all
of them together are 160 MB.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGES = (
    "transformers>=5.21", "tokenizers", "hydra-core>=1.3.2", "omegaconf>=2.3,<2.4", "httpx",
    "wandb>=0.27", "gitpython", "gitdb", "smmap", "sentry-sdk", "platformdirs", "jaxtyping",
    "vaderSentiment", "beartype", "trl>=1.16,<2", "datasets", "dill", "multiprocess",
    "bitsandbytes>=0.50",
)  # fmt: skip
WITH_NEEDS = ("pydantic>=2.10,<3",)  # its core is of one version only
FROM_SOURCE = ("antlr4-python3-runtime==4.9.3",)  # no wheel of it is published; pure Python
GLIBCS = ("34", "31", "28", "27", "24", "17")


def install(site: Path, python: str) -> None:
    """Install the packages into a folder, for another Python on 64-bit Linux."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--upgrade"]
    pip += ["--target", str(site)]
    platforms = [f"--platform=manylinux_2_{glibc}_x86_64" for glibc in GLIBCS]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=any"]
    other = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    subprocess.run([*pip, *other, *WITH_NEEDS], check=True)
    subprocess.run([*pip, *other, "--no-deps", *PACKAGES], check=True)
    subprocess.run([*pip, "--no-deps", *FROM_SOURCE], check=True)


def without_other_libraries(site: Path, cuda: str) -> None:
    """Delete bitsandbytes' libraries for other accelerators."""
    for library in (site / "bitsandbytes").glob("libbitsandbytes_*.so"):
        if library.stem not in (f"libbitsandbytes_cuda{cuda}", "libbitsandbytes_cpu"):
            library.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--python", default="3.12", help="the version on the GPU machine")
    parser.add_argument("--cuda", default="130", help="its CUDA, as bitsandbytes names it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        install(site, options.python)
        without_other_libraries(site, options.cuda)
        with tarfile.open(options.archive, "w:gz") as archive:
            archive.add(site, arcname=".")
    print(f"{options.archive}: {options.archive.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
