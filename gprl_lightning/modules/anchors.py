"""Stored responses of the starting policy, against which the policy's are scored (METHOD §3, ours).

Inside a group a shift of all responses along an axis cancels out; against a fixed response of the
starting policy it shows. One response per prompt is sampled from the reference model when the
prompt first comes up, and its GPM vector is kept.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from gprl_lightning.core.batch import PromptBatch, ScoredRollout
from gprl_lightning.core.preference import scores_against
from gprl_lightning.models.policy import Policy
from gprl_lightning.models.preference_model import PreferenceModel
from gprl_lightning.rollout.sampler import Sampler

ANCHOR_SEED = 7919  # keeps the anchors' randomness apart from that of the rollouts


class Anchors:
    """The GPM vectors of one starting-policy response per prompt, by the prompt's uid."""

    def __init__(self, seed: int, num_axes: int):
        self.seed, self.num_axes = seed + ANCHOR_SEED, num_axes
        self.vectors: dict[int, Tensor] = {}

    def scores(
        self,
        scored: ScoredRollout,
        sampler: Sampler,
        reference: Policy,
        preference_model: PreferenceModel,
    ) -> Tensor:
        """mean_i s_l(y_i, y_base) for each group: [groups, axes]."""
        prompts = scored.rollout.prompts
        uids = prompts.uids.tolist()
        new = [i for i, uid in enumerate(uids) if uid not in self.vectors]
        if new:
            self._remember(prompts, new, sampler, reference, preference_model)
        anchors = torch.stack([self.vectors[uid] for uid in uids]).to(scored.vectors)
        return scores_against(scored.vectors, anchors[:, None]).mean(dim=(1, 2))

    @torch.no_grad()
    def _remember(
        self,
        prompts: PromptBatch,
        new: list[int],
        sampler: Sampler,
        reference: Policy,
        preference_model: PreferenceModel,
    ) -> None:
        index = torch.tensor(new, device=prompts.uids.device)
        batch = PromptBatch(
            iteration=0,  # a prompt's anchor is the same whenever the prompt first comes up
            uids=prompts.uids[index],
            messages=tuple(prompts.messages[i] for i in new),
            input_ids=prompts.input_ids[index],
            mask=prompts.mask[index],
        )
        single = copy.copy(sampler)
        single.group_size = 1
        rollout = single.sample(reference, batch, self.seed)
        vectors = preference_model.embed(batch.messages, rollout.grouped_responses()).vectors
        for uid, vector in zip(batch.uids.tolist(), vectors[:, 0].float().cpu(), strict=True):
            self.vectors[uid] = vector

    def state_dict(self) -> dict[str, Any]:
        return {"vectors": dict(self.vectors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.vectors = dict(state["vectors"])
