"""The precision that a machine has: chosen where it is left open, told where it is slow."""

from __future__ import annotations

import pytest
import torch

from gprl_lightning.config.validation import validate
from gprl_lightning.tasks import machine
from gprl_lightning.tasks.machine import computes_bfloat16, device_of, settle_precision
from tests.composing import composed


def settled(monkeypatch, capsys, fast: bool, *overrides: str) -> tuple[str, str]:
    """(the precision of both configurations, what was said), on a CPU with or without bfloat16."""
    monkeypatch.setattr(machine, "computes_bfloat16", lambda device: fast)
    cfg = composed(*overrides)
    config = validate(cfg)
    settle_precision(config, cfg)
    assert config.trainer["precision"] == cfg.trainer.precision
    return cfg.trainer.precision, capsys.readouterr().out


@pytest.mark.parametrize(("fast", "chosen"), [(True, "bf16-mixed"), (False, "32-true")])
def test_smollm2_takes_the_precision_that_the_machine_has(monkeypatch, capsys, fast, chosen):
    found, said = settled(monkeypatch, capsys, fast, "experiment=smollm2_135m")
    assert found == chosen and f"trainer.precision=auto: {chosen}" in said


def test_what_is_asked_for_by_name_is_kept_and_a_slow_one_is_told(monkeypatch, capsys):
    asked = "trainer.precision=bf16-mixed"
    assert settled(monkeypatch, capsys, True, asked) == ("bf16-mixed", "")
    found, said = settled(monkeypatch, capsys, False, asked)
    assert found == "bf16-mixed" and "Set trainer.precision=32-true" in said
    assert settled(monkeypatch, capsys, False) == ("32-true", "")


def test_a_cpu_is_judged_by_its_instructions(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    for avx, amx in ((True, False), (False, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=avx: has)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=amx: has)
        assert computes_bfloat16("CPU") is (avx or amx)


def test_auto_takes_the_gpu_that_is_there(monkeypatch):
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of("auto") == ("GPU" if there else "CPU")
        assert device_of("cpu") == "CPU"
