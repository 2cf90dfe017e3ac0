"""The eigenvalues of a preference model against `tests.oracle` (METHOD §1), in both scales."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from gprl_lightning.models.chat_text import ChatText, TextBatch
from gprl_lightning.models.preference_model import PreferenceModel
from tests import oracle
from tests.tiny import tiny_tokenizer


class Lookup(nn.Module):
    """A backbone whose state at a position is the embedding of its token."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 5)

    def forward(self, input_ids: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


@pytest.mark.parametrize("scale", ["simplex", "scaled"])
@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_eigenvalues(scale: str, axes: int) -> None:
    """Read at the prompt's last token: 4 in the first row, 7 in the second, which is padded."""
    torch.manual_seed(axes)
    backbone = Lookup()
    head, gate = nn.Linear(5, 2 * axes, bias=False), nn.Linear(5, axes, bias=False)
    model = PreferenceModel(
        backbone, head, gate, ChatText(tiny_tokenizer()), eigenvalue_scale=scale
    )
    batch = TextBatch(
        input_ids=torch.tensor([[3, 4, 5, 6], [0, 7, 8, 1]]),
        mask=torch.tensor([[True] * 4, [False] + [True] * 3]),
        prompt_tokens=torch.tensor([2, 1]),
        gate_texts=torch.tensor([0, 1]),
    )
    with torch.no_grad():
        _, found = model(batch)
    states = backbone.table.weight[torch.tensor([4, 7])].tolist()
    for row, state in zip(found.tolist(), states, strict=True):
        assert row == pytest.approx(
            oracle.eigenvalues(gate.weight.tolist(), state, scale), abs=1e-6
        )
        assert sum(row) == pytest.approx(axes if scale == "scaled" else 1, abs=1e-6)
    # softmax(W h / T) is the gate of W / T.
    model.gate_temperature = 4.0
    with torch.no_grad():
        _, cooler = model(batch)
    for row, state in zip(cooler.tolist(), states, strict=True):
        expected = oracle.eigenvalues((gate.weight / 4).tolist(), state, scale)
        assert row == pytest.approx(expected, abs=1e-6)
    assert axes == 1 or not torch.allclose(cooler, found, atol=1e-3)
