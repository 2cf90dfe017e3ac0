"""Files are downloaded from where they are published, at their revision, by their checksum."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from gprl_lightning.benchmarks.alpaca_eval import AlpacaEval2
from gprl_lightning.benchmarks.arena_hard import ArenaHard
from gprl_lightning.benchmarks.files import PROMPTS, read_rows
from gprl_lightning.benchmarks.mt_bench import FILES, REPO, REVISION, MTBench
from gprl_lightning.benchmarks.questions import fingerprint
from gprl_lightning.benchmarks.sources import PublishedFile, fetch, require_files
from gprl_lightning.benchmarks.wildbench import REFERENCES, WildBench
from gprl_lightning.errors import ConfigError
from tests.benchmark_suites.folders import alpaca_folder, arena_folder, mt_folder, wild_folder
from tests.hub import hub


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def files_of(root: Path):
    """Serve a folder; the address, for ``GITHUB_RAW_ENDPOINT``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def on_loopback(monkeypatch, tmp_path):
    """Serve ``tmp_path/hub`` as the hub."""
    (tmp_path / "hub").mkdir()
    with hub(tmp_path / "hub") as address:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
        yield tmp_path / "hub"


SUITES = {
    "alpaca": (AlpacaEval2(), lambda f: alpaca_folder(f / "tatsu-lab/alpaca_eval")),
    "wild": (WildBench(), lambda f: _wild_hub(f)),
}


def _wild_hub(root: Path) -> None:
    """The conversations and the models' outputs are two repositories."""
    wild_folder(root / "allenai/WildBench", ())
    wild_folder(root / "allenai/WildBench-V2-Model-Outputs", REFERENCES)


@pytest.mark.parametrize("suite", SUITES)
def test_a_benchmark_is_downloaded_from_the_hub_once(suite, on_loopback, tmp_path):
    benchmark, make = SUITES[suite]
    make(on_loopback)
    files = with_checksums(benchmark.files(), lambda f: on_loopback / f.repo / f.path)
    folder = fetch(files, tmp_path / "kept")
    questions = benchmark.load(folder)
    assert len(questions) == 6 and questions[0].references
    for file in on_loopback.rglob("*"):
        if file.is_file():
            file.unlink()
    assert fingerprint(benchmark.load(fetch(files, folder))) == fingerprint(questions)


def test_another_file_of_the_hub_is_refused(on_loopback, tmp_path):
    alpaca_folder(on_loopback / "tatsu-lab/alpaca_eval")
    with pytest.raises(ConfigError, match=r"expected the checksum [0-9a-f]{64}, found"):
        fetch(AlpacaEval2().files(), tmp_path / "kept")
    assert not [f for f in (tmp_path / "kept").rglob("*") if f.is_file()]


@pytest.mark.parametrize("kind", ["lfs", "git", "none"])
def test_a_file_without_a_checksum_of_ours_has_its_commits(
    kind, on_loopback, tmp_path, monkeypatch
):
    """The hub records the SHA-256 of a large file, and git's name of a small one."""
    benchmark, place = WildBench(rewards=False), tmp_path / "kept"
    _wild_hub(on_loopback)
    file = benchmark.files()[0]
    content = (on_loopback / file.repo / file.path).read_bytes()
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    etags = {"lfs": hashlib.sha256(content).hexdigest(), "git": git, "none": ""}
    etag = etags[kind]
    record = SimpleNamespace(etag=etag)

    def recorded(_: str) -> SimpleNamespace:
        return record

    if kind != "lfs":  # which is what the hub on loopback says
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", recorded)
    if kind == "none":
        with pytest.raises(ConfigError, match="expected the checksum that its commit records"):
            fetch([file], place)
        return
    fetch([file], place)
    (place / file.local).write_bytes(b"torn")
    assert (fetch([file], place) / file.local).read_bytes() == content
    record.etag = etag[::-1]
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", recorded)
    (place / file.local).unlink()
    with pytest.raises(ConfigError, match=f"expected the checksum {record.etag}, found {etag}"):
        fetch([file], place)


def with_checksums(files: Sequence[PublishedFile], place: Callable[[PublishedFile], Path]):
    """Return the files with the checksums of the small ones that stand for them."""
    return [replace(f, sha256=hashlib.sha256(place(f).read_bytes()).hexdigest()) for f in files]


