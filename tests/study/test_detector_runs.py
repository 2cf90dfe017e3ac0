"""Detectors on finished runs: labels by gold, replays, rivals, and the files."""

from __future__ import annotations

import csv
import itertools
import json
import math

import numpy as np
import pytest
import torch

from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.errors import ConfigError
from gprl_lightning.study import detectors
from gprl_lightning.study.detector_runs import (
    Replayed,
    finished,
    judge_gold,
    roc_rows,
    write_runs,
)
from gprl_lightning.study.detectors import Watch
from gprl_lightning.study.recorded import ensemble_disagreement
from gprl_lightning.study.streams import Evidence
from gprl_lightning.tracking.rollout_log import rollout_file


@pytest.mark.parametrize(
    "gold,expected",
    [
        ([0.5, 0.6, 0.7, 0.7, 0.7], ("healthy", None)),
        ([0.5, 0.7, 0.7, 0.6, 0.45, 0.3], ("lossy", 4)),  # smoothed .6 .633 .667 .583 .45 .375
        ([0.5, 0.7, 0.7, 0.62, 0.58], ("unclear", None)),  # smoothed .6 .633 .673 .633 .6
        ([0.5, 0.5, 0.5], ("healthy", None)),  # it learned nothing, and lost nothing
    ],
)
def test_a_run_is_called_by_its_gold(gold, expected):
    assert judge_gold(np.array(gold)) == expected


def _replayed(seed: int, label, statistic: list[float], limit=None, own=0.5) -> Replayed:
    watch = Watch(torch.tensor(statistic, dtype=torch.float64), own)
    rival = Watch(torch.arange(len(statistic), dtype=torch.float64), math.inf)
    return Replayed(
        f"run {seed} {label}", f"seed {seed}", label, limit, {"a": watch, "clock": rival}
    )


def _runs() -> list[Replayed]:
    """A statistic that rises in every run, and further in a lossy one: its own threshold alarms in
    all healthy runs, one set on others tells them apart. An unclear run is left out."""
    found = [_replayed(8, "unclear", [0, 99, 99, 99])]
    for seed in range(8):
        found.append(_replayed(seed, "healthy", [0, 1, 1 + 0.01 * seed, 1]))
        found.append(_replayed(seed, "lossy", [0, 1, 3, 3], limit=3))
    return found


def test_rows_by_other_seeds_thresholds_and_by_its_own():
    mine, clock = roc_rows(_runs(), 0.2)
    assert (mine["healthy"], mine["lossy"]) == (8, 8)
    assert (mine["area"], mine["in time"], mine["lead"]) == (1, 1, 1)
    assert mine["area low"] == 1 and mine["own false alarms"] == 1
    assert mine["own false alarms low"] == pytest.approx(0.025 ** (1 / 8))
    # A seed's threshold lets one of the other seven alarm: only the highest of all does.
    assert mine["false alarms"] == pytest.approx(2 / 8)
    assert (clock["area"], clock["in time"]) == (0, 0) and "own false alarms" not in clock


def test_the_files_and_the_table(tmp_path, capsys):
    files = write_runs(tmp_path, _runs(), 0.2)
    assert all(file.stat().st_size > 0 for file in files.values())
    with files["runs.csv"].open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 17 * 2 and rows[2]["first_alarm"] == "2"
    printed = capsys.readouterr().out
    assert "8 healthy and 8 lossy runs: fewer than 30" in printed


def test_runs_are_those_of_grids_too(tmp_path):
    for name in ("grid/a", "grid/b", "alone"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "summary.json").write_text(json.dumps({"seed": 3}))
    (tmp_path / "alone" / "metrics.csv").write_text("")
    (tmp_path / "grid" / "unfinished").mkdir()
    found = finished([tmp_path / "grid", tmp_path / "alone"])
    assert [run.name for run in found] == ["a", "b", "alone"]


def test_the_rivals_by_hand():
    """The KL is smoothed from its calibration's mean on, at a half: 1, then 2, then 3.5."""
    zeros = torch.zeros(4, dtype=torch.float64)
    kl = torch.tensor([0.0, 2.0, 3.0, 5.0], dtype=torch.float64)
    evidence = Evidence(zeros[:, None], zeros[:, None], zeros[:, None], zeros, kl, zeros, zeros)
    settings = DriftSettings(mode="monitor_only", calibration_steps=2, ema=0.5)
    assert detectors.kl_trigger(evidence, settings).statistic.tolist() == [0, 0, 2, 3.5]
    assert detectors.clock(evidence, settings).statistic.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"set detectors\.ensemble"):
        detectors.disagreement(evidence, settings)


