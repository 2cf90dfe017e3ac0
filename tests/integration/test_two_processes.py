"""Two real processes over gloo: one run, and one that can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gprl_lightning.models.policy import save_policy
from gprl_lightning.tracking.metrics_file import read_metrics
from gprl_lightning.tracking.rollout_log import RULE, LoggedRollout
from gprl_lightning.tracking.rule_record import rule_of
from tests.equality import differences
from tests.processes import run_world
from tests.tiny import tiny_policy
from tests.tiny_run import clean_environment, train
from tests.worlds import SIZE

SCRIPT = Path(__file__).with_name("run_tiny.py")
OPTIONS = ("per_axis_whitened", "matched")


def _run(folder: Path, world: int, *options: str) -> list[dict]:
    folder.mkdir()
    run_world([str(SCRIPT), str(folder), str(world), str(4 // world), *options], world, folder)
    return [torch.load(folder / f"rank{r}.pt", weights_only=False) for r in range(world)]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[list[dict], Path]:
    folder = tmp_path_factory.mktemp("two") / "run"
    return _run(folder, 2, *OPTIONS), folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("one") / "run"
    return _run(folder, 1, *OPTIONS)[0], folder


def test_two_processes_are_one_run(one, two):
    """Batch statistics, loss normalisers, gradients and drift moments add up over processes."""
    single = one[0]
    first, second = two[0]
    assert first["state"] == second["state"]
    assert torch.equal(first["control"], second["control"])
    assert first["kl"] == second["kl"] != 0.02, "the controller must have acted"
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
        assert torch.allclose(weight, single["weights"][name], rtol=1e-3, atol=1e-5), name


# Of the first process alone, and of the machine's mood.
SECONDS = {"time/rollout", "time/score", "time/update", "rollout/tokens_per_second"}
# The worst token's rounding, which is another for another batch's shape.
ROUNDING = {"rollout/logprob_mismatch"}


def test_every_figure_of_two_processes_is_that_of_one(one, two):
    """What is logged is over all prompts of an iteration, whoever had them."""
    expected, found = (read_metrics(folder / "metrics.csv") for folder in (one[1], two[1]))
    assert set(expected) == set(found)
    assert SECONDS | ROUNDING | {"axis/correlation", "eval/win_rate", "drift/surprise"} < set(found)
    wrong = {}
    for name, (iterations, values) in expected.items():
        assert found[name][0] == iterations, name
        if name not in SECONDS | ROUNDING and values != pytest.approx(
            found[name][1], rel=1e-3, abs=1e-6
        ):
            wrong[name] = (values, found[name][1])
    assert wrong == {}
    for name in ROUNDING:
        assert all(value < 1e-5 for values in (expected, found) for value in values[name][1])


def test_the_table_of_responses_is_of_both_processes(two):
    """Whitening is over the batch of all processes: half of the rows give other advantages."""
    logged = LoggedRollout.read(two[1], 4)
    assert logged.advantages.shape == (4, SIZE)
    assert len({row["uid"] for row in logged.rows}) == 4
    rule = rule_of(logged.rows[0][RULE])
    assert (logged.rederived(rule) - logged.advantages).abs().max() <= 1e-6
    half = LoggedRollout.from_rows(logged.rows[: 2 * SIZE])
    assert (half.rederived(rule) - half.advantages).abs().max() > 1e-3


def test_a_resume_on_two_processes_is_bit_equal(two, tmp_path):
    """Each process gets back its own anchors, which came from batches of its own."""
    whole, folder = two
    checkpoint = folder / "checkpoints" / "iteration_000002.ckpt"
    again = _run(tmp_path / "again", 2, *OPTIONS, str(checkpoint))
    for before, after in zip(whole, again, strict=True):
        assert differences(before, after) == []
    assert whole[0]["anchors"].keys() != whole[1]["anchors"].keys()


@pytest.mark.parametrize("now", [1, 2])
def test_a_resume_may_have_more_or_fewer_processes(one, two, tmp_path, now):
    """As `resume.allow=[processes]` has it: the same prompts, dealt out otherwise."""
    before = (two, one)[now - 1][1] / "checkpoints" / "iteration_000002.ckpt"
    again = _run(tmp_path / "again", now, *OPTIONS, str(before))
    for name, weight in one[0]["weights"].items():
        assert torch.allclose(weight, again[0]["weights"][name], rtol=1e-3, atol=1e-5), name


# Preference models --------------------------------------------------------------------------------


def _preference_model(folder: Path, processes: int) -> tuple[dict[str, torch.Tensor], Path, str]:
    """Train one by command; its weights, its folder, and what was printed."""
    folder.mkdir()
    save_policy(tiny_policy(), folder / "backbone")
    pairs = [
        {"prompt": f"say {i}", "chosen": "yes" * (i % 3 + 1), "rejected": "no"} for i in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    done = train(
        "experiment=train_preference_model", f"data.path={folder / 'pairs.jsonl'}",
        "data.held_out=8", f"preference_training.backbone={folder / 'backbone'}",
        "preference_training.batch_size=8", "preference_training.micro_batch_size=4",
        "preference_training.evaluate_every=1", "preference_training.lr=1e-3",
        f"hydra.run.dir={folder / 'run'}", *SEVERAL[processes],
        environment=clean_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    weights = load_file(folder / "run" / "preference_model" / "model.safetensors")
    return weights, folder / "run", done.stdout


SEVERAL = {1: (), 2: ("trainer.devices=2", "+trainer.strategy=ddp")}


def test_a_preference_model_of_two_processes_is_that_of_one(tmp_path):
    """The same pairs in each optimiser step, gradients averaged, and one process that writes."""
    single, folder, _ = _preference_model(tmp_path / "one", 1)
    several, other, printed = _preference_model(tmp_path / "two", 2)
    assert printed.count("texts cut at") == 1
    for name, weight in single.items():
        torch.testing.assert_close(several[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    found, expected = (json.loads((f / "evaluation.json").read_text()) for f in (other, folder))
    assert found["accuracy"] == expected["accuracy"]
    files = [
        sorted(f.name for f in run.rglob("*") if "ddp" not in f.name) for run in (folder, other)
    ]
    assert files[0] == files[1]
