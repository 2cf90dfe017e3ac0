"""The panels of a run's report: which curves answer which question, for picture and page alike."""

from __future__ import annotations

from dataclasses import dataclass, field

from gprl_lightning.config.judging import PROXY
from gprl_lightning.tracking import metrics

Columns = dict[str, tuple[list[int], list[float]]]


@dataclass(frozen=True)
class Panel:
    """One question, and the curves that answer it.

    Attributes:
        title: of the panel.
        unit: of the vertical axis; empty for shares and other pure numbers.
        lines: labels by metric, of metrics that the run has measured.
        band: the metrics of an interval's lower and upper end, drawn around the first line.
        level: a height that is marked, such as an even win rate.
        dashed: the metrics that are drawn as dashed lines.
        dots: a metric whose nonzero iterations are marked as dots on the first line.
    """

    title: str
    unit: str
    lines: dict[str, str]
    band: tuple[str, str] | None = None
    level: float | None = None
    dashed: tuple[str, ...] = ()
    dots: str | None = None
    dots_label: str = field(default="intervention")


def panels_of(columns: Columns) -> list[Panel]:
    """Return the panels that have something to show: no panel is empty."""
    found = [*_preference_model(columns), *_policy(columns)]
    return [panel for panel in found if panel.lines]


def other_panels(columns: Columns) -> list[Panel]:
    """Return a panel for each group of metrics that `panels_of` does not show."""
    shown = {name for panel in panels_of(columns) for name in (*panel.lines, *(panel.band or ()))}
    groups: dict[str, dict[str, str]] = {}
    for name in sorted(columns):
        if name not in shown:
            stem, _, last = name.rpartition("/")
            title, label = (stem, last) if "/" in stem else (name, name)
            groups.setdefault(title, {})[name] = label
    return [Panel(title, "", lines) for title, lines in groups.items()]


def _policy(columns: Columns) -> list[Panel]:
    win = _win_rates(columns)
    by_axis = [(metrics.AXIS_SCORE_STD, "spread of scores in a group, by axis", "std")]
    several = len(_axes(columns, metrics.AXIS_EIGENVALUE)) > 1  # of one axis they never change
    by_axis += several * [
        (metrics.AXIS_EIGENVALUE, "eigenvalues λ, mean over prompts", ""),
        (metrics.AXIS_VARIANCE_SHARE, "share of the score variance α, by axis", ""),
    ]
    by_axis += _moved(columns, metrics.AXIS_MULTIPLIER) * [
        (metrics.AXIS_MULTIPLIER, "multipliers m of the axes", ""),
    ]
    beta = {metrics.DRIFT_KL_COEF: "β"} if _moved(columns, metrics.DRIFT_KL_COEF) else {}
    lengths = {metrics.RESPONSE_LENGTH: "rollouts", metrics.EVAL_RESPONSE_LENGTH: "held-out"}
    drift = {metrics.DRIFT_DIVERGENCE: "drift", metrics.DRIFT_THRESHOLD: "threshold"}
    band = (metrics.EVAL_WIN_RATE_LOW, metrics.EVAL_WIN_RATE_HIGH)
    has_band = all(name in columns for name in band)
    return [
        Panel(
            "win rate against the starting policy",
            "",
            _of(columns, win),
            band if has_band else None,
            level=0.5,
            dashed=(metrics.EVAL_PROXY_WIN_RATE, metrics.EVAL_LENGTH_CONTROLLED),
        ),
        Panel("win rate by task", "", _tasks(columns), level=0.5),
        *[Panel(f"what the judge {n} finds", "", ls) for n, ls in _qualities(columns).items()],
        *[Panel(title, unit, _axes(columns, name)) for name, title, unit in by_axis],
        Panel(
            "drift and its threshold",
            "nats",
            _of(columns, drift) if metrics.DRIFT_DIVERGENCE in columns else {},
            dashed=(metrics.DRIFT_THRESHOLD,),
            dots=metrics.DRIFT_ACTIVE if metrics.DRIFT_ACTIVE in columns else None,
        ),
        Panel("KL coefficient β", "", _of(columns, beta)),
        Panel("KL to the reference", "nats per token", _of(columns, {metrics.KL: "KL"})),
        Panel("response length", "tokens", _of(columns, lengths)),
    ]


