"""A sampler of one's own: two draws for each place of the group, of which the longer one stays.

python train.py --config-dir examples/conf rollout=longest_of_two
"""

from dataclasses import replace

import torch

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling


class LongestOfTwo:
    """Delegates to the native sampler, which reads the policy's own tensors."""

    own_weights = False

    def __init__(self) -> None:
        self.native = NativeSampler()

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Return the longer of two responses in each place of each group."""
        both = self.native.sample(
            policy, prompts, replace(sampling, group_size=2 * sampling.group_size), seed
        )
        lengths = both.response_mask.sum(1).view(-1, 2)
        rows = 2 * torch.arange(len(lengths), device=lengths.device) + lengths.argmax(1)
        return replace(
            both,
            group_size=sampling.group_size,
            response_ids=both.response_ids[rows],
            response_mask=both.response_mask[rows],
            old_logprobs=both.old_logprobs[rows],
            sampler_logprobs=both.sampler_logprobs[rows],
            finished=both.finished[rows],
            responses=tuple(both.responses[row] for row in rows.tolist()),
        )

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Do nothing: there are no weights of its own."""
