"""Where Arena-Hard's questions and its baselines' answers are published."""

from __future__ import annotations

from gprl_lightning.benchmarks.sources import PublishedFile

REPO, REVISION = "lmarena/arena-hard-auto", "196f6b826783b3da7310e361a805fa36f0be83f3"
SHA256 = {
    "arena-hard-v0.1/question.jsonl": (
        "2650242d2883f22b2abd498f273b6a7e02253cce533f5c91a858e1d44aa3002f"
    ),
    "arena-hard-v0.1/model_answer/gpt-4-0314.jsonl": (
        "0f6abc84de4600fde987d9db70f838f4ecdbd27a2f1f4058c12aa322a6f791b2"
    ),
    "arena-hard-v2.0/question.jsonl": (
        "a75cef6623db6b27aec810497b059f0659705d7ff48dcbccc5bd5b130728ac73"
    ),
    "arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl": (
        "c23a7c255eead99f7f86ad48aa1d8ccdb5b3334f2097e0e1e09184df87265e03"
    ),
    "arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl": (
        "70f614e1345f787a1da98c239d27f6df3c1d26b411cf894949f934a3039d6f0b"
    ),
}  # of the files under data/ at that commit


def published_files(version: str) -> list[PublishedFile]:
    """Return the questions of a version and the baselines' answers to them."""
    return [
        PublishedFile(f"data/{name}", REPO, REVISION, f"data/{name}", sha256, github=True)
        for name, sha256 in SHA256.items()
        if name.startswith(f"arena-hard-{version}/")
    ]
