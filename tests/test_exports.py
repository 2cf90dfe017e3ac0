"""What the package exports is there, and its examples are true."""

from __future__ import annotations

import doctest

import pytest

import gprl_lightning


@pytest.mark.parametrize("name", gprl_lightning.__all__)
def test_every_name_is_there(name):
    assert getattr(gprl_lightning, name).__doc__


def test_each_name_says_where_it_lives():
    assert set(gprl_lightning.__all__) == set(gprl_lightning._WHERE)


def test_its_examples_are_true():
    found = doctest.testmod(gprl_lightning)
    assert found.attempted >= 5 and found.failed == 0
