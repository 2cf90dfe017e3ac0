"""Each figure of the evaluation against a case small enough to count by hand."""

import io
import json
import math

import pytest
import torch
from rich.console import Console
from torch import nn

from gprl_lightning.data.preferences import make_pair
from gprl_lightning.evaluation.preference import evaluate_preference_model
from gprl_lightning.evaluation.preference_metrics import AxisUse, CyclicTriads, Reliability
from gprl_lightning.evaluation.preference_report import print_evaluation, write_evaluation
from gprl_lightning.models.preference_model import PreferenceModel
from tests.cycles import cycle_model, cyclic_pairs


class Known(PreferenceModel):
    """Answers with vectors and eigenvalues that the test wrote down, by the text of the answer."""

    def __init__(self, vectors, eigenvalues=None, tau=1.0):
        nn.Module.__init__(self)
        self.known, self.tau, self.kind, self.attributes = vectors, tau, "gpm", ()
        self.num_axes = len(next(iter(vectors.values()))) // 2
        self.known_eigenvalues = eigenvalues or [1.0] * self.num_axes

    def embed_conversations(self, conversations):
        vectors = torch.tensor([self.known[c[-1]["content"]] for c in conversations])
        return vectors, torch.tensor([self.known_eigenvalues] * len(conversations))


def angle(degrees):
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]


# s(i, j) = sin(θ_j − θ_i): in `CIRCLE` a beats b beats c beats a, by sin 120° each.
CIRCLE = {"a": angle(0), "b": angle(120), "c": angle(240)}


def rewards(**values):
    return {name: [value, 1.0] for name, value in values.items()}


def test_accuracy_over_all_and_by_subset():
    model = Known(rewards(a=2.0, b=1.0, c=0.0))
    pairs = [
        make_pair("p", "a", "b", subset="easy"),
        make_pair("p", "a", "c", subset="easy"),
        make_pair("p", "c", "b", subset="hard"),
        make_pair("p", "c", "a", label=0.1, subset="hard"),
    ]
    found = evaluate_preference_model(model, pairs)
    assert found["accuracy"] == 0.75
    assert found["by_subset"] == {
        "easy": {"pairs": 2, "accuracy": 1.0},
        "hard": {"pairs": 2, "accuracy": 0.5},
    }
    assert (found["pairs"], found["prompts"]) == (4, 1)


def test_calibration_error_by_hand():
    """Confidences .9, .9 (one agrees: gap .4) and .6 (agrees: gap .4) make an error of .4."""
    reliability = Reliability()
    reliability.update(torch.tensor([0.9001, 0.0999, 0.6001]), torch.tensor([1.0, 1.0, 1.0]))
    found = reliability.compute()
    assert found["error"] == pytest.approx(0.4, abs=1e-3)
    assert [b["pairs"] for b in found["bins"]] == [1, 2]
    assert [b["agreement"] for b in found["bins"]] == [1.0, 0.5]
    assert [b["confidence"] for b in found["bins"]] == pytest.approx([0.6, 0.9], abs=1e-3)


def test_a_calibrated_model_has_no_error():
    """Agreement is the labels' probability of the side that the model prefers."""
    reliability = Reliability()
    probability = torch.tensor([0.7, 0.2, 0.95])
    reliability.update(probability, probability)
    assert reliability.compute()["error"] == pytest.approx(0, abs=1e-6)


def test_accuracy_by_margin():
    """Four margins: the two narrow ones are wrong."""
    model = Known(rewards(a=0.0, b=1.0, c=2.0, d=3.0, e=4.0))
    pairs = [
        make_pair("p", "a", "b", margin=0.1),
        make_pair("p", "a", "c", margin=0.2),
        make_pair("p", "d", "a", margin=0.3),
        make_pair("p", "e", "a", margin=0.4),
    ]
    found = evaluate_preference_model(model, pairs)["by_margin"]
    assert [b["accuracy"] for b in found["data"]] == [0.0, 0.0, 1.0, 1.0]
    assert [b["accuracy"] for b in found["model"]] == [0.0, 0.0, 1.0, 1.0]
    assert [b["from"] for b in found["model"]] == [1.0, 2.0, 3.0, 4.0]


def test_length_bias():
    """The longer wins 2 of 3 by the model, 1 + 0 + .2 by the labels; equal lengths do not count."""
    model = Known(rewards(a=3.0, bb=2.0, ccc=4.0, d=0.0))
    pairs = [
        make_pair("p", "ccc", "a"),
        make_pair("p", "a", "bb"),
        make_pair("p", "d", "bb", label=0.8),
        make_pair("p", "a", "d"),
    ]
    found = evaluate_preference_model(model, pairs)["length"]
    assert found["pairs"] == 3
    assert found["longer_wins_by_model"] == pytest.approx(2 / 3)
    assert found["longer_wins_by_labels"] == pytest.approx(0.4)


