"""The held-out evaluation of a run, and its judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only

from gprl_lightning.callbacks.evaluation import Contestants, HeldOutEvaluation, Sample
from gprl_lightning.config import Config
from gprl_lightning.config.judging import PROXY, JudgeSpec, judge_specs
from gprl_lightning.core.batch import Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.endpoint_judge import EndpointJudge
from gprl_lightning.evaluation.function_judge import function_judge
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.models.pretrained_preference import load_preference_model
from gprl_lightning.modules.parts import Parts, encode
from gprl_lightning.modules.rollout_logprobs import log_ratios
from gprl_lightning.rollout.native import reference_sampler
from gprl_lightning.rollout.sampler import Sampler
from gprl_lightning.runtime.disk import or_warn
from gprl_lightning.sandbox.gold_judge import SandboxGoldJudge
from gprl_lightning.sandbox.golds import gold_of
from gprl_lightning.tracking.answer_log import Evaluated, answer_file, answer_rows, write_answers


def held_out_evaluation(
    config: Config,
    parts: Parts,
    held_out: Sequence[Prompt],
    judges: Mapping[str, Judge],
    folder: Path | None = None,
) -> list[L.Callback]:
    """Return the evaluation on held-out prompts; nothing if no judge is asked for.

    Args:
        judges: those of `build_judges`. The reward judges after them, as `PROXY`, if it is asked
            for or the objective has built one.
        folder: its answers are written there, for the report's page; None: nowhere.

    Raises:
        ConfigError: a judge, but no held-out prompts.
    """
    asked = judge_specs(config.evaluation)
    if not asked:
        return []
    judges = dict(judges)
    if PROXY in asked or "source" in vars(parts):
        judges[PROXY] = SourceJudge(parts.source)
    options, policy, start = config.evaluation, parts.policy, parts.start
    prompts = list(held_out[: options.prompts])
    if not prompts:
        raise ConfigError(
            "data.held_out=0: held-out evaluation needs prompts. Raise data.held_out, or set "
            "evaluation.judge=none."
        )
    size = options.batch_size or config.data.prompts_per_step * config.rollout.group_size
    batches = [
        encode(policy, config.data.max_prompt_tokens, 0, prompts[i : i + size])
        for i in range(0, len(prompts), size)
    ]
    sampler = parts.sampler
    contestants = Contestants(
        policy=policy,
        start=start.module,
        sample=_single(sampler, parts),
        # The run's sampler may hold weights of its own: the policy's, and no others.
        sample_start=_single(reference_sampler(parts.sampler), parts),
        log_ratios=partial(log_ratios, policy, start, config.algorithm),
        weights_changed=partial(sampler.weights_changed, policy),
    )
    proxy = judges.get(PROXY)
    reward = proxy if isinstance(proxy, SourceJudge) else None
    keep = partial(keep_answers, folder, reward) if folder else None
    return [HeldOutEvaluation(prompts, batches, judges, contestants, options.every, keep)]


@rank_zero_only
def keep_answers(
    folder: Path, reward: SourceJudge | None, iteration: int, found: Evaluated
) -> None:
    """Write an evaluation's answers into a run's folder, with what the reward said of them."""
    if reward is not None:
        source = reward.source
        found = replace(found, axes=source.axes, tau=source.tau, compared=reward.compared)
    with or_warn(answer_file(folder, iteration), "these answers are not logged"):
        write_answers(folder, iteration, answer_rows(found))


def _single(sampler: Sampler, parts: Parts) -> Sample:
    """One answer per prompt, at the evaluation's temperature."""
    config = parts.config
    single = replace(parts.sampling, group_size=1, temperature=config.evaluation.temperature)
    return lambda policy, batch, seed: sampler.sample(policy, batch, single, config.seed + seed)


def build_judges(config: Config) -> dict[str, Judge]:
    """Return the judges of ``evaluation`` by name, the quoted one first, without the reward.

    Raises:
        ConfigError: a function that is not there, or a judge that takes other options.
        CheckpointError: a preference model that cannot be read.
    """
    specs = judge_specs(config.evaluation)
    return {name: _built(spec, config) for name, spec in specs.items() if name != PROXY}


def _built(spec: JudgeSpec, config: Config) -> Judge:
    options: Any = dict(spec.options)
    try:
        match spec.kind:
            case "sandbox_gold":  # the one that labelled the pairs
                return SandboxGoldJudge(gold_of(config))
            case "function":
                return function_judge(options["function"], spec.key)
            case "model":
                model = load_preference_model(options.pop("path"), **options)
                return SourceJudge(model.requires_grad_(False))
            case "endpoint":
                options.setdefault("cache", str(Path(config.paths.cache) / "judge"))
                judge = EndpointJudge(**options, key=spec.key)
                judge.require_answer()
                return judge
            case _:
                return instantiate(options)
    except TypeError as error:
        raise ConfigError(
            f"{spec.key}: expected options that a judge of this kind takes; found "
            f"{sorted(spec.options)} ({error}). Correct them."
        ) from error
