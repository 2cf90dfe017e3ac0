"""Fuzzed configurations, rows, models, templates, checkpoints: right, or refused in one message.

``python -m tests.faults.fuzz [CASES]`` (``make fuzz``): 2,000 by default, in this process, by the
functions that ``train.py`` itself calls before the first rollout. The law: what is given back is
whole and finite, or the error is one that the command line prints without a traceback; no file
changes.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gprl_lightning.config import DataConfig
from gprl_lightning.config.validation import schema_keys, validate
from gprl_lightning.data.pair_formats import PairKeys
from gprl_lightning.data.preferences import survey_pairs
from gprl_lightning.data.prompts import load_prompts
from gprl_lightning.errors import ConfigError, InvariantError
from gprl_lightning.runtime.checkpoint_files import checkpoint_to_resume
from gprl_lightning.runtime.checkpoint_io import PlainCheckpointIO, read_header
from gprl_lightning.runtime.run_identity import RunIdentity, header_in
from tests.composing import composed
from tests.faults.fuzz_models import FILES, model, sound_policy, template, templates
from tests.worlds import tiny_loader, tiny_module, tiny_trainer

LAWFUL = (ConfigError, InvariantError, HydraException, OmegaConfBaseException)
LONGEST = 3000  # characters of a message
found: Counter[str] = Counter()

numbers = st.one_of(
    st.integers(-3, 3), st.integers(), st.floats(), st.sampled_from([1e-44, 1e300, 2**63, -0.0])
)
values = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=12), st.lists(st.integers(), max_size=3),
    st.sampled_from(["true", "false", "inf", "nan", "null", "", "???", "${x}", "1e400", "../.."]),
    st.dictionaries(st.text(min_size=1, max_size=5), st.integers(), max_size=2),
)  # fmt: skip
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def lawful(kind: str, act: Any) -> Any:
    """Run `act`, and count how it ended. What it raises must be an error that is one message."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = act()
    except LAWFUL as error:
        assert 0 < len(str(error)) < LONGEST, f"{kind}: a message of {len(str(error))} characters"
        found[f"{kind}: refused"] += 1
        return None
    found[f"{kind}: right"] += 1
    return result


# Configurations -----------------------------------------------------------------------------------

BASE = composed()
KEYS = sorted({*schema_keys(), "optimizer.lr", "optimizer.weight_decay", "trainer.precision"})


def configuration(changes: list[tuple[str, Any]]) -> None:
    """Change some keys of the default configuration, and validate it."""

    def act() -> Any:
        cfg = copy.deepcopy(BASE)
        for key, value in changes:
            if OmegaConf.select(cfg, key.rpartition(".")[0] or "seed") is None:
                continue  # inside a section that is null: `cli.entry` has a message for it
            OmegaConf.update(cfg, key, value, merge=False)
        return validate(cfg)

    config = lawful("configuration", act)
    for key, value in _leaves(asdict(config), "") if config is not None else ():
        if isinstance(value, float):
            assert math.isfinite(value), f"{key}={value} was accepted"


def _leaves(node: Any, place: str) -> Any:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, f"{place}.{name}".lstrip("."))
    else:
        yield place, node


# Data rows ----------------------------------------------------------------------------------------

messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "x"]), "content": plain}
    ),
    max_size=3,
)
sides = st.one_of(st.text(max_size=9), messages, st.lists(st.text(max_size=4), max_size=2))
PAIR_KEYS = PairKeys(label="label", margin="margin")
rows = st.one_of(
    plain.map(json.dumps),
    st.one_of(plain, messages, st.text(max_size=30)).map(lambda v: json.dumps({"prompt": v})),
    st.fixed_dictionaries(
        {"prompt": st.one_of(st.text(max_size=9), messages), "chosen": sides, "rejected": sides},
        optional={"label": numbers, "margin": numbers, "attributes": plain, "group": plain},
    ).map(json.dumps),
    st.text(max_size=30),
    st.integers(200, 3000).map(lambda n: "[" * n + "]" * n),
    st.integers(4000, 6000).map(lambda n: '{"prompt": ' + "9" * n + "}"),
)


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
turn = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": words})
system = st.fixed_dictionaries({"role": st.just("system"), "content": words})
talk = st.tuples(st.lists(system, max_size=1), st.lists(turn, max_size=2), words).map(
    lambda t: [*t[0], *t[1], {"role": "user", "content": t[2]}]
)
# Rows that are mostly right: what is wrong with one of many must still be found.
sound = st.fixed_dictionaries(
    {"prompt": st.one_of(words, talk), "chosen": words, "rejected": words},
    optional={"label": st.floats(0, 1), "margin": st.floats(0, 9), "extra": plain},
)
marked = sound.map(lambda row: {"label": None, "margin": None, **row})
lines_of = st.lists(
    st.one_of(*[marked.map(json.dumps)] * 9, rows).map(lambda r: r.encode("utf8", "surrogatepass")),
    min_size=1,
    max_size=5,
)


