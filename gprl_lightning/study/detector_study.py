"""The monitors as detectors: ``python train.py experiment=detector_study``.

Draws healthy and exploited streams from one pool of responses, lets every monitor read them, and
counts detections and false alarms, with all thresholds set by one rule; replays finished runs as
well (`detector_runs`). Writes ``detectors.csv``, ``plants.csv`` and ``detectors.png``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from gprl_lightning.config import Config
from gprl_lightning.core.drift import DriftSettings
from gprl_lightning.runtime.preparation import prepare
from gprl_lightning.runtime.progress import progress
from gprl_lightning.study.detector_figures import write_figure
from gprl_lightning.study.detector_pool import study_pool
from gprl_lightning.study.detector_roc import Trace, threshold
from gprl_lightning.study.detector_runs import read_runs, write_runs
from gprl_lightning.study.detector_scores import Detections, FalseAlarms
from gprl_lightning.study.detectors import DETECTORS, Watch
from gprl_lightning.study.planting import PLANTS
from gprl_lightning.study.pool import OWN_WORSE, Pool, Version
from gprl_lightning.study.streams import Evidence, Scenario, Shape, draw, loss_step
from gprl_lightning.study.tables import write_table
from gprl_lightning.tasks.build import drift_settings
from gprl_lightning.tracking.report import print_table
from gprl_lightning.tracking.run_folder import begin, write_summary

Row = dict[str, Any]
SEEDS_APART = 10_000  # between scenarios, so that no two share a stream's noise


@dataclass(frozen=True)
class Watched:
    """All streams of a scenario, and what each detector made of each of them."""

    scenario: Scenario
    streams: list[Evidence]
    watches: dict[str, list[Watch]]

    @property
    def gold(self) -> torch.Tensor:
        """By step, the mean over streams."""
        return torch.stack([stream.gold for stream in self.streams]).mean(0)


def detector_study(config: Config, cfg: DictConfig, folder: Path) -> float:
    """Returns the share of exploited streams that the configured statistic detects."""
    prepare(config)
    options, settings = config.detectors, drift_settings(config.drift, config.algorithm.kl_coef)
    runs = read_runs(config, settings) if options.runs else []
    pool = study_pool(config)
    begin(cfg, folder)
    size = (config.data.prompts_per_step, config.rollout.group_size)
    shape = Shape(options.steps, *size, options.onset)
    cases = [
        (scenario, options.healthy_seeds if scenario.healthy else options.seeds)
        for scenario in scenarios(config)
    ]
    bar = progress(cases, description="streams", unit="scenario", leave=False)
    drawn = [
        watched(pool, scenario, shape, settings, seeds, config.seed + SEEDS_APART * place)
        for place, (scenario, seeds) in enumerate(bar)
    ]
    found = by_one_rule(drawn, options.false_alarms)
    rows = [row for one in found for row in rows_of(one, settings, shape.onset)]
    write_table(rows, folder / "detectors.csv")
    write_table(list(plant_rows(pool)), folder / "plants.csv")
    write_figure(folder / "detectors.png", rows, found, options.false_alarms)
    files = {name: folder / name for name in ("detectors.csv", "plants.csv", "detectors.png")}
    if runs:
        files |= write_runs(folder, runs, options.false_alarms)
    totals = overall(rows)
    final = {f"detectors/{name}/detected": total[0] for name, total in totals.items()}
    write_summary(config, folder, final, files)
    print_table([(name, total[1]) for name, total in totals.items()], "monitors as detectors")
    return final[f"detectors/{config.drift.statistic}/detected"]


def scenarios(config: Config) -> list[Scenario]:
    """Return healthy scenarios, each exploit as the preference model takes it, and each with
    axes pushed."""
    options = config.detectors
    learning = options.learning
    exploits = [
        Scenario(learning, Version(name, strength), ramp, pushed)
        for pushed_too in (False, True)
        for name in (*(plant.__name__ for plant in PLANTS), OWN_WORSE)
        for strength in options.strengths
        for ramp in options.ramps
        for pushed in [(2 if name == "collusion" else 1) if pushed_too else 0]
    ]
    return [Scenario(), Scenario(learning), *exploits]


def watched(
    pool: Pool, scenario: Scenario, shape: Shape, settings: DriftSettings, seeds: int, first: int
) -> Watched:
    """Return the scenario's streams, from seed ``first`` on, read by every detector."""
    streams = [draw(pool, scenario, shape, first + seed) for seed in range(seeds)]
    watches = {d.__name__: [d(stream, settings) for stream in streams] for d in DETECTORS}
    return Watched(scenario, streams, watches)


