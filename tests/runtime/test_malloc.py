"""What the CPU preset asks of the process: one thread, and blocks that are kept."""

from __future__ import annotations

import os
import platform

import pytest
import torch

from gprl_lightning.config import Config
from gprl_lightning.runtime.preparation import prepare
from tests.composing import composed
from tests.processes import run_forked

PAGES = """
import resource, sys, torch
from gprl_lightning.config import Config
from gprl_lightning.runtime.preparation import prepare
prepare(Config(keep_freed_memory=sys.argv[1] == "keep"))
def blocks():
    for megabytes in (40, 60, 80):  # above what glibc learns to keep by itself
        torch.zeros(megabytes * 2**18)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min([faults() for _ in range(6)][1:]))  # the system may take a page back once
"""


def _pages(word: str) -> int:
    done = run_forked(["-c", PAGES, word], os.environ, 60)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_block_that_was_freed_is_not_paged_in_again():
    given_back, kept = _pages("give"), _pages("keep")
    assert given_back > 1000
    assert kept < given_back / 100, (given_back, kept)


def test_the_presets_choose_for_their_device():
    cpu, gpu = composed("trainer=cpu"), composed("trainer=gpu")
    assert (cpu.threads, cpu.keep_freed_memory) == (1, True)
    assert (gpu.threads, gpu.keep_freed_memory) == (None, False)


def test_threads_are_set():
    before = torch.get_num_threads()
    try:
        prepare(Config(threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
