"""An objective of one's own: the policy imitates the best response of each group (RAFT, RFT).

python train.py --config-dir examples/conf objective=imitate_the_best drift=disabled
"""

from collections.abc import Mapping

import torch
from torch import nn

from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.core.iteration import ITERATION, Iteration, UpdateReport
from gprl_lightning.core.preference import group_scores
from gprl_lightning.data.prompts import PromptLoader
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.preference_source import as_module
from gprl_lightning.modules.objective import PolicyObjective
from gprl_lightning.modules.parts import Parts
from gprl_lightning.tracking import metrics


class ImitateTheBest(PolicyObjective):
    """Maximises the mean log-probability of each group's best response, by Σ_l λ_l ŝ_l."""

    def __init__(self, parts: Parts, max_grad_norm: float = 1.0):
        config = parts.config
        super().__init__(
            parts.policy, parts.optimizer, config.scheduler, config.iterations, 1, max_grad_norm
        )
        self.parts, self.judge = parts, FrozenModel(as_module(parts.source))

    @property
    def frozen(self) -> Mapping[str, nn.Module]:
        """The preference source."""
        return {"preference_model": self.judge}

    def loader(self, rank: int, world_size: int) -> PromptLoader:
        """Return the loader of the prompts of one process."""
        return self.parts.prompt_loader(rank, world_size)

    def training_step(self, prompts: PromptBatch, batch_idx: int) -> dict[str, Iteration]:
        """Sample, keep the best of each group, and take one step towards it."""
        parts = self.parts
        rollout = parts.sampler.sample(self.policy, prompts, parts.sampling, parts.config.seed)
        found = parts.source.embed(prompts.messages, rollout.grouped_responses(), prompts.columns)
        total = (group_scores(found.vectors) * found.eigenvalues[:, None]).sum(-1)
        groups = torch.arange(len(total), device=total.device)
        rows = groups * rollout.group_size + total.argmax(1)
        mask = rollout.response_mask[rows]
        logprobs, _ = self.policy(prompts.input_ids, prompts.mask, rollout.response_ids[rows], mask)
        loss = -logprobs.sum() / mask.sum()
        optimizer, schedule = self.optimizer_and_schedule()
        optimizer.zero_grad()
        self.manual_backward(loss)
        norm = self.clipped_gradients()
        optimizer.step()
        schedule.step()
        values = {metrics.LOSS: loss.detach(), metrics.GRAD_NORM: norm}
        self.log_dict({**values, metrics.ITERATION: prompts.iteration + 1.0})
        report = UpdateReport(values, 0.0, None, 0.0, ())
        return {ITERATION: Iteration(prompts.iteration, report, None, signal=True)}
