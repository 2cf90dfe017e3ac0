"""The study as one HTML page without anything outside of it, with PNG and CSV files beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gprl_lightning.study import figures
from gprl_lightning.study.alpha_spending import levels
from gprl_lightning.study.claims import claims_for
from gprl_lightning.study.comparison import Arms, Compared, by_arm, common_seeds, compare
from gprl_lightning.study.curves import COLLAPSE
from gprl_lightning.study.intervals import LEVEL
from gprl_lightning.study.runs import Run, read_grid
from gprl_lightning.study.settings import settings_figure
from gprl_lightning.study.stopping import CLOCK, FIXED_BETA, KL_TRIGGER
from gprl_lightning.study.tables import (
    SUMMARY,
    arm_rows,
    comparison_rows,
    curve_rows,
    write_table,
)
from gprl_lightning.study.verdict_figures import differences_figure, summary_figure
from gprl_lightning.study.verdicts import MARGIN

FOLDER = "report"
STOPS = (FIXED_BETA, CLOCK, KL_TRIGGER)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
td, th { border: 1px solid #ccc; padding: 3px 7px; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
.better { background: #d9f2dd; } .worse { background: #f7d9d9; } .undecided { background: #eee; }
.equivalent { background: #d9e6f7; }
img { max-width: 100%; } code { font-size: 12px; word-break: break-all; }
"""
PICTURES = {
    "main": "Gold win rate of the main arms, with 95 % bands over seeds",
    "arms_iteration": "Gold and proxy win rate against iteration",
    "arms_distance": "Gold and proxy win rate against √KL (as far as every seed comes)",
    "settings": "The methods in each setting: every seed, and the mean",
    "summary": "Gold at the peak, where the proxy is best and at the horizon; drops and collapses",
    "differences": "Paired differences, by claim and question",
    "axes": "The gold's axes",
    "behaviour": "Distance, length, diversity",
    "drift": "The drift monitor",
}


def write_study(folder: Path, tuning: Collection[int] = (), looks: Sequence[int] = ()) -> Path:
    """Write ``report/`` in a grid's folder: index.html, PNG and CSV files. Returns the page.

    Args:
        folder: of the grid.
        tuning: seeds that choose the simple stops and are not compared; without them each seed's
            stops are chosen on all others.
        looks: numbers of seeds at which this study was or will be judged, the planned size last;
            without them this is its only look.

    Raises:
        ValueError: no finished run, a run without what is needed, or a number of seeds that is not
            among the looks.
    """
    runs = read_grid(folder)
    if not runs:
        raise ValueError(f"{folder}: expected finished runs of a grid; found none.")
    arms = by_arm(runs)
    compared = []
    for claim in claims_for(list(arms)):
        if seeds := common_seeds(arms, claim, tuning):
            compared.append(compare(arms, claim, tuning, _level(len(seeds), looks)))
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    write_table(arm_rows(arms), out / "arms.csv")
    write_table(curve_rows(arms), out / "curves.csv")
    write_table(comparison_rows(compared), out / "comparisons.csv")
    pictures = _pictures(arms, compared, out)
    page = out / "index.html"
    page.write_text(_page(folder.resolve().name, runs, arms, compared, pictures), encoding="utf8")
    return page


def _level(seeds: int, looks: Sequence[int]) -> float:
    """The level of this look at a study."""
    if not looks:
        return LEVEL
    if seeds not in looks:
        raise ValueError(
            f"looks: expected a look at {seeds} seeds, which this comparison has; got {[*looks]}."
        )
    return levels(looks)[list(looks).index(seeds)]


def _pictures(arms: Arms, compared: Sequence[Compared], out: Path) -> dict[str, Path]:
    drawn = {
        "main": figures.main_figure(arms),
        "arms_iteration": figures.arms_figure(arms, "iteration"),
        "arms_distance": figures.arms_figure(arms, "distance"),
        "settings": settings_figure(arms),
        "summary": summary_figure(arms),
        "differences": differences_figure(compared) if compared else None,
        "axes": figures.axes_figure(arms),
        "behaviour": figures.behaviour_figure(arms),
        "drift": figures.drift_figure(arms),
    }
    return {
        name: figures.save(figure, out / f"{name}.png")
        for name, figure in drawn.items()
        if figure is not None
    }


