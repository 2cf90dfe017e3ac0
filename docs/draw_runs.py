"""Draw a healthy and a hacked run side by side: ``python docs/draw_runs.py HEALTHY HACKED``.

Writes ``docs/runs.png``, the picture of docs/reading_a_run.md, from the runs' metrics.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.loggers import read_metrics
from gprl_lightning.tracking.panels import panels_of
from gprl_lightning.tracking.report import draw

SHOWN = (metrics.EVAL_WIN_RATE, metrics.per_axis(metrics.EVAL_GOLD, "fluency"), metrics.KL)
HERE = Path(__file__).parent


def main(healthy: str, hacked: str) -> None:
    """Draw the panels that hold `SHOWN`, one run per column."""
    figure = Figure(figsize=(10, 9.5), layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(len(SHOWN), 2)
    for place, (word, folder) in enumerate((("healthy", healthy), ("hacked", hacked))):
        columns = read_metrics(Path(folder) / "metrics.csv")
        for row, metric in enumerate(SHOWN):
            (panel,) = [p for p in panels_of(columns) if metric in p.lines]
            draw(plots[row, place], panel, columns)
            plots[row, place].set_title(f"{word}: {panel.title}")
    for pair in plots:  # one scale for both
        low, high = zip(*(plot.get_ylim() for plot in pair), strict=True)
        for plot in pair:
            plot.set_ylim(min(low), max(high))
    figure.savefig(HERE / "runs.png", dpi=75)


if __name__ == "__main__":
    main(*sys.argv[1:3])
