"""One step off policy: the next iteration's responses are sampled while this one is trained."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.errors import ConfigError, WrongWeights
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.sampler import Sampler, Sampling


class Ahead:
    """A `Sampler` around another one, and `of`, which the training step asks (METHOD §2a). Ours.

    ``of(prompts)`` takes the responses that were begun an iteration ago, gives the engine the
    weights as they are now, and begins with the next prompts. So the first rollout is of the
    weights at hand, and every later one is an update old. Whatever else asks for samples or changes
    weights waits until those in the making are done: none is ever of two versions.

    Args:
        sampler: must hold weights of its own: the policy's tensors change while it works.

    Attributes:
        upcoming: the prompts of an iteration, from its number on and by how many; set by the task.

    Raises:
        ConfigError: the sampler reads the policy's own tensors.
    """

    own_weights = True

    def __init__(self, sampler: Sampler) -> None:
        if not sampler.own_weights:
            raise ConfigError(
                "rollout.staleness=1: expected a sampler with weights of its own; found "
                f"{type(sampler).__name__}, which reads the policy's while they are trained. "
                "Choose rollout=vllm_server, or rollout.staleness=0."
            )
        self.sampler = sampler
        self.upcoming: Callable[[int], PromptBatch | None] = lambda iteration: None
        self.pool = ThreadPoolExecutor(1, "rollout")
        self.pending: Future[Rollout] | None = None
        self.resumed: Rollout | None = None

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Give the weights, when what is in the making is done."""
        self._wait()
        self.sampler.weights_changed(policy, version)

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Sample now, when what is in the making is done."""
        self._wait()
        return self.sampler.sample(policy, prompts, sampling, seed)

    def of(self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int) -> Rollout:
        """Return the responses to ``prompts``, and begin with those of the next iteration."""
        made = self._take(prompts)
        self.weights_changed(policy, prompts.iteration)
        rollout = made or self.sampler.sample(policy, prompts, sampling, seed)
        following = self.upcoming(prompts.iteration + 1)
        if following is not None:
            batch = following.to(prompts.uids.device)
            self.pending = self.pool.submit(self.sampler.sample, policy, batch, sampling, seed)
        return rollout

    def _take(self, prompts: PromptBatch) -> Rollout | None:
        pending, self.pending = self.pending, None
        made, self.resumed = pending.result() if pending else self.resumed, None
        if made is None or made.prompts.iteration != prompts.iteration:
            return None
        return made.to(prompts.uids.device)

    def _wait(self) -> None:
        if self.pending is not None:
            self.pending.result()

    def state_dict(self) -> dict[str, Any]:
        """Return the rollout in the making, when it is done, with the version that made it."""
        made = self.pending.result() if self.pending else self.resumed
        return {"rollout": plain(made.to("cpu")) if made is not None else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a rollout that `state_dict` gave."""
        kept = state["rollout"]
        self.pending = self.resumed = None
        if kept is not None:
            self.resumed = Rollout(**{**kept, "prompts": PromptBatch(**kept["prompts"])})


def plain(rollout: Rollout) -> dict[str, Any]:
    """Return a rollout's fields, for a checkpoint, which holds plain values alone."""
    return {**_values(rollout), "prompts": _values(rollout.prompts)}


def _values(record: Rollout | PromptBatch) -> dict[str, Any]:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def next_rollout(
    sampler: Sampler, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
) -> Rollout:
    """Return the responses that an iteration trains on: of the weights at hand, or `Ahead`'s.

    Raises:
        WrongWeights: they were made by other weights than those that were asked for.
    """
    if isinstance(sampler, Ahead):
        rollout, staleness = sampler.of(policy, prompts, sampling, seed), 1
    else:
        sampler.weights_changed(policy, prompts.iteration)
        rollout, staleness = sampler.sample(policy, prompts, sampling, seed), 0
    newest = prompts.iteration
    if rollout.version is not None and not newest - staleness <= rollout.version <= newest:
        raise WrongWeights(
            f"rollout.sampler: expected responses of version {newest} of the weights"
            f"{' or 1 before it' if staleness else ''}; found version {rollout.version}. "
            "The sampler did not take the weights that it was given."
        )
    return rollout