def judged(columns: Columns) -> dict[str, tuple[list[int], list[float]]]:
    """Return the win rate of each judge by its name."""
    prefix = metrics.of_judge(metrics.EVAL_WIN_RATE, "")
    return {n.removeprefix(prefix): column for n, column in columns.items() if n.startswith(prefix)}


def _win_rates(columns: Columns) -> dict[str, str]:
    """A curve for each judge under its name; the quoted one's is the one with an interval."""
    found = judged(columns)
    main = columns.get(metrics.EVAL_WIN_RATE)
    quoted = next((name for name, column in found.items() if column == main), "judge")
    labels = {name: "reward" if name == PROXY else name for name in (quoted, *found)}
    others = {metrics.of_judge(metrics.EVAL_WIN_RATE, n): labels[n] for n in found if n != quoted}
    at_equal_length = {metrics.EVAL_LENGTH_CONTROLLED: f"{labels[quoted]}, at equal length"}
    return {metrics.EVAL_WIN_RATE: labels[quoted], **others, **at_equal_length}


def _preference_model(columns: Columns) -> list[Panel]:
    """The learning curve of a preference model."""
    accuracy = {
        metrics.PREFERENCE_ACCURACY: "training pairs",
        metrics.HELD_OUT_ACCURACY: "held-out pairs",
    }
    loss = {metrics.PREFERENCE_LOSS: "training pairs", metrics.HELD_OUT_LOSS: "held-out pairs"}
    axes = {
        metrics.HELD_OUT_AXIS_CORRELATION: "correlation between axes",
        metrics.HELD_OUT_CYCLIC_TRIADS: "share of cyclic triads",
        metrics.HELD_OUT_CALIBRATION_ERROR: "calibration error",
    }
    return [
        Panel("accuracy on labelled pairs", "", _of(columns, accuracy), level=0.5),
        Panel("loss on labelled pairs", "nats", _of(columns, loss)),
        Panel("held-out pairs: axes and calibration", "", _of(columns, axes)),
    ]


def _qualities(columns: Columns) -> dict[str, dict[str, str]]:
    """By judge, the means over answers of each of its axes: ``eval/<judge>/<axis>``."""
    found: dict[str, dict[str, str]] = {}
    of_rates = {
        metrics.EVAL_WIN_RATE,
        metrics.EVAL_WIN_RATE_BY_TASK,
        *metrics.OF_COMPARISONS,
    }
    for name in _below(columns, "eval"):
        parts = name.split("/")
        if len(parts) == 3 and "/".join(parts[:2]) not in of_rates:
            found.setdefault(parts[1], {})[name] = parts[2]
    return found


def _tasks(columns: Columns) -> dict[str, str]:
    """A curve for each task under its name."""
    name = metrics.EVAL_WIN_RATE_BY_TASK
    return {found: found.removeprefix(f"{name}/") for found in _below(columns, name)}


def _moved(columns: Columns, name: str) -> bool:
    """Return True if the controller has moved it: at rest it is a straight line."""
    found = [columns[n][1] for n in (name, *_below(columns, name)) if n in columns]
    return any(len(set(values)) > 1 for values in found)


def _axes(columns: Columns, name: str) -> dict[str, str]:
    return {n: f"axis {n.removeprefix(name + '/')}" for n in _below(columns, name)}


def _below(columns: Columns, name: str) -> list[str]:
    return sorted(found for found in columns if found.startswith(name + "/"))


def _of(columns: Columns, names: dict[str, str]) -> dict[str, str]:
    return {name: label for name, label in names.items() if name in columns}