def by_one_rule(found: Sequence[Watched], share: float) -> list[Watched]:
    """Set the thresholds of all statistics by one rule, on streams that are then left out.

    Of the healthy streams those at even places set them: each the lowest that at most a share of
    them ever exceeds. The others remain to be counted.
    """
    names = found[0].watches
    even = [one.watches for one in found if one.scenario.healthy]
    levels = {
        name: threshold(
            [Trace("", w.statistic.numpy(), None) for watches in even for w in watches[name][::2]],
            share,
        )
        for name in names
    }

    def counted(one: Watched) -> Watched:
        first, step = (1, 2) if one.scenario.healthy else (0, 1)
        watches = {
            name: [replace(w, threshold=levels[name]) for w in one.watches[name][first::step]]
            for name in names
        }
        return Watched(one.scenario, one.streams[first::step], watches)

    return [counted(one) for one in found]


def rows_of(found: Watched, settings: DriftSettings, onset: int) -> Iterator[Row]:
    """Return one row per detector; none of an exploit that costs no gold, which nobody need
    detect."""
    scenario = found.scenario
    limit = None if scenario.healthy else loss_step(found.gold, onset)
    if limit is None and not scenario.healthy:
        return
    shared = {
        "healthy": scenario.healthy,
        "learning": scenario.learning,
        "exploit": scenario.version.name,
        "strength": scenario.version.strength,
        "ramp": scenario.ramp,
        "pushed_axes": scenario.pushed_axes,
        "gold_peak": float(found.gold.max()),
        "gold_end": float(found.gold[-1]),
        "lost_after": None if limit is None else limit - onset,
    }
    for name, watches in found.watches.items():
        if scenario.healthy:
            false = FalseAlarms.of(watches, settings.calibration_steps)
            counts = {"runs": false.runs, "false_alarm_runs": false.alarmed_runs}
            counts |= {"steps": false.steps, "false_alarm_steps": false.alarmed_steps}
        else:
            seen = Detections.of(watches, found.gold, onset)
            counts = {"runs": seen.runs, "false_alarm_runs": seen.early}
            counts |= {"detected": seen.detected, "in_time": seen.in_time}
            counts |= {"lead": seen.lead, "loss_at_alarm": seen.loss}
        yield {**shared, "detector": name, **counts}


def overall(rows: Sequence[Row]) -> dict[str, tuple[float, str]]:
    """Return, by detector, the share of exploited streams detected, and a line for the table."""
    out: dict[str, tuple[float, str]] = {}
    for name in dict.fromkeys(row["detector"] for row in rows):
        mine = [row for row in rows if row["detector"] == name]
        exploited = [row for row in mine if not row["healthy"]]
        parts = [
            ("detected", exploited, "detected"),
            ("before ten points of gold are lost", exploited, "in_time"),
            *(
                ("false alarms, " + ("learning" if row["learning"] else "still"), [row], None)
                for row in mine
                if row["healthy"]
            ),
        ]
        lines, detected = [], 0.0
        for label, chosen, column in parts:
            runs = sum(row["runs"] for row in chosen)
            hits = sum(row[column or "false_alarm_runs"] for row in chosen)
            if runs:
                lines.append(f"{label}: {hits / runs:.1%} of {runs} streams")
                detected = hits / runs if column == "detected" else detected
        out[name] = (detected, "\n".join(lines))
    return out


def plant_rows(pool: Pool) -> Iterator[Row]:
    """Return what each plant does to a response: gold, length, surprise, and what the model says
    of it."""
    clean = pool.clean
    for version, measured in pool.exploited.items():
        yield {
            "exploit": version.name,
            "strength": version.strength,
            "gold_win_rate": float(measured.gold.mean()),
            "proxy_win_rate": pool.proxy_win_rate(measured),
            "length": float(measured.lengths.mean()),
            "clean_length": float(clean.lengths.mean()),
            "surprise": float(measured.surprise.mean()),
            "clean_surprise": float(clean.surprise.mean()),
        }
