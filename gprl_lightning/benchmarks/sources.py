"""Where a benchmark's files are published: a pinned revision, a checksum, one download."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        sha256: of its bytes; None if we have never seen them.
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
        if not (place.exists() and _right(place, file)):
            place.parent.mkdir(parents=True, exist_ok=True)
            _from_github(file, place) if file.github else _from_hub(file, place)
        if not _right(place, file):
            found = hashlib.sha256(place.read_bytes()).hexdigest()
            place.unlink()
            raise ConfigError(
                f"{file.repo}/{file.path} at {file.revision}: expected the SHA-256 {file.sha256}, "
                f"found {found}. Download it again, or give benchmark.path=FOLDER."
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


def _right(place: Path, file: PublishedFile) -> bool:
    if file.sha256 is None:
        return True
    return hashlib.sha256(place.read_bytes()).hexdigest() == file.sha256


def _from_hub(file: PublishedFile, place: Path) -> None:
    from huggingface_hub import hf_hub_download

    try:
        found = hf_hub_download(file.repo, file.path, repo_type="dataset", revision=file.revision)
    except Exception as error:  # its client raises OSError, ValueError and httpx's errors
        raise _unavailable(file, error) from error
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
