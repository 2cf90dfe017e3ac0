"""Disks that take no more: what a run dies of, and what it only warns of."""

from __future__ import annotations

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The disk, a quota on it, or a limit on a file's size.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Places that cannot be written to, whatever room there is.
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
CLOSED += (errno.ENAMETOOLONG, errno.EIO, errno.ESTALE, errno.ELOOP, errno.EMFILE, errno.ENFILE)


def disk_error(error: BaseException) -> int | None:
    """Return the number of an operating system's error, also of one that safetensors passes on."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found.group(1)) if found else None


@contextmanager
def or_warn(file: Path, then: str) -> Iterator[None]:
    """Write a log: if the disk does not take it, warn, and let the run go on.

    The checkpoint is what a run cannot do without, and it has an error of its own.

    Args:
        file: that is written.
        then: what becomes of what it was to hold.
    """
    try:
        yield
    except OSError as error:
        warnings.warn(f"{file} could not be written ({error}): {then}.", stacklevel=3)