def test_axes_that_copy_each_other_are_seen():
    vectors = torch.randn(6, 2)
    copies = AxisUse(2)
    copies.update(vectors.repeat(1, 2), torch.ones(2))
    found = copies.compute()
    assert found["mean_correlation"] == pytest.approx(1.0)
    assert found["variance_share"] == pytest.approx([0.5, 0.5])


def test_variance_share_and_correlation_by_hand():
    """Rewards (1, −1, 0) and 2·(1, 1, −2): group scores are 3/2 r, products 0, variances 2 : 24."""
    one = torch.tensor([1.0, -1.0, 0.0])
    two = torch.tensor([2.0, 2.0, -4.0])
    use = AxisUse(2)
    ones = torch.ones(3)
    use.update(torch.stack([one, ones, two, ones], 1), torch.ones(2))
    found = use.compute()
    assert found["variance_share"] == pytest.approx([1 / 13, 12 / 13])
    assert found["mean_correlation"] == pytest.approx(0.0, abs=1e-9)


def test_spread_of_the_eigenvalues_over_prompts():
    use = AxisUse(2)
    for eigenvalues in ([0.2, 0.8], [0.6, 0.4]):
        use.update(torch.randn(3, 4), torch.tensor(eigenvalues))
    found = use.compute()
    assert found["eigenvalue_mean"] == pytest.approx([0.4, 0.6])
    assert found["eigenvalue_std"] == pytest.approx([0.2, 0.2], abs=1e-6)


def test_cyclic_triads_of_the_model():
    """a ≻ b ≻ c ≻ a is a cycle; d loses to all three, and makes three triads without one."""
    vectors = {**{k: [*v, 0.0, 1.0] for k, v in CIRCLE.items()}, "d": [0.0, 0.0, -5.0, 1.0]}
    pairs = [make_pair("p", "a", "b"), make_pair("p", "c", "d")]
    found = evaluate_preference_model(Known(vectors), pairs)["model_cycles"]
    assert found == {"triads": 4, "cyclic": 1, "share": 0.25}


def test_a_scalar_voices_no_cycle():
    triads = CyclicTriads()
    reward = torch.randn(7)
    triads.update(reward[:, None] - reward)
    assert triads.compute() == {"triads": 35, "cyclic": 0, "share": 0.0}


def test_accuracy_on_the_cycles_of_the_data():
    """a ≻ b ≻ c ≻ d ≻ a is a cycle of four; a ≻ e and the other prompt's pair are not on it."""
    model = Known(rewards(a=4.0, b=3.0, c=2.0, d=1.0, e=0.0))
    cycle = [make_pair("p", x, y) for x, y in ("ab", "bc", "cd")]
    # d ≻ a, written the other way round.
    cycle.append(make_pair("p", "a", "d", label=0.0))
    pairs = [*cycle, make_pair("p", "a", "e"), make_pair("q", "d", "a")]
    found = evaluate_preference_model(model, pairs)["data_cycles"]
    assert found == {"pairs_on_cycles": 4, "accuracy_on_cycles": 0.75, "accuracy_elsewhere": 0.5}


def test_metrics_add_up_over_batches():
    whole, parts = Reliability(), Reliability()
    probability, labels = torch.rand(40), torch.rand(40).round()
    whole.update(probability, labels)
    parts.update(probability[:15], labels[:15])
    parts.update(probability[15:], labels[15:])
    assert whole.compute() == parts.compute()


@pytest.mark.parametrize("kind", ["gpm", "bradley_terry"])
def test_report_of_a_real_model(kind, tmp_path):
    """Files are written, JSON holds no NaN, and the table names what matters."""
    model = cycle_model(kind, 2 if kind == "gpm" else 1).eval()
    found = evaluate_preference_model(model, cyclic_pairs(8, 0))
    assert found["data_cycles"]["pairs_on_cycles"] == 24
    assert found["model_cycles"]["triads"] == 8
    files = write_evaluation(found, tmp_path)
    names = ["evaluation.json", "reliability.png", "margin.png", "axes.png"]
    assert [file.name for file in files] == names
    assert all(file.stat().st_size > 500 for file in files)
    text = files[0].read_text()
    assert json.loads(text) == found
    assert "NaN" not in text
    console = Console(file=io.StringIO(), width=100)
    print_evaluation(found, console)
    printed = console.file.getvalue()
    for row in ("accuracy", "calibration error", "correlation between axes", "cyclic triads"):
        assert row in printed
