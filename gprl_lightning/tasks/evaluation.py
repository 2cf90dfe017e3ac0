"""The held-out evaluation of a run, and its judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
from hydra.utils import instantiate
from lightning.pytorch.utilities import rank_zero_only

from gprl_lightning.callbacks.evaluation import Contestants, HeldOutEvaluation, Sample
from gprl_lightning.config import Config
from gprl_lightning.core.batch import Prompt
from gprl_lightning.errors import ConfigError
from gprl_lightning.evaluation.judge import Judge, SourceJudge
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.modules.parts import Parts, encode
from gprl_lightning.modules.rollout_logprobs import log_ratios
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampler
from gprl_lightning.runtime.disk import or_warn
from gprl_lightning.sandbox.gold_judge import SandboxGoldJudge
from gprl_lightning.tracking.answer_log import Evaluated, answer_file, answer_rows, write_answers

PROXY = "proxy"  # the reward itself, which judges beside the others


def held_out_evaluation(
    config: Config, parts: Parts, held_out: Sequence[Prompt], folder: Path | None = None
) -> list[L.Callback]:
    """Return the evaluation on held-out prompts; nothing if no judge is asked for.

    Its answers are written into `folder`, if there is one, for the report's page.

    The reward judges too, under its own name, if the objective has built one.

    Raises:
        ConfigError: a judge, but no held-out prompts.
    """
    wanted = "source" in vars(parts) or config.evaluation.judge == "preference_model"
    judges = build_judges(config, parts.source if wanted else None)
    if not judges:
        return []
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
        sample_start=_single(NativeSampler(), parts),
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


def build_judges(config: Config, source: PreferenceSource | None) -> dict[str, Judge]:
    """Return the judges of ``evaluation`` by name, the quoted one first, and the proxy last.

    Args:
        source: the reward of the run, which judges as `PROXY`; None: there is none.
    """
    options = config.evaluation
    judges = dict(_judge_of(options.judge, config, source))
    for name, target in options.judges.items():
        judges[name] = instantiate(target)
    if judges and source is not None:
        judges.setdefault(PROXY, SourceJudge(source))
    return judges


def _judge_of(
    word: str, config: Config, source: PreferenceSource | None
) -> list[tuple[str, Judge]]:
    match word:
        case "sandbox_gold":  # with the votes that labelled the pairs
            return [("gold", SandboxGoldJudge(config.preference_training.cyclic_votes))]
        case "preference_model" if source is not None:
            return [(PROXY, SourceJudge(source))]
        case "none":
            return []
        case _:
            raise ConfigError(
                f"evaluation.judge={word}: expected sandbox_gold or none, because this objective "
                "has no preference model. Set evaluation.judge=none, or name your own in "
                "evaluation.judges."
            )
