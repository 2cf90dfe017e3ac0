"""W&B's sweep files, run here: a grid or a random search without a server or a login.

``python train.py sweep=FILE`` becomes a multirun of `hydra_plugins.gprl_sweeper.FileSweeper`. The
meaning of a file is W&B's (docs.wandb.ai, "Sweep configuration options"); the search is ours.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gprl_lightning.errors import ConfigError

PREFIX = "sweep="
# Of W&B's own server; a local search needs neither.
REMOTE = "logger.wandb."
DIGITS = 6  # significant ones of a drawn number, which stands in its folder's name

Draw = Callable[[random.Random, Mapping[str, Any]], float]
DRAWS: dict[str, Draw] = {
    "uniform": lambda r, p: r.uniform(p["min"], p["max"]),
    "int_uniform": lambda r, p: r.randint(p["min"], p["max"]),
    "q_uniform": lambda r, p: _step(r.uniform(p["min"], p["max"]), p),
    "log_uniform": lambda r, p: math.exp(r.uniform(p["min"], p["max"])),
    "log_uniform_values": lambda r, p: _log_uniform(r, p),
    "q_log_uniform_values": lambda r, p: _step(_log_uniform(r, p), p),
    "normal": lambda r, p: r.gauss(p.get("mu", 0), p.get("sigma", 1)),
    "log_normal": lambda r, p: math.exp(r.gauss(p.get("mu", 0), p.get("sigma", 1))),
}


def _log_uniform(source: random.Random, given: Mapping[str, Any]) -> float:
    return math.exp(source.uniform(math.log(given["min"]), math.log(given["max"])))


def _step(value: float, given: Mapping[str, Any]) -> float:
    return round(value / given.get("q", 1)) * given.get("q", 1)


@dataclass(frozen=True)
class SweepFile:
    """A sweep that can be run here.

    Attributes:
        name: of its folder, with a hash of its contents: two sweeps do not share one.
        method: ``grid`` or ``random``.
        parameters: by key; each with ``value``, ``values``, or a range.
        run_cap: how many points; None: all of a grid.
        metric: that the best point is named by, and True if more of it is better; None: none.
    """

    name: str
    method: str
    parameters: dict[str, dict[str, Any]]
    run_cap: int | None
    metric: tuple[str, bool] | None

    def points(self, pinned: Collection[str] = ()) -> list[tuple[str, ...]]:
        """Return the overrides of each point, the same ones at each call.

        Args:
            pinned: keys that the command line sets instead.
        """
        free = {key: given for key, given in self.parameters.items() if key not in pinned}
        if self.method == "grid":
            values = (given.get("values", [given.get("value")]) for given in free.values())
            found: Any = itertools.islice(itertools.product(*values), self.run_cap)
        else:
            source = random.Random(0)
            found = [
                tuple(_drawn(source, given) for given in free.values())
                for _ in range(self.run_cap or 0)
            ]
        lines = [tuple(f"{k}={_written(v)}" for k, v in zip(free, p, strict=True)) for p in found]
        return list(dict.fromkeys(lines))  # a point that was drawn twice is one job


def _drawn(source: random.Random, given: Mapping[str, Any]) -> Any:
    if "value" in given:
        return given["value"]
    if "values" in given:
        weights = given.get("probabilities")
        return source.choices(given["values"], weights)[0]
    value = DRAWS[_distribution(given)](source, given)
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")


def _distribution(given: Mapping[str, Any]) -> str:
    ints = all(isinstance(given.get(end), int) for end in ("min", "max"))
    return given.get("distribution", "int_uniform" if ints else "uniform")


def _written(value: Any) -> str:
    """Return a value as Hydra reads it on a command line."""
    if isinstance(value, str) and not re.fullmatch(r"[\w./@:-]+", value):
        return quoted(value)
    return value if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    """Return a text in quotes for Hydra's command line, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def read_sweep(file: str | Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        ConfigError: it cannot be read, or asks for what takes W&B's server.
    """
    try:
        text = Path(file).read_text(encoding="utf8")
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"sweep={file}: expected a sweep file, as sweeps/axes.yaml; found: {error}"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("parameters"), dict):
        raise ConfigError(f"sweep={file}: expected `method:` and `parameters:`; found neither.")
    method, cap = str(found.get("method")), found.get("run_cap", found.get("count"))
    _require_method(file, method, cap)
    parameters = {
        key: given for key, given in _flat(found["parameters"]) if not key.startswith(REMOTE)
    }
    for key, given in parameters.items():
        _require_parameter(file, key, given, method)
    made_of = json.dumps([method, cap, parameters], sort_keys=True)
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:8]
    name = re.sub(r"[^\w-]+", "_", str(found.get("name") or Path(file).stem))
    metric = found.get("metric") or {}
    goal = (metric["name"], metric.get("goal") == "maximize") if "name" in metric else None
    return SweepFile(f"{name}_{digest}", method, parameters, cap, goal)


def _require_method(file: str | Path, method: str, cap: Any) -> None:
    if method == "bayes":
        raise ConfigError(
            f"sweep={file}: expected method: grid or random, which run here; found bayes, whose "
            f"next point W&B's server chooses. Run wandb sweep {file}, and the wandb agent command "
            "that it prints; or write method: random."
        )
    if method not in ("grid", "random"):
        raise ConfigError(f"sweep={file}: expected method: grid or random; found {method!r}.")
    if not (isinstance(cap, int) and cap > 0) and (cap is not None or method == "random"):
        raise ConfigError(
            f"sweep={file}: expected run_cap: a number of runs, without which a random search has "
            f"no end; found {cap!r}. Write run_cap: 20."
        )


def _require_parameter(file: str | Path, key: str, given: Any, method: str) -> None:
    where = f"sweep={file}: parameters.{key}"
    if "value" in given or (isinstance(given.get("values"), list) and given["values"]):
        return
    if method == "grid":
        raise ConfigError(f"{where}: expected value: or values: in a grid; found {given}.")
    kind = _distribution(given)
    if kind not in DRAWS:
        raise ConfigError(
            f"{where}.distribution: expected one of {', '.join(DRAWS)}; found {kind!r}."
        )
    ends = [given.get("min"), given.get("max")]
    if not kind.endswith("normal") and not all(isinstance(end, (int, float)) for end in ends):
        raise ConfigError(f"{where}: expected numbers in min: and max:; found {ends}.")


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return every parameter by its dotted key; W&B nests them under ``parameters:``."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, given in parameters.items():
        if not isinstance(given, dict):
            given = {"value": given}
        if isinstance(given.get("parameters"), dict):
            found += _flat(given["parameters"], f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", given))
    return found


def as_multirun(arguments: Sequence[str]) -> list[str]:
    """Return the command line with Hydra's words in the place of ``sweep=FILE``.

    Raises:
        ConfigError: the file cannot be run here.
    """
    files = [a.removeprefix(PREFIX) for a in arguments if a.startswith(PREFIX)]
    if not files:
        return list(arguments)
    sweep = read_sweep(files[-1])
    return [
        *(a for a in arguments if not a.startswith(PREFIX)),
        "hydra/sweeper=file",
        f"hydra.sweeper.file={_written(files[-1])}",
        f"hydra.sweep.dir='${{paths.output}}/${{name}}/sweep_{sweep.name}'",
        "hydra.mode=MULTIRUN",
    ]
