"""Whether a judge is an independent witness, or the reward under another name. Ours."""

from __future__ import annotations

from collections.abc import Mapping

from gprl_lightning.evaluation.endpoint_judge import EndpointJudge
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.models.bt_ensemble import BTEnsemble
from gprl_lightning.models.composed import Composed
from gprl_lightning.models.function_calls import source_text
from gprl_lightning.models.function_rewards import FunctionRewards
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.models.preference_source import PreferenceSource, source_in
from gprl_lightning.models.rubric import Rubric


def not_independent(judges: Mapping[str, Judge], reward: PreferenceSource) -> list[str]:
    """Return a sentence for each judge that shares weights, a function or a language model with the
    reward; the reward itself, as the judge ``proxy``, is not meant."""
    rewarded = rests_on(reward)
    found = []
    for name, judge in judges.items():
        if isinstance(judge, SourceJudge) and judge.source is reward:
            continue
        if shared := _of_judge(judge) & rewarded:
            found.append(
                f"the judge {name} shares {' and '.join(sorted(shared))} with the reward: its win "
                "rate is no independent witness. Set another one in evaluation.judge or "
                "evaluation.judges."
            )
    return found


def rests_on(source: PreferenceSource) -> set[str]:
    """Return what a source's scores come from: weights, functions or a language model, by name."""
    match source:
        case Composed():
            return set[str]().union(*(rests_on(source_in(part)) for part in source.parts))
        case BTEnsemble():
            return set[str]().union(*(rests_on(member) for member in source.models))
        case PreferenceModel():
            return {f"the weights {source.identity()['weights']}"}
        case FunctionRewards():
            return {f"the function {source_text(function)}" for function in source.functions}
        case Rubric():
            return {f"the language model {source.model}"}
        case _:
            return set()


def _of_judge(judge: Judge) -> set[str]:
    match judge:
        case SourceJudge():
            return rests_on(judge.source)
        case EndpointJudge():
            return {f"the language model {judge.model}"}
        case _:
            return set()
