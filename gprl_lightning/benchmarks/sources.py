"""Where a benchmark's files are published: a pinned revision, a checksum, one download.

A file that we have seen has its SHA-256 here. One that we have not seen is held against the
checksum that the pinned commit itself records of it, and that is kept beside the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gprl_lightning.errors import ConfigError

GITHUB = "https://raw.githubusercontent.com"
GITHUB_ENV = "GITHUB_RAW_ENDPOINT"  # a mirror, as HF_ENDPOINT is one of the hub


@dataclass(frozen=True)
class PublishedFile:
    """A file at a revision of its authors' repository.

    Attributes:
        local: its path in a folder that is laid out as the authors' repository is.
        repo: ``owner/name``: a data set on the hub, or a repository on GitHub (`github`).
        revision: the commit.
        path: its path there.
        sha256: of its bytes; None if we have never seen them: then the commit's own record counts.
        github: True if it is on GitHub.
    """

    local: str
    repo: str
    revision: str
    path: str
    sha256: str | None = None
    github: bool = False


def fetch(files: Sequence[PublishedFile], folder: Path) -> Path:
    """Download what is not in `folder` yet. Return the folder.

    Raises:
        ConfigError: a file cannot be had, or is not the published one.
    """
    for file in files:
        place = folder / file.local
        if not (place.exists() and _fault(place, file) is None):
            place.parent.mkdir(parents=True, exist_ok=True)
            _from_github(file, place) if file.github else _from_hub(file, place)
        if fault := _fault(place, file):
            place.unlink()
            raise ConfigError(
                f"{file.repo}/{file.path} at {file.revision}: {fault}. Download it again, or give "
                "benchmark.path=FOLDER."
            )
    return folder


def require_files(files: Sequence[PublishedFile], folder: Path) -> Path:
    """Return `folder` if it holds all the files.

    Raises:
        ConfigError: one is missing.
    """
    missing = [f.local for f in files if not (folder / f.local).is_file()]
    if missing:
        raise ConfigError(
            f"benchmark.path={folder}: expected a folder as the authors' repository is laid out; "
            f"{', '.join(missing)} missing. Add the files, or leave benchmark.path out to download."
        )
    return folder


def _fault(place: Path, file: PublishedFile) -> str | None:
    """Say what is wrong with a file, or None if its checksum is right."""
    beside = _recorded(place)
    expected = file.sha256 or (beside.read_text("utf-8").strip() if beside.exists() else "")
    content = place.read_bytes()
    found = {64: _sha256, 40: _git_sha1}.get(len(expected), _sha256)(content)
    if found == expected:
        return None
    return f"expected the checksum {expected or 'that its commit records'}, found {found}"


def _recorded(place: Path) -> Path:
    """Return where the checksum is kept that the commit records of a file."""
    return place.with_name(f"{place.name}.checksum")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_sha1(content: bytes) -> str:
    """Return git's name of a file's content, which the hub records of its smaller files."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _from_hub(file: PublishedFile, place: Path) -> None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    where: dict[str, Any] = {"repo_type": "dataset", "revision": file.revision}
    try:
        found = hf_hub_download(file.repo, file.path, **where)
        recorded = (
            file.sha256 or get_hf_file_metadata(hf_hub_url(file.repo, file.path, **where)).etag
        )
    except Exception as error:  # its client raises OSError, ValueError and httpx's errors
        raise _unavailable(file, error) from error
    if file.sha256 is None:
        _place((recorded or "").encode(), _recorded(place))
    _place(Path(found).read_bytes(), place)


def _from_github(file: PublishedFile, place: Path) -> None:
    host = os.environ.get(GITHUB_ENV, GITHUB)
    url = f"{host}/{file.repo}/{file.revision}/{file.path}"
    try:
        reply = httpx.get(url, follow_redirects=True, timeout=60)
        reply.raise_for_status()
    except httpx.HTTPError as error:
        raise _unavailable(file, error) from error
    _place(reply.content, place)


def _place(content: bytes, place: Path) -> None:
    partial = place.with_name(f"{place.name}.{os.getpid()}.part")
    partial.write_bytes(content)
    partial.replace(place)


def _unavailable(file: PublishedFile, error: Exception) -> ConfigError:
    return ConfigError(
        f"{file.repo}/{file.path} at {file.revision}: cannot be downloaded ({error}). Put the "
        f"file at {file.local} in a folder, and give benchmark.path=FOLDER."
    )
