"""What proves that a vLLM server answers with the weights, and of the distribution, asked for."""

from __future__ import annotations

from collections.abc import Sequence

from gprl_lightning.core.precision import logprob_bounds
from gprl_lightning.errors import ConfigError, WrongWeights
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout.engine_samples import probe_gap, probe_prompt
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_http import Sample


def require_version(url: str, samples: Sequence[Sample], name: str) -> None:
    """Check that the weights of this name made every sample.

    Raises:
        WrongWeights: others did.
    """
    found = {version for sample in samples for version in sample.versions}
    if found != {name}:
        raise WrongWeights(
            f"rollout.sampler: expected responses of the weights {name} from {url}; found "
            f"{sorted(found) or 'none named'}. Something else gave this server weights, or it was "
            "started anew."
        )


def tolerance_of(policy: Policy, given: float | None) -> float:
    """Return the largest difference, in nats, of two correct log-probabilities of the policy's."""
    weights = next(policy.parameters())
    return given if given is not None else logprob_bounds(weights.dtype, weights.device.type).limit


def require_policys(
    policy: Policy, url: str, samples: Sequence[Sample], name: str, limit: float
) -> None:
    """Check the probe's log-probabilities against the policy's. Every process calls it.

    Raises:
        WrongWeights: they are further away than `limit`.
    """
    gap = probe_gap(policy, probe_prompt(policy), samples)
    if not gap <= limit:
        raise WrongWeights(
            f"rollout.sampler: expected {url} to give the policy's log-probabilities after the "
            f"weights {name} were pushed, within {limit} nats; found a difference of {gap:.3g}. "
            "The server kept old weights, serves another model, or reports another distribution: "
            "--logprobs processed_logprobs is for a rollout.temperature other than 1. If it rounds "
            "so coarsely, raise rollout.sampler.probe_tolerance."
        )


def require_raw(policy: Policy, url: str, greedy: Sequence[Sample], limit: float) -> None:
    """Check on a greedy probe that the server reports log-probabilities before the cut.

    Behind it, the only token that is left has log-probability 0. Every process calls it.

    Raises:
        ConfigError: it reports those of the cut distribution.
    """
    gap = probe_gap(policy, probe_prompt(policy), greedy)
    if not gap <= limit:
        raise ConfigError(
            "rollout.top_p, rollout.top_k, rollout.min_p: expected log-probabilities of the whole "
            f"distribution from {url}; found a difference of {gap:.3g} nats. Start it with "
            "--logprobs raw_logprobs, which vllm_start does by default."
        )


def greedy_probe(policy: Policy) -> Sampling:
    """Return how `require_raw`'s probe is drawn."""
    return Sampling(1, 8, policy.temperature, top_k=1)
