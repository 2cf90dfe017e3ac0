"""Stored responses of the starting policy, against which the policy's are scored (METHOD §3, ours).

Inside a group a shift of all responses along an axis cancels out; against a fixed response of the
starting policy it shows. One response per prompt is sampled from the reference model before the
prompt first comes up, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.models.policy import Policy, weights_in
from gprl_lightning.rollout.native import reference_sampler
from gprl_lightning.rollout.sampler import Sampler, Sampling
from gprl_lightning.runtime.processes import processes, rank
from gprl_lightning.runtime.sharding import on_any, runs_alone

ANCHOR_SEED = 7919  # keeps the anchors' randomness apart from that of the rollouts
# Iterations whose anchors are sampled at once: a step of decoding reads all weights, however few
# rows it is for.
AHEAD = 8
TOKENS_AT_ONCE = 65_536  # of prompts and answers, with padding: 8.6 GB of keys and values at 8B


def most_at_once(prompts: int, tokens: int) -> int:
    """Return how many anchors are sampled at once: an iteration's at least, and those of `AHEAD`
    iterations at most.

    Args:
        prompts: of an iteration.
        tokens: of the longest prompt and the longest answer.

    >>> most_at_once(4, 200), most_at_once(8, 1536), most_at_once(8, 32_768)
    (32, 42, 8)
    """
    return max(prompts, min(AHEAD * prompts, TOKENS_AT_ONCE // tokens))


class Anchors:
    """One starting-policy response per prompt, by the prompt's uid.

    Args:
        seed: of the run.
        sampler: the policy's; see `gprl_lightning.rollout.native.reference_sampler`.

    Attributes:
        upcoming: the prompts of some iterations, by the first one and their number. Where it is not
            known, anchors are sampled for one iteration at a time.
    """

    def __init__(self, seed: int, sampler: Sampler):
        self.seed = seed + ANCHOR_SEED
        self.sampler = reference_sampler(sampler)
        self.responses: dict[int, str] = {}
        self.upcoming: Callable[[int, int], PromptBatch] | None = None

    def of(self, prompts: PromptBatch, sampling: Sampling, reference: Policy) -> list[str]:
        """Return the anchor of each prompt; sampled first, with those of the next iterations,
        where it is new."""
        uids = prompts.host.uids.tolist()
        new = any(uid not in self.responses for uid in uids)
        if new if runs_alone(weights_in(reference)) else on_any(new):
            ahead = self.upcoming(prompts.iteration, AHEAD) if self.upcoming else prompts.host
            most = most_at_once(len(uids), ahead.input_ids.shape[1] + sampling.max_new_tokens)
            self._sample(ahead, most, prompts.uids.device, sampling, reference)
        return [self.responses[uid] for uid in uids]

    def _sample(
        self,
        prompts: PromptBatch,
        most: int,
        device: torch.device,
        sampling: Sampling,
        reference: Policy,
    ) -> None:
        rows = {uid: row for row, uid in enumerate(prompts.uids.tolist())}  # each prompt once
        new = [row for uid, row in rows.items() if uid not in self.responses]
        new = new[:most] or [0]  # others may have some, and need this process's shards
        index = torch.tensor(new)
        batch = PromptBatch(
            iteration=0,  # a prompt's anchor is the same whenever the prompt first comes up
            uids=prompts.uids[index],
            messages=tuple(prompts.messages[row] for row in new),
            input_ids=prompts.input_ids[index],
            mask=prompts.mask[index],
            columns=tuple(prompts.columns[row] for row in new) if prompts.columns else (),
        )
        single = replace(sampling, group_size=1)
        rollout = self.sampler.sample(reference, batch.to(device), single, self.seed)
        sampled = dict(zip(batch.uids.tolist(), rollout.responses, strict=True))
        self.responses = {**sampled, **self.responses}

    def state_dict(self) -> dict[str, Any]:
        return {"responses": dict(self.responses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.responses = dict(state["responses"])


def of_this_process(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return this process's own of the saved states; all of them together if there are now more or
    fewer processes, since prompts are then dealt out in another way."""
    if len(states) == processes():
        return states[rank()]
    return {"responses": {k: v for state in states for k, v in state["responses"].items()}}