def data(lines: list[bytes], folder: Path) -> None:
    """Load prompts, and pairs, from a file of these lines."""
    file = folder / "rows.jsonl"
    file.write_bytes(b"\n".join(lines))
    pairs = lawful("pairs", lambda: survey_pairs(file, "train", PAIR_KEYS).pairs)
    for pair in pairs or ():
        assert pair.chosen != pair.rejected and math.isfinite(pair.margin) and 0 <= pair.label <= 1
        assert all(m["content"].strip() for m in pair.prompt if m["role"] != "assistant")
        json.dumps(asdict(pair), ensure_ascii=False).encode("utf8")
    prompts = lawful("data", lambda: load_prompts(DataConfig(path=str(file), held_out=0)))
    for prompt in (*prompts[0], *prompts[1]) if prompts is not None else ():
        assert prompt.messages and prompt.messages[-1]["role"] == "user"
        for message in prompt.messages:
            message["content"].encode("utf8")  # a lone surrogate cannot be
            assert message["content"].strip() or message["role"] == "assistant"
    assert file.read_bytes() == b"\n".join(lines)


# Checkpoints --------------------------------------------------------------------------------------


def checkpoint_of_a_run(folder: Path) -> Path:
    """The last checkpoint of a tiny run of two iterations."""
    module, trainer = tiny_module(2), tiny_trainer(folder)
    trainer.callbacks[-1].identity = RunIdentity({"seed": 0}, "d", "t", "p", "g", 1)
    trainer.fit(module, tiny_loader(module, 2))
    return folder / "checkpoints" / "iteration_000002.ckpt"


def checkpoint(original: Path, change: Any, folder: Path) -> None:
    """Change a checkpoint, choose it as a resume does, and read it."""
    file = folder / "iteration_000002.ckpt"
    file.write_bytes(original.read_bytes())
    kind, where, value = change
    if kind == "cut":
        file.write_bytes(file.read_bytes()[: int(where * file.stat().st_size)])
    elif kind == "flip":
        content = bytearray(file.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1 + abs(hash(str(value))) % 255
        file.write_bytes(content)
    else:
        _rewrite(file, kind, where, value)
    before = file.read_bytes()

    def act() -> Any:
        chosen = checkpoint_to_resume(str(file), folder)
        assert chosen is not None
        header_in(chosen)
        return PlainCheckpointIO().load_checkpoint(chosen)

    loaded = lawful("checkpoint", act)
    for tensor in loaded["state_dict"].values() if loaded is not None else ():
        assert tensor.isfinite().all()
    assert file.read_bytes() == before


def _rewrite(file: Path, kind: str, where: float, value: Any) -> None:
    """Put `value` somewhere into the header, or into what the checkpoint holds."""
    inside, header = torch.load(file, weights_only=True), read_header(file)
    target: Any = header if kind == "header" else inside
    while True:
        keys = list(target)
        key = keys[int(where * len(keys)) % len(keys)]
        where = where * len(keys) % 1
        if not isinstance(target[key], dict) or not target[key] or where < 0.2:
            break
        target = target[key]
    target[key] = value
    with file.open("wb") as stream:
        torch.save(inside, stream)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("archive/run.json", json.dumps(header, default=str))


changes = st.tuples(
    st.sampled_from(["cut", "flip", "header", "inside"]), st.floats(0, 1, exclude_max=True), plain
)


model_changes = st.tuples(
    st.sampled_from(FILES),
    st.sampled_from(["cut", "flip", "remove", "value", "value", "value"]),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.integers(-3, 100), values.filter(lambda v: type(v) is not int)),
)


def fuzz(cases: int, derandomize: bool = False) -> Counter[str]:
    """Run so many cases, a third of them configurations. Raises AssertionError at the first
    unlawful one, made as small as it can be; any other error is one, too.
    """
    found.clear()
    options = {
        "deadline": None, "derandomize": derandomize, "database": None,
        "suppress_health_check": list(HealthCheck),
    }  # fmt: skip

    def run(share: float, *strategies: Any) -> Any:
        examples = max(1, round(cases * share))
        return lambda act: settings(max_examples=examples, **options)(given(*strategies)(act))()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        change = st.tuples(st.sampled_from(KEYS), values)
        run(0.35, st.lists(change, min_size=1, max_size=3))(lambda c: configuration(c))
        run(0.15, lines_of)(lambda found: data(found, folder))
        run(0.05, st.lists(st.binary(max_size=40), max_size=4))(lambda found: data(found, folder))
        original = checkpoint_of_a_run(folder / "run")
        run(0.2, changes)(lambda c: checkpoint(original, c, folder))
        run(0.15, templates)(lambda text: template(lawful, text))
        sound = sound_policy(folder / "sound")
        run(0.1, model_changes)(lambda c: model(lawful, sound, c))
    return Counter(found)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    for ending, number in sorted(fuzz(count).items()):
        print(f"{number:6d}  {ending}")
