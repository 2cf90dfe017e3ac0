"""Free-form sections: their arguments are of the types that the class itself declares."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from omegaconf import OmegaConf

from gprl_lightning.config.targets import check_targets, fits
from gprl_lightning.errors import ConfigError

if TYPE_CHECKING:
    from decimal import Unknown

HERE = "tests.config.test_targets"


class Part:
    """One that a section can name; `later` has an annotation that cannot be evaluated."""

    def __init__(
        self,
        rate: float,
        flag: bool = False,
        word: Literal["a", "b"] = "a",
        path: str | Path | None = None,
        pair: tuple[float, float] = (0, 1),
        table: dict[str, list[int]] | None = None,
        wait: timedelta | None = None,
        tensor: torch.Tensor | None = None,
        part: Part | None = None,
        later: Unknown | None = None,
        anything=None,
        **more: Any,
    ): ...

    @classmethod
    def of(cls, count: int) -> Part:
        return cls(count)


def checked(**arguments: Any) -> None:
    target = arguments.pop("target", "Part")
    node = {"sampler": {"_target_": f"{HERE}.{target}", **arguments}}
    check_targets(OmegaConf.create({"rollout": node}))


@pytest.mark.parametrize(
    "arguments",
    [
        {"rate": 1}, {"rate": 1e-3, "flag": True, "word": "b", "path": "a/b", "pair": [0, 0.5]},
        {"table": {"a": [1]}, "wait": "PT5M", "tensor": None, "later": 3, "anything": [1]},
        {"unknown": "passes", "part": {"_target_": f"{HERE}.Part", "rate": 2}},
        {"target": "Part.of", "count": 3}, {"target": "Nowhere", "rate": "x"},
        {"rate": 1, "_partial_": True, "_convert_": "all"},
    ],
)  # fmt: skip
def test_what_the_signature_allows_passes(arguments):
    checked(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": True}, "rollout.sampler.rate=True: expected a number"),
        ({"rate": "1"}, "rollout.sampler.rate='1': expected a number"),
        ({"rate": None}, "rollout.sampler.rate=None: expected a number"),
        ({"flag": "false"}, "rollout.sampler.flag='false': expected true or false"),
        ({"flag": 1}, "rollout.sampler.flag=1: expected true or false"),
        ({"word": "c"}, "rollout.sampler.word='c': expected one of a | b"),
        ({"path": 3}, "rollout.sampler.path=3: expected a text, or Path, or null"),
        ({"pair": [1]}, "rollout.sampler.pair=[1]: expected tuple[float, float]"),
        ({"table": {"a": 1}}, "rollout.sampler.table={'a': 1}: expected a section of keys"),
        ({"tensor": 1.0}, "rollout.sampler.tensor=1.0: expected Tensor, or null"),
        ({"part": {"rate": 1}}, "rollout.sampler.part={'rate': 1}: expected Part, or null"),
        ({"part": {"_target_": f"{HERE}.Part", "rate": "x"}}, "rollout.sampler.part.rate='x'"),
        ({"target": "Part.of", "count": 0.5}, "rollout.sampler.count=0.5: expected a whole number"),
        ({"_partial_": "maybe"}, "rollout.sampler._partial_='maybe': expected true or false"),
        ({"_convert_": "some"}, "rollout.sampler._convert_='some': expected one of none | partial"),
    ],
)
def test_other_types_are_refused_by_name(arguments, message):
    with pytest.raises(ConfigError) as refused:
        checked(**arguments)
    assert str(refused.value).startswith(message)


def test_values_are_those_of_yaml():
    assert fits(tuple[int, ...], [1, 2]) and fits(set[str], ["a"]) and fits(float, 3)
    assert not fits(int, 3.0) and not fits(str, 3) and not fits(bool, "true")


@pytest.mark.parametrize("section", ["callbacks.mine", "logger.mine", "trainer", "optimizer"])
def test_a_class_of_another_kind_is_refused(section):
    cfg = OmegaConf.create({})
    OmegaConf.update(cfg, section, {"_target_": f"{HERE}.Part"}, force_add=True)
    with pytest.raises(ConfigError, match="expected a kind of"):
        check_targets(cfg)
