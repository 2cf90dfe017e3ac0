"""How glibc's allocator treats large blocks. Ours.

By default it hands blocks from some MiB on back to the system as soon as they are freed, and each
new one is given page by page, zeroed: on a CPU that can cost as much as what is computed in it. A
training step frees and takes the same sizes over and over, so they are better kept.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
KEPT = 1 << 30  # bytes; a larger block is still given back at once


def keep_freed_blocks() -> None:
    """Keep freed memory for the next step, where the C library is glibc.

    Environment variables that say otherwise are overruled, and other allocators left alone.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, KEPT)
