"""A resumed run must be the run that it resumes: what makes a run, and where two of them differ.

Each checkpoint carries its run's `RunIdentity`: the configuration, and fingerprints of what that
only points to. A resume that differs is refused with the differences; ``resume.allow=[…]`` names
those that are meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gprl_lightning.config.run import RESUME_CONTENTS
from gprl_lightning.errors import ResumeRefused
from gprl_lightning.runtime.checkpoint_files import iteration_of, read_header

# Of what a checkpoint holds, in whichever part of the program: raise it with every change.
FORMAT = 7
# Keys that change no number of the training, or whose content a fingerprint holds.
HARMLESS = (
    "iterations", "checkpoint_every", "ckpt_path", "name", "threads", "task", "resume", "logger",
    "keep_freed_memory", "peer_timeout", "sandbox_only", "plan", "plan_memory_gb",
    "rollout.sampler.urls", "rollout.sampler.timeout", "rollout.sampler.folder",
    "rollout.sampler.host",
    "paths", "evaluation", "callbacks.rollout_table", "preference_training", "policy.path",
    "policy.chat_template", "preference_model.path", "preference_model.chat_template", "data.path",
    "data.split", "data.prompt_key", "data.chosen_key", "data.rejected_key", "data.label_key",
    "data.margin_key", "data.subset_key", "data.rating_key", "data.system_prompt",
    "data.held_out_path", "data.held_out_split", "data.held_out", "data.max_prompt_tokens",
    "trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.log_every_n_steps",
    "trainer.default_root_dir", "trainer.profiler", "trainer.devices", "trainer.num_nodes",
    "algorithm.max_silent_iterations",
)  # fmt: skip
# Of those, what is read through the whole run, too: the gold judges with them.
HARMFUL = ("preference_training.cyclic_votes",)


@dataclass(frozen=True)
class RunIdentity:
    """What makes a run the run that it is.

    Attributes:
        config: every key of the configuration, dotted.
        data: of the training prompts and their order in the file.
        tokenizer: of the policy's vocabulary, template and end-of-sequence tokens.
        policy: of the weights that it starts from.
        preference_model: of its weights, options and tokenizer.
        processes: how many take part.
    """

    config: dict[str, Any]
    data: str
    tokenizer: str
    policy: str
    preference_model: str
    processes: int


def flattened(config: Any, key: str = "") -> dict[str, Any]:
    """Return nested sections as one level of dotted keys."""
    return dict(_leaves(config, key))


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}".lstrip("."))
    else:
        yield key, node


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself, in a record that is read without unpickling anything.

    Attributes:
        iteration: how many iterations are done in it.
        rows: how many of them stood in ``metrics.csv`` when it was written; None: no such file.
        identity: of the run that made it; None: it does not say.
    """

    iteration: int
    rows: int | None
    identity: RunIdentity | None


def as_saved(header: Header) -> dict[str, Any]:
    """Return plain values, for a checkpoint."""
    return {"format": FORMAT, **asdict(header)}


def header_in(file: Path) -> Header:
    """Return the header of a checkpoint that a run may go on from.

    Raises:
        ResumeRefused: it has none, or that of another version, or another iteration's name.
    """
    saved = read_header(file)
    if saved.get("format", FORMAT) != FORMAT:
        raise ResumeRefused(
            f"ckpt_path: expected a checkpoint of format {FORMAT}; {file} is of format "
            f"{saved['format']}, which another version of this program wrote. Go on with "
            "that version, or begin anew with another ckpt_path, paths.output or hydra.run.dir."
        )
    header = from_saved(saved)
    if header is None or header.identity is None:
        raise ResumeRefused(
            f"ckpt_path: expected a checkpoint of format {FORMAT} of this program; {file} does not "
            "say which run made it. Give one that this version's train.py wrote."
        )
    if header.iteration != iteration_of(file):
        raise ResumeRefused(
            f"ckpt_path: expected the name iteration_{header.iteration:06d}.ckpt, by what is in "
            f"it; found {file}. Give it its name back."
        )
    return header


def from_saved(saved: dict[str, Any]) -> Header | None:
    """Return the header in the values of `as_saved`; None if they are not one."""
    try:
        identity = None if saved["identity"] is None else RunIdentity(**saved["identity"])
        header = Header(saved["iteration"], saved["rows"], identity)
    except (KeyError, TypeError):
        return None
    numbers = isinstance(header.iteration, int) and isinstance(header.rows, int | None)
    return header if numbers and (identity is None or isinstance(identity.config, dict)) else None


def require_same_config(saved: RunIdentity, config: dict[str, Any], allow: Sequence[str]) -> None:
    """Raise ResumeRefused where a key that matters differs; quick, before anything is loaded."""
    now = json.loads(json.dumps(flattened(config), default=str))  # as it comes out of a header
    keys = dict.fromkeys([*saved.config, *now])
    different = [k for k in keys if saved.config.get(k) != now.get(k) and _matters(k)]
    _refuse(
        {k: (saved.config.get(k), now.get(k)) for k in different if not _under(k, allow)},
        "configuration",
    )


def require_same_contents(saved: RunIdentity, now: RunIdentity, allow: Sequence[str]) -> None:
    """Raise ResumeRefused where data, tokenizer, models or the number of processes differ."""
    pairs = {name: (getattr(saved, name), getattr(now, name)) for name in RESUME_CONTENTS}
    _refuse(
        {k: pair for k, pair in pairs.items() if pair[0] != pair[1] and k not in allow},
        "contents",
    )


def changed_contents(saved: RunIdentity, now: RunIdentity) -> set[str]:
    """Names of the contents that differ."""
    return {name for name in RESUME_CONTENTS if getattr(saved, name) != getattr(now, name)}


def _matters(key: str) -> bool:
    """Return True if a change of the configuration's key changes the run."""
    return key in HARMFUL or not _under(key, HARMLESS)


def _under(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _refuse(different: dict[str, tuple[Any, Any]], what: str) -> None:
    if different:
        lines = "".join(
            f"\n  {name}: expected {before!r}, as in the checkpoint; found {now!r}"
            for name, (before, now) in different.items()
        )
        raise ResumeRefused(
            f"ckpt_path: not the {what} of the run that made the checkpoint.{lines}\n"
            f"Change them back, or allow what is meant: 'resume.allow=[{','.join(different)}]'"
        )
