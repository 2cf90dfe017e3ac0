"""What an iteration costs as the group, the prompts or the responses grow: lines, and how straight.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_scaling [--plot docs/scaling.png]

From setup A (4 prompts, G = 8, 64 new tokens) one of the three is varied. Each point is a short run
of the whole program (Lightning, logging, drift monitor, preference model); CPU-seconds of an
iteration, the median of those after the first. A line is fitted to each; a slope is also given as
the exponent p of cost ~ size^p, which is 1 for a line through 0, and less with a constant part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from tests.benchmarks.bench_trl import CACHE
from tests.benchmarks.recording import CPU, recorded
from tests.benchmarks.setups import SETUPS, make_world

SIZES: dict[str, tuple[int, ...]] = {
    "group_size": (4, 8, 16, 32),
    "prompts": (2, 4, 8, 16),
    "new_tokens": (16, 32, 64, 128),
}
LABELS = {
    "group_size": "G, with 4 prompts",
    "prompts": "prompts, with G = 8",
    "new_tokens": "response length, tokens",
}


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """(slope, intercept, R²) of the least-squares line."""
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.asarray(y) - slope * np.asarray(x) - intercept
    return float(slope), float(intercept), float(1 - residual.var() / np.var(y))


def plot(points: dict[str, tuple[Sequence[int], Sequence[float]]], file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 2.9), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(points), sharey=True)
    top = 1.05 * max(value for _, y in points.values() for value in y)
    for panel, (name, (x, y)) in zip(panels, points.items(), strict=True):
        slope, intercept, fit = line(x, y)
        ends = np.array([0, max(x)])
        panel.plot(ends, slope * ends + intercept, color="tab:blue", linewidth=1)
        panel.plot(x, y, "o", color="tab:blue", markersize=5)
        panel.set(xlabel=LABELS[name], xlim=(0, None), ylim=(0, top))
        panel.set_title(f"R² = {fit:.3f}", fontsize=9)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("CPU-seconds per iteration")
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=3, help="of each point")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = SETUPS["A"]
    world, points = make_world(base, options.cache), {}
    for name, sizes in SIZES.items():
        runs = [recorded(replace(base, **{name: s}), world, options.iterations) for s in sizes]
        found = [median(row[CPU] for row in rows) for rows in runs]
        points[name] = (sizes, found)
        slope, intercept, fit = line(sizes, found)
        exponent = line(np.log(sizes), np.log(found))[0]
        values = "  ".join(f"{s}: {c:.2f}" for s, c in zip(sizes, found, strict=True))
        print(f"{LABELS[name]}: {values} CPU-s")
        print(
            f"  {1e3 * slope:.1f} ms each, {1e3 * intercept:+.0f} ms constant, R² {fit:.4f}, "
            f"exponent {exponent:.2f}",
            flush=True,
        )
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