def _page(
    title: str,
    runs: Sequence[Run],
    arms: Arms,
    compared: Sequence[Compared],
    pictures: Mapping[str, Path],
) -> str:
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        _origin(runs, arms),
        "<h2>Claims</h2>",
        _method(),
        _claims_table(comparison_rows(compared)) if compared else "<p>Nothing to compare.</p>",
        "<h2>Arms</h2>",
        _arms_table(arm_rows(arms)),
        *(
            f"<h2>{html.escape(caption)}</h2>{_image(pictures[name], caption)}"
            for name, caption in PICTURES.items()
            if name in pictures
        ),
    ]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _origin(runs: Sequence[Run], arms: Arms) -> str:
    commits = sorted({str(run.summary.get("git_commit")) for run in runs})
    command = " ".join(str(part) for part in runs[0].summary.get("command", []))
    counts = sorted({len(by_seed) for by_seed in arms.values()})
    seeds = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return (
        f"<p>{len(runs)} runs: {len(arms)} arms with {seeds} seeds each. Commit "
        f"<code>{html.escape(', '.join(commits))}</code>. Command "
        f"<code>{html.escape(command)}</code></p>"
    )


def _method() -> str:
    return (
        "<p>Differences are the arm's gold win rate less the other's, in points, seed by seed, "
        "with Student's intervals. Two questions. <b>A better frontier?</b> The mean over the far "
        "half of the √KL range that both runs of a pair come to. <b>A better stop?</b> Gold at the "
        "horizon (the mean of the last two evaluations), the other arm being under its best fixed "
        "β, stopped by a clock, or stopped by a √KL trigger, each chosen on other seeds; the arm "
        "has to beat all three.</p><p><b>Better</b> and <b>worse</b>: the interval lies on one "
        "side of 0 and the sign-flip permutation test agrees (that of five seeds cannot: its p is "
        f"1/16 at best). <b>Equivalent</b>: the interval lies within ±{100 * MARGIN:.0f} points, "
        "whatever its sign. <b>Undecided</b>: anything else. <i>Detectable</i> is the true "
        "difference that this many seeds of this spread would show in four studies of five. Seeds "
        "must not be added because a comparison is undecided, unless the looks were named before "
        "(<code>--looks</code>). The claims are tested one by one, with no correction for their "
        "number. The paper's figures are points of AlpacaEval 2.0 at 8B, another scale; those "
        "marked so are known second-hand.</p>"
    )


def _claims_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("claim", "arm", "against", "seeds", "at equal √KL", "better frontier?",
            "at the horizon", *(f"… {name}" for name in STOPS), "better stop?",
            "paper, points")  # fmt: skip
    body = [
        [
            *(_text(row[name]) for name in ("claim", "arm", "against", "seeds")),
            _difference(row, "frontier"),
            _verdict(row["frontier verdict"]),
            *(_difference(row, name) for name in ("horizon", *STOPS)),
            _verdict(row["better stop"]),
            _text(row["paper, points"]),
        ]
        for row in rows
    ]
    return _table(head, body)


def _difference(row: Mapping[str, Any], name: str) -> str:
    """A difference with what could be found; its verdict and p are shown under the pointer."""
    said = f"{row[f'{name} verdict']}; sign-flip p {row[f'{name} sign-flip p']}"
    cell = _number(row, name, "+.1f").replace("<td", f'<td title="{said}"', 1)
    found = row[f"{name} detectable"]
    least = "" if found == "" else f"<br><small>detectable {found:.0f}</small>"
    return cell.replace("</td>", f"{least}</td>")


def _verdict(word: str) -> str:
    return f'<td class="{word}">{word}</td>'


def _arms_table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = {label: ".3f" for label in SUMMARY.values()} | {
        "collapse rate": ".2f",
        "length-controlled gold final": ".3f", "proxy final": ".3f", "KL final": ".1f",
        "length final": ".1f", "distinct bigrams final": ".2f", "β final": ".3f",
        "active steps": ".1f", "axis correlation, first ten": ".2f",
    }  # fmt: skip
    body = [
        [
            _text(row["arm"]),
            _text(row["seeds"]),
            *(_number(row, name, form) for name, form in shown.items()),
        ]
        for row in rows
    ]
    return _table(("arm", "seeds", *shown), body) + (
        "<p><i>Gold at the horizon</i>: the mean of the last two evaluations. <i>Peak</i> and "
        "<i>worst drop</i> (from the running best) are found on one half of the comparisons and "
        "read on the other, so that noise makes neither; runs that logged no halves have none. "
        "<i>Where the proxy is best</i>: what one would ship without a gold. <i>Collapse</i>: gold "
        f"under {COLLAPSE:.1f} at the horizon, with the exact binomial interval.</p>"
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    rows = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    return f"<table><tr>{top}</tr>{rows}</table>"


def _text(value: Any) -> str:
    return f"<td>{html.escape(str(value))}</td>"


def _number(row: Mapping[str, Any], name: str, form: str) -> str:
    """A mean and, where there is one, its interval."""
    mean, low, high = row[name], row[f"{name} low"], row[f"{name} high"]
    if mean == "":
        return '<td class="number">–</td>'
    bounds = "" if low == "" else f"<br>[{low:{form}}, {high:{form}}]"
    return f'<td class="number">{mean:{form}}{bounds}</td>'


def _image(file: Path, caption: str) -> str:
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
