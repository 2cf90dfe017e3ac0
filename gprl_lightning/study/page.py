"""The study as one HTML page without anything outside of it, with PNG and CSV files beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gprl_lightning.study import figures
from gprl_lightning.study.bootstrap import LEAST_EFFECT, RESAMPLES
from gprl_lightning.study.claims import claims_for
from gprl_lightning.study.comparison import Arms, Compared, by_arm, compare
from gprl_lightning.study.runs import Run, read_grid
from gprl_lightning.study.settings import settings_figure
from gprl_lightning.study.tables import arm_rows, comparison_rows, curve_rows, write_table

FOLDER = "report"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1150px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
td, th { border: 1px solid #ccc; padding: 3px 7px; text-align: left; vertical-align: top; }
td.number { text-align: right; white-space: nowrap; }
.supported { background: #d9f2dd; } .not { background: #f7d9d9; } .undecided { background: #eee; }
img { max-width: 100%; } code { font-size: 12px; word-break: break-all; }
"""
PICTURES = {
    "main": "Gold win rate of the main arms, with 95 % bands over seeds",
    "arms_iteration": "Gold and proxy win rate against iteration",
    "arms_distance": "Gold and proxy win rate against √KL (as far as every seed comes)",
    "settings": "The methods in each setting: every seed, and the mean",
    "summary": "Peak and final gold, and the share of the peak that is kept",
    "differences": "Paired differences, by claim",
    "axes": "The gold's axes",
    "behaviour": "Distance, length, diversity",
    "drift": "The drift monitor",
}


def write_study(folder: Path) -> Path:
    """Write ``report/`` in a grid's folder: index.html, PNG and CSV files. Returns the page.

    Raises:
        ValueError: no finished run, or a run without what is needed.
    """
    runs = read_grid(folder)
    if not runs:
        raise ValueError(f"{folder}: expected finished runs of a grid; found none.")
    arms = by_arm(runs)
    claims = claims_for(list(arms))
    compared = [compare(arms, c) for c in claims if arms[c.arm].keys() & arms[c.against].keys()]
    out = folder / FOLDER
    out.mkdir(exist_ok=True)
    write_table(arm_rows(arms), out / "arms.csv")
    write_table(curve_rows(arms), out / "curves.csv")
    write_table(comparison_rows(compared), out / "comparisons.csv")
    pictures = _pictures(arms, compared, out)
    page = out / "index.html"
    page.write_text(_page(folder.resolve().name, runs, arms, compared, pictures), encoding="utf8")
    return page


def _pictures(arms: Arms, compared: Sequence[Compared], out: Path) -> dict[str, Path]:
    drawn = {
        "main": figures.main_figure(arms),
        "arms_iteration": figures.arms_figure(arms, "iteration"),
        "arms_distance": figures.arms_figure(arms, "distance"),
        "settings": settings_figure(arms),
        "summary": figures.summary_figure(arms),
        "differences": figures.differences_figure(compared) if compared else None,
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
        "<p>Differences are the arm's gold win rate less the other's, in points, seed by seed. "
        "<i>Equal step</i>: at the horizon (the mean of the last two evaluations). <i>Equal "
        "√KL</i>: the mean over the far half of the √KL range that both runs of a pair "
        "come to. Intervals are 95 %: on each side the wider of the paired "
        f"bootstrap over seeds ({RESAMPLES:,} resamples) and Student's, because a bootstrap of few "
        "seeds is too narrow. <b>Supported</b>: both intervals lie above 0. <b>Not supported</b>: "
        f"either lies wholly below +{100 * LEAST_EFFECT:.0f} points. <b>Undecided</b> at this "
        "sample size: anything else, and fewer than three seeds. The claims are tested one by one, "
        "with no correction for their number. The paper's figures are points of AlpacaEval 2.0 at "
        "8B, another scale; those marked so are known second-hand. <i>Share kept</i> is final over "
        "peak gold: an arm that never rose has little to lose, so read it beside the peak.</p>"
    )


def _claims_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("claim", "arm", "against", "seeds", "equal step", "equal √KL", "share kept",
            "verdict", "paper, points")  # fmt: skip
    body = [
        [
            _text(row["claim"]),
            _text(row["arm"]),
            _text(row["against"]),
            _text(row["seeds"]),
            *(_number(row, name, "+.1f") for name in ("final", "distance", "kept")),
            f'<td class="{str(row["verdict"]).partition(" ")[0]}" title="equal step: '
            f'{row["at equal step"]}; equal √KL: {row["at equal √KL"]}">{row["verdict"]}</td>',
            _text(row["paper, points"]),
        ]
        for row in rows
    ]
    return _table(head, body)


def _arms_table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = {
        "gold peak": ".3f", "gold final": ".3f", "gold kept": ".2f", "gold area": ".3f",
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
    return _table(("arm", "seeds", *shown), body)


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
