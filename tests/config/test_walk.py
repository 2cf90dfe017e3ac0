"""Every key of the configuration, with values that it is not for: accepted, or refused by name.

What is typed is held against the schema, what is free-form against the signature of the class that
takes it; the trainer and the optimiser are built. The law: a `ConfigError` that names the key (or
an error of Hydra's, which the command line prints as one message), or a whole `Config`.
"""

from __future__ import annotations

import copy
import typing
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gprl_lightning.cli.entry import explain
from gprl_lightning.config.targets import check_targets
from gprl_lightning.config.validation import FREE_FORM_SECTIONS, schema_keys, validate
from gprl_lightning.errors import ConfigError
from gprl_lightning.tasks.build import make_optimizer
from tests.composing import CONF, composed

VALUES = (True, "maybe", "", -1, 0, 10**30, None, ["maybe"], {"a": 1})
FREE = (*FREE_FORM_SECTIONS, "algorithm.advantage", "algorithm.policy_loss")
GROUPS = sorted(d.name for d in CONF.iterdir() if d.is_dir() and d.name != "hydra")


@pytest.fixture(scope="module")
def base() -> Any:
    """The sandbox's configuration, with two reserved words and a strategy besides."""
    cfg = composed(
        "lora=adapters", "+trainer.strategy=auto", "+evaluation.judges.mine._target_=my.Judge"
    )
    OmegaConf.resolve(cfg)
    OmegaConf.set_struct(cfg, False)
    return cfg


def leaves(node: Any, key: str) -> typing.Iterator[str]:
    yield key
    if isinstance(node, dict):
        for name, child in node.items():
            yield from leaves(child, f"{key}.{name}")


def every_key(base: Any) -> list[str]:
    free = [
        key
        for section in FREE
        for key in leaves(OmegaConf.to_container(OmegaConf.select(base, section)), section)
    ]
    return list(dict.fromkeys([*schema_keys(), *free]))


def build(cfg: Any, key: str) -> None:
    if key.startswith("optimizer"):
        make_optimizer(cfg)
    if key.startswith("trainer"):
        instantiate(cfg.trainer, logger=False)
    for part in ("advantage", "policy_loss"):
        if key.startswith(f"algorithm.{part}."):
            instantiate(cfg.algorithm[part])


def refusal(base: Any, key: str, value: Any) -> str:
    """Return what is said to the value; nothing if it is accepted."""
    place = key.partition(".")[0]
    before = copy.deepcopy(base[place])
    try:
        OmegaConf.update(base, key, value, merge=False)
        validate(base)
        if key.startswith(FREE):
            check_targets(OmegaConf.masked_copy(base, [place]))
            build(base, key)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        return explain(error)
    finally:
        base[place] = before
    return ""


def test_every_key_accepts_or_refuses_by_name(base):
    unlawful, refused = [], 0
    for key in every_key(base):
        for value in VALUES:
            try:
                said = refusal(base, key, value)
            except Exception as error:
                unlawful.append(f"{key}={value!r}: {type(error).__name__}: {error}")
                continue
            refused += bool(said)
            if said and key.rpartition(".")[2] not in said:
                unlawful.append(f"{key}={value!r}: {said}")
    assert not unlawful, "\n".join(unlawful)
    assert refused > 1000
    assert not refusal(base, "seed", 1), "the walk has left something behind"


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_left_out_works_or_is_refused_in_one_line(group):
    try:
        config = validate(composed(f"~{group}"))
    except ConfigError as refused:
        assert group in str(refused) and "\n" not in str(refused)
        assert group in ("algorithm", "objective", "optimizer", "trainer")
    else:
        assert group != "drift" or not (config.drift.enabled or config.drift.anchor)


def test_a_monitor_that_is_left_out_is_the_disabled_one():
    assert validate(composed("~drift")).drift == validate(composed("drift=disabled")).drift
