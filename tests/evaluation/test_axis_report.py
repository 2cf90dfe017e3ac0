"""The report on a model's axes: gate by subset, axes against attributes, identification."""

from __future__ import annotations

import math

import pytest
import torch

from gprl_lightning.data.preferences import make_pair
from gprl_lightning.evaluation.axis_report import (
    ROTATIONS,
    axes_against_attributes,
    by_size,
    gate_by_subset,
    identification,
)
from gprl_lightning.evaluation.preference import evaluate_preference_model
from gprl_lightning.evaluation.preference_report import print_evaluation, write_evaluation
from gprl_lightning.models.initialization import from_backbone
from tests.tiny import chat, tiny_model, tiny_tokenizer


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_a_gate_that_knows_the_subset_is_read():
    subsets = [("a", "b", "c")[i % 3] for i in range(30)] + ["once"]
    told = torch.eye(3)[[("a", "b", "c").index(s) for s in subsets[:-1]]].double()
    gates = torch.cat([told + 0.05 * noise(30, 3), torch.zeros(1, 3).double()])
    found = gate_by_subset(gates, subsets)
    assert found["subset_from_gate"] == 1.0 and found["chance"] == pytest.approx(10 / 31)
    rows = [gates[i].tolist() for i, s in enumerate(subsets) if s == "b"]
    mean = [sum(row[axis] for row in rows) / len(rows) for axis in range(3)]
    assert found["by_subset"]["b"]["eigenvalues"] == pytest.approx(mean)
    assert found["by_subset"]["once"]["prompts"] == 1


def test_each_prompt_is_left_out_of_its_own_mean():
    """Prompts 0 and 10 would be halfway between themselves, and 10 then near to its own mean."""
    gates = torch.tensor([[0.0], [10.0], [1.0], [1.4]]).double()
    assert gate_by_subset(gates, ["a", "a", "b", "b"])["subset_from_gate"] == 0.5
    blind = gate_by_subset(noise(300, 3), [str(i % 3) for i in range(300)])["subset_from_gate"]
    assert 0.2 < blind < 0.47
    assert gate_by_subset(noise(3, 2), ["a", "a", "a"])["subset_from_gate"] is None


def test_axes_against_attributes():
    vectors = noise(40, 2, 6)
    pairs = [
        make_pair("p", f"a{i}", f"b{i}", attributes={"tone": (i % 3) / 2, "size": float(i % 2)})
        for i in range(40)
    ]
    found = axes_against_attributes(vectors, pairs)
    assert list(found) == ["tone", "size"]
    for name in found:
        for axis in range(3):
            a, b = vectors[:, 0].tolist(), vectors[:, 1].tolist()
            s = [x[2 * axis] * y[2 * axis + 1] - x[2 * axis + 1] * y[2 * axis]
                 for x, y in zip(a, b, strict=True)]  # fmt: skip
            m = [pair.attributes[name] - 0.5 for pair in pairs]
            top = sum(x * y for x, y in zip(s, m, strict=True))
            scale = math.sqrt(sum(x * x for x in s) * sum(y * y for y in m))
            assert found[name][axis] == pytest.approx(top / scale, abs=1e-9)
    some = [*pairs, make_pair("p", "x", "y", attributes={"tone": 1.0})]
    assert list(axes_against_attributes(noise(41, 2, 6), some)) == ["tone"]


def test_identification_tells_copies_from_distinct_axes():
    """Of axes that are copies of one scalar, the advantages hang less on how they are turned."""
    gates = torch.full((30, 2), 0.5).double()
    reward, other = noise(30, 5, 1), noise(30, 5, 1, seed=1)
    one = torch.ones(30, 5, 1).double()
    copies = torch.cat([reward, one, reward, one], -1)
    distinct = torch.cat([reward, one, 5 * other, one], -1)
    found = {}
    for name, vectors in (("copies", copies), ("distinct", distinct)):
        groups = by_size([(v, g) for v, g in zip(vectors, gates, strict=True)])
        found[name] = identification(groups, vectors[:, :2], gates)
        spread = found[name]["correlation"]
        assert -1 <= spread["least"] <= spread["q05"] <= spread["median"] <= spread["most"] <= 1
        assert found[name]["rotations"] == ROTATIONS and found[name]["responses"] == 150
    assert found["copies"]["one_z_score"] == pytest.approx(1, abs=1e-4)
    assert found["distinct"]["one_z_score"] < 0.95
    assert found["distinct"]["correlation"]["median"] < found["copies"]["correlation"]["median"]


def test_the_evaluation_reports_them(tmp_path, capsys):
    model = from_backbone(tiny_model().model, tiny_tokenizer(), num_axes=3).eval()
    torch.nn.init.normal_(model.prompt_head.weight, generator=torch.Generator().manual_seed(1))
    model.attributes = ("tone",)
    pairs = [
        make_pair(chat(f"{'ab'[i % 2]} {i // 4}"), "x" * (i + 1), "no " * (i % 3 + 1),
                  subset="ab"[i % 2], attributes={"tone": float(i % 2)})
        for i in range(16)
    ]  # fmt: skip
    found = evaluate_preference_model(model, pairs)
    assert set(found["gate"]["by_subset"]) == {"a", "b"}
    assert 0 <= found["gate"]["subset_from_gate"] <= 1
    assert len(found["attributes"]["tone"]) == 3
    assert found["axis_names"] == ["tone", "1", "2"]
    assert found["identification"]["correlation"]["median"] < 1
    write_evaluation(found, tmp_path)
    print_evaluation(found)
    printed = capsys.readouterr().out
    for row in ("subset read from λ", "axes against tone", "Â under rotations", "one z-score's"):
        assert row in printed
    flat = from_backbone(tiny_model().model, tiny_tokenizer(), kind="bradley_terry", num_axes=1)
    assert evaluate_preference_model(flat.eval(), pairs)["identification"] is None
