"""Sampling by vLLM in the trainer's own environment: ``rollout=vllm``.

The engine runs in processes of its own that vLLM starts, on the trainer's devices. Weights go to it
as bytes, without a file. It needs vLLM beside this package, and so vLLM's version of transformers:
where these do not agree, `gprl_lightning.rollout.vllm_server` has no such need.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.core.precision import logprob_bounds
from gprl_lightning.errors import ConfigError, SamplerFailed, WrongWeights
from gprl_lightning.models.policy import Policy, save_policy
from gprl_lightning.rollout.engine_samples import (
    as_rollout,
    engine_options,
    probe_gap,
    probe_prompt,
    probe_sampling,
    prompt_rows,
    request_seeds,
    require_reportable,
)
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.runtime.processes import several

EXTENSION = "gprl_lightning.rollout.vllm_worker.Weights"


@dataclass(frozen=True)
class _Sample:
    ids: list[int]
    logprobs: list[float]
    finished: bool


class VLLMSampler:
    """The `Sampler` on an ``LLM`` object, built at the first weights, of the policy as it is then.

    Where ``sleep`` is set the engine gives its memory back whenever it is not asked: for one GPU
    that serves and trains in turn.

    Args:
        max_model_len: tokens of prompt and response.
        memory: share of the GPU's memory for the engine.
        sleep: give the engine's memory back while the policy is trained (a GPU only).
        engine: further arguments of ``vllm.LLM``.

    Raises:
        ConfigError: there is no vLLM here, or several processes train.
    """

    own_weights = True

    def __init__(
        self,
        max_model_len: int | None = None,
        memory: float = 0.4,
        sleep: bool = False,
        engine: dict[str, Any] | None = None,
    ) -> None:
        try:
            import vllm  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError(
                "rollout=vllm: expected vLLM in this environment; found none. Install it, or "
                "choose rollout=vllm_server, whose servers have an environment of their own."
            ) from error
        self.vllm, self.sleep = vllm, sleep
        self.options = {"max_model_len": max_model_len, "gpu_memory_utilization": memory}
        self.options |= {"enable_sleep_mode": sleep, **(engine or {})}
        self.llm: Any = None
        self.asleep = False
        self.version: int | None = None

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Give the engine the weights, empty its prefix cache, and prove by a probe that it did.

        Raises:
            WrongWeights: its log-probabilities are not the policy's.
        """
        if version == self.version:
            return
        if several():
            raise ConfigError(
                "rollout=vllm: expected one process; found several. Choose rollout=vllm_server."
            )
        if self.version is None:
            self._start(policy)
        state = {n: t.detach().cpu().contiguous() for n, t in _merged(policy).items()}
        with self._awake():
            self.llm.collective_rpc("load_bytes", args=(safetensors.torch.save(state),))
            if not self.llm.reset_prefix_cache():
                raise WrongWeights("rollout=vllm: the prefix cache still holds old keys.")
            self.version = version
            self._require_probe(policy)

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Return the engine's responses, group-major."""
        if self.version is None:
            raise WrongWeights("rollout=vllm: expected weights_changed before the first sample.")
        require_reportable(sampling)
        seeds = request_seeds(prompts, seed)
        with self._awake():
            groups = self._generate(policy, prompt_rows(prompts), sampling, seeds)
        return as_rollout(policy, prompts, sampling, groups, self.version)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """The engine has its memory in the block; behind it its weights wait on the CPU."""
        if self.asleep:
            self.llm.wake_up()
            self.asleep = False
        yield
        if self.sleep:
            self.llm.sleep(level=1)
            self.asleep = True

    def _start(self, policy: Policy) -> None:
        with tempfile.TemporaryDirectory() as folder:
            save_policy(policy, Path(folder), merged=True)
            dtype = str(next(policy.parameters()).dtype).removeprefix("torch.")
            self.llm = self.vllm.LLM(
                model=folder,
                dtype=dtype,
                generation_config="vllm",
                logprobs_mode="raw_logprobs" if policy.temperature == 1 else "processed_logprobs",
                worker_extension_cls=EXTENSION,
                **self.options,
            )

    def _generate(
        self,
        policy: Policy,
        rows: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[list[_Sample]]:
        options = engine_options(sampling, policy.eos_ids)
        params = [
            self.vllm.SamplingParams(**options, seed=seed, logprobs=0, detokenize=False)
            for seed in seeds
        ]
        prompts = [{"prompt_token_ids": row} for row in rows]
        found = self.llm.generate(prompts, params, use_tqdm=False)
        if len(found) != len(rows):
            raise SamplerFailed(f"rollout=vllm: {len(rows)} prompts, {len(found)} answers.")
        return [[_of(output) for output in request.outputs] for request in found]

    def _require_probe(self, policy: Policy) -> None:
        prompt, weights = probe_prompt(policy), next(policy.parameters())
        (samples,) = self._generate(policy, [prompt], probe_sampling(policy), [0])
        limit = logprob_bounds(weights.dtype, weights.device.type).limit
        gap = probe_gap(policy, prompt, samples)
        if not gap <= limit:
            raise WrongWeights(
                f"rollout=vllm: expected the policy's log-probabilities after version "
                f"{self.version} was loaded, within {limit} nats; found a difference of {gap:.3g}."
            )


def _of(output: Any) -> _Sample:
    ids = list(output.token_ids)
    pairs = zip(output.logprobs, ids, strict=True)
    return _Sample(ids, [step[i].logprob for step, i in pairs], output.finish_reason == "stop")


def _merged(policy: Policy) -> dict[str, Any]:
    """Every tensor by its name in a Hugging Face checkpoint; adapters are added in."""
    model: Any = policy.model
    if model is policy.causal_lm:
        return dict(model.named_parameters())
    with tempfile.TemporaryDirectory() as folder:
        save_policy(policy, folder, merged=True)
        files = Path(folder).glob("*.safetensors")
        return {n: t for file in files for n, t in safetensors.torch.load_file(file).items()}
