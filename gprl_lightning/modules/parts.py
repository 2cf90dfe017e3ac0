"""What an objective is made of, each part built when it is first asked for.

What an objective does not ask for is not loaded: DPO on a file never builds a preference source,
SimPO never a reference. Ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

from gprl_lightning.config import Config
from gprl_lightning.core.advantage_rule import AdvantageRule
from gprl_lightning.core.batch import Prompt, PromptBatch
from gprl_lightning.core.importance import ImportanceCorrection
from gprl_lightning.core.policy_loss import PolicyLoss
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.models.preference_source import PreferenceSource
from gprl_lightning.modules.objective import OptimizerFactory
from gprl_lightning.rollout.sampler import Sampler, Sampling


def encode(
    policy: Policy, max_tokens: int, iteration: int, prompts: Sequence[Prompt]
) -> PromptBatch:
    """Return an iteration's prompts in the policy's tokens; see `Policy.encode_prompts`."""
    return policy.encode_prompts(
        iteration,
        [p.uid for p in prompts],
        [p.messages for p in prompts],
        max_tokens,
        [p.columns for p in prompts],
    )


@dataclass
class Parts:
    """The parts of a run.

    Attributes:
        config: the whole configuration.
        policy: the language model that is trained.
        optimizer: builds the optimiser.
        prompts: the training prompts.
        sampling: how responses are drawn.
        correction: of responses that another distribution made.
        build_rule, build_loss, build_source, build_sampler, build_pairs: how the parts below are
            made.
    """

    config: Config
    policy: Policy
    optimizer: OptimizerFactory
    prompts: list[Prompt]
    sampling: Sampling
    correction: ImportanceCorrection
    build_rule: Callable[[], AdvantageRule]
    build_loss: Callable[[], PolicyLoss]
    build_source: Callable[[], PreferenceSource]
    build_sampler: Callable[[], Sampler]
    build_pairs: Callable[[], tuple[list[PreferencePair], list[PreferencePair]]]

    @cached_property
    def start(self) -> FrozenModel[Policy]:
        """The policy as it starts, frozen: first asked for before any update. It never moves."""
        return reference_of(self.policy)

    @cached_property
    def source(self) -> PreferenceSource:
        """What scores responses."""
        return self.build_source()

    @cached_property
    def advantage_rule(self) -> AdvantageRule:
        """What turns scores into advantages."""
        return self.build_rule()

    @cached_property
    def policy_loss(self) -> PolicyLoss:
        """The loss of each token."""
        return self.build_loss()

    @cached_property
    def sampler(self) -> Sampler:
        """What draws responses."""
        return self.build_sampler()

    @cached_property
    def pairs(self) -> tuple[list[PreferencePair], list[PreferencePair]]:
        """The (train, held-out) preference pairs."""
        return self.build_pairs()

    def prompt_loader(self, rank: int, world_size: int) -> PromptLoader:
        """Return the loader of the prompts of one process, one batch an iteration.

        Raises:
            ConfigError: fewer prompts than one iteration takes.
        """
        config = self.config
        return PromptLoader(
            self.prompts,
            encode=partial(encode, self.policy, config.data.max_prompt_tokens),
            prompts_per_step=config.data.prompts_per_step * config.algorithm.oversample,
            iterations=config.iterations,
            seed=config.seed,
            rank=rank,
            world_size=world_size,
        )
