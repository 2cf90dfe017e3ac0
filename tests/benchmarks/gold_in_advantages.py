"""How much of the gold is in the advantages of the starting policy, by seed and arm of the study.

    python -m tests.benchmarks.gold_in_advantages 0,1 grpo_bt,grpo_gpm,no_drift paths.cache=FOLDER

Eight answers of the starting policy to each of 200 held-out requests; correlation within groups of
an arm's advantages, and of each axis's group scores, with the gold's mean verdict in the group.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from gprl_lightning.config import Config
from gprl_lightning.config.validation import validate
from gprl_lightning.core.advantages import aggregate_axes, axis_std, normalize_axes
from gprl_lightning.core.preference import group_scores
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import load_policy
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.sandbox.gold import GoldJudge
from gprl_lightning.sandbox.pairs import sample_responses
from gprl_lightning.sandbox.prompts import sandbox_prompts
from gprl_lightning.tasks.sandbox_preference_model import sandbox_preference_model
from tests.composing import composed

GROUP_SIZE, SAMPLING_SEED = 8, 12_345


def correlation(left: Tensor, right: Tensor) -> float:
    """Mean over groups and responses of the product of z-scores within the group."""
    unit = [
        (x - x.mean(1, keepdim=True)) / (x.std(1, unbiased=False, keepdim=True) + 1e-9)
        for x in (left, right)
    ]
    return float((unit[0] * unit[1]).mean())


def mean_verdict(judge: GoldJudge, messages, answers: list[str]) -> list[float]:
    request = judge.request_of(messages[-1]["content"])
    return [
        sum(2 * judge.prefer(request, a, b) - 1 for b in answers) / (len(answers) - 1)
        for a in answers
    ]


def advantages(config: Config, scores: Tensor, eigenvalues: Tensor) -> Tensor:
    options = config.algorithm
    axes = normalize_axes(scores, options.normalization)
    at_rest = torch.ones(scores.shape[-1]).double()
    how = (options.normalization, options.weighting, options.advantage_scale)
    return aggregate_axes(axes, eigenvalues, at_rest, *how)


def main() -> None:
    seeds, arms, *overrides = sys.argv[1:]
    configs = {
        (seed, arm): validate(
            composed("experiment=study", f"seed={seed}", f"ablation={arm}", *overrides)
        )
        for seed in seeds.split(",")
        for arm in arms.split(",")
    }
    first = next(iter(configs.values()))
    policy = load_policy(first.policy, policy_folder("sandbox", first.paths.cache), 1.0)
    prompts = sandbox_prompts(first.data)[1][: first.evaluation.prompts]
    asked = [(p.uid, p.messages) for p in prompts]
    sampling = Sampling(GROUP_SIZE, first.rollout.max_new_tokens)
    answers = sample_responses(policy, sampling, asked, SAMPLING_SEED)
    judge = GoldJudge()
    pairs = zip(prompts, answers, strict=True)
    gold = torch.tensor([mean_verdict(judge, p.messages, group) for p, group in pairs]).double()
    for (seed, arm), config in configs.items():
        model = sandbox_preference_model(config)
        found = model.embed([p.messages for p in prompts], answers)
        scores = group_scores(found.vectors).double()
        given = advantages(config, scores, found.eigenvalues.double())
        std = axis_std(scores).mean(0)
        by_axis = [correlation(scores[..., axis], gold) for axis in range(scores.shape[-1])]
        print(
            f"seed {seed} {arm}: advantages {correlation(given, gold):.2f}; by axis",
            [round(value, 2) for value in by_axis],
            "share of spread",
            [round(value, 2) for value in (std / std.sum()).tolist()],
            "λ",
            [round(value, 2) for value in found.eigenvalues.mean(0).tolist()],
        )


if __name__ == "__main__":
    main()