GITHUB = {
    "mt_bench": (MTBench(), mt_folder),
    "arena_v0.1": (
        ArenaHard("v0.1", "gpt-4", 1),
        lambda f: arena_folder(f, "v0.1", {"arena-hard-v0.1": "gpt-4-0314"}),
    ),
    "arena_v2": (
        ArenaHard("v2.0", "gpt-4.1", 1),
        lambda f: arena_folder(
            f,
            "v2.0",
            {"hard_prompt": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"},
        ),
    ),
}


def repository(root: Path, suite: str) -> list[PublishedFile]:
    """Lay a benchmark out as its repository is; return its files with the checksums of these."""
    benchmark, make = GITHUB[suite]
    make(root / "flat")

    def place(file: PublishedFile) -> Path:
        return root / file.repo / file.revision / file.path

    for file in benchmark.files():
        place(file).parent.mkdir(parents=True, exist_ok=True)
        place(file).write_bytes((root / "flat" / file.local).read_bytes())
    return with_checksums(benchmark.files(), place)


@pytest.mark.parametrize("suite", GITHUB)
def test_a_benchmark_is_downloaded_from_github(suite, tmp_path, monkeypatch):
    files = repository(tmp_path, suite)
    with files_of(tmp_path) as address:
        monkeypatch.setenv("GITHUB_RAW_ENDPOINT", address)
        folder = fetch(files, tmp_path / "kept")
    assert len(GITHUB[suite][0].load(folder)) >= 6
    assert fetch(files, folder) == folder, "the server is gone, and not needed"


PINNED = [b for b, _ in GITHUB.values()] + [AlpacaEval2(), WildBench()]


@pytest.mark.parametrize("benchmark", PINNED, ids=lambda b: b.name)
def test_every_file_is_pinned_by_commit_and_all_but_wildbench_by_checksum(benchmark):
    for file in benchmark.files():
        assert re.fullmatch("[0-9a-f]{40}", file.revision)
        assert benchmark.name == "wildbench" or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_another_file_than_the_published_one_is_refused(tmp_path, monkeypatch):
    files = repository(tmp_path, "mt_bench")
    place = tmp_path / REPO / REVISION / FILES[0][1]
    place.write_text(place.read_text().replace("rain", "snow"))
    with files_of(tmp_path) as address:
        monkeypatch.setenv("GITHUB_RAW_ENDPOINT", address)
        with pytest.raises(
            ConfigError, match=r"question\.jsonl at 587d5cf.* expected the checksum"
        ):
            fetch(files, tmp_path / "kept")
    assert not (tmp_path / "kept/question.jsonl").exists()


def test_a_file_that_cannot_be_had_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_RAW_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"cannot be downloaded .* give benchmark\.path=FOLDER"):
        fetch(MTBench().files(), tmp_path)


def test_a_folder_without_a_file_is_refused(tmp_path):
    mt_folder(tmp_path)
    (tmp_path / "judge_prompts.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"benchmark.path=.*judge_prompts.jsonl missing"):
        require_files(MTBench().files(), tmp_path)


def test_the_fingerprint_is_of_what_is_said(tmp_path):
    questions = MTBench().load(mt_folder(tmp_path))
    assert fingerprint(questions) == fingerprint(MTBench().load(mt_folder(tmp_path / "again")))
    file = tmp_path / "reference_answer/gpt-4.jsonl"
    file.write_text(file.read_text().replace("two moss", "2 moss"))
    assert fingerprint(MTBench().load(tmp_path)) != fingerprint(questions)


@pytest.mark.parametrize(
    "text,message",
    [
        ("", "expected at least one row"),
        ('{"a": 1}\n{"a": ', r"rows\.jsonl:2: not a JSON object"),
        ("[1]\n", "rows.jsonl:1: expected an object, found list"),
    ],
)
def test_a_broken_file_is_named_with_its_line(text, message, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_rows(file)


PUBLISHED = {
    "alpaca_eval.txt": "784227e6dc2832fc08c43d2c8ea3a308e7523780187a1aaad2f85e30bac85f62",
    "arena_hard.txt": "03f68010febd7a6405102ef882b4dd5a9700c56b2e1ff286d3b38f5d3a929bbf",
    "arena_hard_creative.txt": "171489efbca7f19fb520e1b3c23783c76af7c723e770fe897a55f391684aa358",
    "arena_hard_user.txt": "80fb20ab2eaae6d38a19f707f3f051f0456bcb977b0086bebe15f9bd23ce45f8",
    "wildbench_pairwise.md": "e3860d39517c4c3508aa7bba488b85067b9b4da0b9d59c23507200238e0815ea",
    "wildbench_score.md": "ea62732477f9eae48cf16081b3557fd7655160b13afb9b970455bbdab0c97f7b",
}


def test_the_prompts_are_still_as_published():
    found = {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in PROMPTS.iterdir()
        if f.name != "README.md"
    }
    assert found == PUBLISHED
