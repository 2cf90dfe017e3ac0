"""Sections of the configuration: what their types allow, and what is said to the rest."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Interval
from omegaconf import OmegaConf

from gprl_lightning import config
from gprl_lightning.config.section import (
    BelowOne,
    Count,
    Fraction,
    Inside,
    Natural,
    Positive,
    Seed,
    plain,
    section,
)
from gprl_lightning.errors import ConfigError

Word = Literal["a", "b"]


@section("mine")
class Mine:
    """Every kind of type that a section has."""

    rate: Positive = 1.0
    share: Fraction = 0.5
    inside: Inside = 0.5
    below: BelowOne = 0.0
    count: Count | None = None
    natural: Annotated[Natural, "0 is all"] = 0
    seed: Seed = 0
    word: Word = "a"
    mixed: Literal["auto"] | Positive = "auto"
    many: list[Count] = field(default_factory=list)
    flag: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.flag and self.word == "b":
            raise ConfigError("mine.flag=True: expected false with mine.word=b.")


@pytest.mark.parametrize(
    "values",
    [
        {"rate": 1e-3, "share": 0, "inside": 0.1, "below": 0.99},
        {"share": 1, "count": 1, "natural": 3, "seed": 2**32 - 1},
        {"word": "b", "mixed": 0.5, "many": [1, 2], "flag": True, "options": {}} | {"word": "a"},
    ],
)
def test_what_the_types_allow_is_kept(values):
    made = Mine(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.0}, "mine.rate=0.0: expected > 0. Set such a value"),
        ({"rate": True}, "mine.rate=True: expected > 0"),
        ({"rate": "1"}, "mine.rate='1': expected > 0"),
        ({"share": 1.1}, "mine.share=1.1: expected in [0, 1]"),
        ({"inside": 1.0}, "mine.inside=1.0: expected in (0, 1)"),
        ({"below": 1.0}, "mine.below=1.0: expected in [0, 1)"),
        ({"count": 0}, "mine.count=0: expected >= 1, or null"),
        ({"count": 1.5}, "mine.count=1.5: expected >= 1, or null"),
        ({"natural": -1}, "mine.natural=-1: expected >= 0: 0 is all"),
        ({"seed": 2**32}, "mine.seed=4294967296: expected in [0, 4294967296)"),
        ({"word": "c"}, "mine.word='c': expected one of a | b"),
        ({"mixed": "on"}, "mine.mixed='on': expected auto, or > 0"),
        ({"mixed": -1}, "mine.mixed=-1: expected auto, or > 0"),
        ({"many": [1, 0]}, "mine.many[1]=0: expected a list, each >= 1"),
        ({"many": 1}, "mine.many=1: expected a list, each >= 1"),
        ({"flag": "false"}, "mine.flag='false': expected true or false"),
        ({"options": 1}, "mine.options=1: expected a section of keys"),
        ({"rote": 1}, "mine.rote: there is no such key."),
        ({"flag": True, "word": "b"}, "mine.flag=True: expected false with mine.word=b."),
    ],
)
def test_the_rest_is_refused_in_a_line_that_says_what_is_expected(values, message):
    with pytest.raises(ConfigError) as refused:
        Mine(**values)
    assert str(refused.value).startswith(message)
    assert "\n" not in str(refused.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError) as refused:
        Mine(rate=-1, word="c", many=[0, 0])
    lines = str(refused.value).splitlines()
    assert [line.partition("=")[0] for line in lines] == [
        "mine.rate", "mine.word", "mine.many[0]", "mine.many[1]",
    ]  # fmt: skip


def test_omegaconf_sees_the_plain_types():
    cfg = OmegaConf.structured(Mine)
    assert OmegaConf.to_object(cfg) == Mine()
    cfg.count, cfg.mixed, cfg.many = 3, 2.5, [4]
    assert OmegaConf.to_object(cfg) == Mine(count=3, mixed=2.5, many=[4])
    assert plain(Count | None) == int | None
    assert plain(Word) is str and plain(list[Count]) == list[int]


def test_copies_are_checked_too():
    assert dataclasses.replace(Mine(), count=2).count == 2
    with pytest.raises(ConfigError, match=r"mine\.count=0"):
        dataclasses.replace(Mine(), count=0)


def sections() -> list[type]:
    return [getattr(config, name) for name in config.__all__]


def ranges(hint: Any) -> bool:
    """Whether each number in the type has limits."""
    if typing.get_origin(hint) is Annotated:
        limited = any(isinstance(limits, Interval) for limits in typing.get_args(hint))
        return limited or ranges(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Literal, dict):
        return True
    return hint not in (int, float) and all(map(ranges, typing.get_args(hint)))


WITHOUT_LIMITS = {"weights"}  # λ of functions, of either sign


def test_every_number_of_the_schema_has_limits():
    found = set()
    for schema in sections():
        for name, one in schema.__pydantic_fields__.items():
            hint = one.annotation
            for limits in one.metadata:
                hint = Annotated[hint, limits]
            found |= set() if ranges(hint) else {name}
    assert found == WITHOUT_LIMITS
    assert not ranges(list[int]) and not ranges(float | None) and ranges(Count | None)