def test_an_ensemble_disagrees_by_the_spread_of_its_win_probabilities(tmp_path):
    """By loops over pairs, of two iterations' rollouts; each holds until the next."""
    from gprl_lightning.models.initialization import from_backbone
    from tests.tiny import tiny_model, tiny_tokenizer

    ensemble = []
    for seed in range(3):
        torch.manual_seed(seed)
        kind, axes = (("gpm", 2), ("gpm", 1), ("bradley_terry", 1))[seed]
        model = from_backbone(tiny_model("llama").model, tiny_tokenizer(), kind=kind, num_axes=axes)
        for weights in model.parameters():
            weights.data += 0.3 * torch.randn_like(weights)
        ensemble.append(model.eval())
    answers = {
        2: [["yes", "no no", "why"], ["a", "b c", "go"]],
        4: [["x", "y", "z"], ["u", "v", "w"]],
    }
    prompts = ["sing", "count"]
    expected = {}
    for iteration, texts in answers.items():
        file = rollout_file(tmp_path, iteration)
        file.parent.mkdir(exist_ok=True)
        rows = [
            {"group": g, "prompt": prompts[g], "response": text}
            for g, row in enumerate(texts)
            for text in row
        ]
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        spreads = []
        for prompt, row in zip(prompts, texts, strict=True):
            compared = [model.compare(prompt, row).win_probability.double() for model in ensemble]
            for i, j in itertools.permutations(range(3), 2):
                spreads.append(np.std([float(c[i, j]) for c in compared]))
        expected[iteration] = np.mean(spreads)
    found = ensemble_disagreement(tmp_path, ensemble, 5).tolist()
    assert found == pytest.approx([expected[2]] * 3 + [expected[4]] * 2, rel=1e-5)
    assert expected[2] > 1e-4 and expected[2] != pytest.approx(expected[4], rel=1e-3)
    with pytest.raises(ConfigError, match="expected runs that kept rollouts"):
        ensemble_disagreement(tmp_path / "none", ensemble, 5)


def test_finished_runs_are_read_labelled_and_clustered_by_seed(tmp_path):
    """Gold .5 to .7 and down to .4: at iteration 30 the smoothed curve has lost more than ten
    points. The surprise (entropy and KL) jumps at iteration 25, and its own threshold sees it."""
    from gprl_lightning.config import Config
    from gprl_lightning.study.detector_runs import read_runs
    from gprl_lightning.tracking import metrics
    from gprl_lightning.tracking.loggers import MetricsCSV

    curves = {"lossy": {0: 0.5, 10: 0.7, 20: 0.68, 30: 0.4, 40: 0.4}}
    curves["healthy"] = dict.fromkeys(curves["lossy"], 0.6)
    for seed, (name, gold) in enumerate(curves.items()):
        folder = tmp_path / "grid" / name
        folder.mkdir(parents=True)
        log = MetricsCSV(folder)
        for iteration in range(41):
            row = {metrics.EVAL_WIN_RATE: gold[iteration]} if iteration in gold else {}
            if iteration:
                jump = 3.0 * (name == "lossy" and iteration >= 25)
                row |= {metrics.KL: 0.1, metrics.RESPONSE_LENGTH: 20.0}
                row |= {metrics.ENTROPY: 1 + 0.02 * (iteration % 3) + jump}
                row |= {metrics.per_axis(metrics.AXIS_SCORE_STD, a): 1.0 + a for a in range(2)}
                row |= {metrics.per_axis(metrics.AXIS_EIGENVALUE, a): 0.5 for a in range(2)}
            log.log_metrics(row, step=iteration)
        (folder / "summary.json").write_text(json.dumps({"seed": seed}))
    config = Config()
    config.detectors.runs = [str(tmp_path / "grid")]
    healthy, lossy = read_runs(config, DriftSettings(mode="monitor_only"))
    assert (healthy.label, healthy.cluster, healthy.limit) == ("healthy", "seed 1", None)
    assert (lossy.label, lossy.cluster, lossy.limit) == ("lossy", "seed 0", 29)
    assert lossy.watches["surprise"].first_alarm() == 24, "iteration 25 is the step at place 24"
    assert lossy.watches["clock"].statistic[-1] == 39
    assert lossy.watches["variance_share"].first_alarm() is None
    assert "disagreement" not in lossy.watches
