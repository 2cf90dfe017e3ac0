"""Who judges a run's held-out answers: ``evaluation.judge`` (one) and ``evaluation.judges`` (by
name), as plain specifications that nothing has been loaded for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gprl_lightning.errors import ConfigError

if TYPE_CHECKING:
    from gprl_lightning.config.run import EvaluationConfig

Kind = Literal["sandbox_gold", "preference_model", "model", "endpoint", "function", "object"]
WORDS = ("sandbox_gold", "preference_model", "model", "endpoint", "none")
GOLD, PROXY = "gold", "proxy"  # names that no other judge may bear
# What a word cannot do without, as it is spelt for `evaluation.judge` and in a named judge.
NEEDED = {
    "model": {"path": "judge_path"},
    "endpoint": {"url": "judge_url", "model": "judge_model"},
}
FORMS = (
    "one of sandbox_gold | preference_model | model | endpoint | none, a Python function "
    "(my_judges.better), or {_target_: …}"
)


@dataclass(frozen=True)
class JudgeSpec:
    """One judge.

    Attributes:
        key: the configuration key that names it.
        kind: what it is.
        options: of its kind; ``function`` is the dotted name of one.
    """

    key: str
    kind: Kind
    options: Mapping[str, Any]

    def path_key(self) -> str:
        """Return the key of a preference model's path."""
        return "evaluation.judge_path" if self.key == "evaluation.judge" else f"{self.key}.path"

    def described(self) -> str:
        """Return what it is, for tables."""
        options = self.options
        match self.kind:
            case "sandbox_gold":
                return "the sandbox's gold"
            case "preference_model":
                return "the reward itself"
            case "model":
                return f"the preference model {options['path']}"
            case "endpoint":
                return f"{options['model']} at {options['url']}"
            case _:
                return str(options.get("function") or options.get("_target_"))


def judge_specs(evaluation: EvaluationConfig) -> dict[str, JudgeSpec]:
    """Return the judges by name. The first one is quoted, and the reward comes last.

    Raises:
        ConfigError: a word that is not known, a path or an address that is missing, or two judges
            of one name.
    """
    found: dict[str, JudgeSpec] = {}
    one = _spec("evaluation.judge", _with_options(evaluation))
    if one is not None:
        found[_name_of(one)] = one
    for name, value in evaluation.judges.items():
        key = f"evaluation.judges.{name}"
        spec = _spec(key, value)
        if spec is None or name in found or _reserved(name, spec):
            raise ConfigError(
                f"{key}: expected a judge under a name of its own; found {value!r}, with "
                f"{', '.join(found) or 'none'} before it. Names {GOLD} and {PROXY} are the "
                "sandbox's gold and the reward. Rename it, or leave it out."
            )
        found[name] = spec
    if PROXY in found:
        found[PROXY] = found.pop(PROXY)
    return found


def quoted_judge(evaluation: EvaluationConfig) -> str:
    """Return the judge whose win rate a run's table quotes; empty without judges."""
    specs = judge_specs(evaluation)
    return next((f"{name}: {spec.described()}" for name, spec in specs.items()), "")


def judge_paths(evaluation: EvaluationConfig) -> dict[str, str]:
    """Return the path of each preference model that judges, by its key."""
    specs = judge_specs(evaluation).values()
    return {spec.path_key(): spec.options["path"] for spec in specs if spec.kind == "model"}


def _with_options(evaluation: EvaluationConfig) -> Any:
    """Return ``evaluation.judge`` with what stands beside it, as a named judge spells it."""
    judge = evaluation.judge
    beside = {"path": "judge_path", "url": "judge_url", "model": "judge_model",
              "api_key_env": "judge_api_key_env"}  # fmt: skip
    given = {name: getattr(evaluation, key) for name, key in beside.items()}
    given = {name: value for name, value in given.items() if value is not None}
    takes = {"model": {"path"}, "endpoint": {"url", "model", "api_key_env"}}.get(str(judge), set())
    if idle := sorted(set(given) - takes):
        raise ConfigError(
            f"evaluation.{beside[idle[0]]}={given[idle[0]]}: expected evaluation.judge="
            f"{'model' if idle[0] == 'path' else 'endpoint'}, which reads it; found "
            f"evaluation.judge={judge}. Set that, or leave the key out."
        )
    return {"judge": judge, **given} if takes else judge


def _spec(key: str, value: Any) -> JudgeSpec | None:
    """Return what a value means; None for ``none``."""
    if isinstance(value, str) and "." in value:
        return JudgeSpec(key, "function", {"function": value})
    if isinstance(value, Mapping) and "_target_" in value:
        return JudgeSpec(key, "object", dict(value))
    options = dict(value) if isinstance(value, Mapping) else {"judge": value}
    word = options.pop("judge", None)
    if word not in WORDS:
        raise ConfigError(f"{key}={value!r}: expected {FORMS}. Set one of these.")
    for name, short in NEEDED.get(word, {}).items():
        if not options.get(name):
            wanted = f"evaluation.{short}" if key == "evaluation.judge" else f"{key}.{name}"
            raise ConfigError(f"{wanted}: expected it with the judge {word}; found none. Add it.")
    return None if word == "none" else JudgeSpec(key, word, options)


def _name_of(spec: JudgeSpec) -> str:
    match spec.kind:
        case "sandbox_gold":
            return GOLD
        case "preference_model":
            return PROXY
        case "function" | "object":
            return spec.described().rpartition(".")[2]
        case _:
            return spec.kind


def _reserved(name: str, spec: JudgeSpec) -> bool:
    taken = name == GOLD and spec.kind != "sandbox_gold"
    return taken or (name == PROXY) != (spec.kind == "preference_model")
