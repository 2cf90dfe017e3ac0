"""Sampling by vLLM servers of their own: ``rollout=vllm_server``. No vLLM is imported here."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.errors import ConfigError, SamplerFailed, WrongWeights
from gprl_lightning.models.policy import Policy
from gprl_lightning.rollout import vllm_checks, vllm_push
from gprl_lightning.rollout.engine_samples import (
    as_rollout,
    engine_options,
    probe_prompt,
    probe_sampling,
    prompt_rows,
    request_seeds,
    require_reportable,
)
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.rollout.vllm_http import Gone, Sample, Server
from gprl_lightning.runtime.processes import of_every_process, rank

Transfer = Literal["folder", "broadcast"]
CONCURRENCY = 64  # requests at once, per server: it batches them itself
LOST = "has no answer"


@dataclass
class _Peer:
    """A server, and what we know of it."""

    server: Server
    alive: bool = True
    adapter: str | None = None  # the name of the adapters that it serves now
    link: vllm_push.Broadcast | None = None


class VLLMServerSampler:
    """The `Sampler` whose responses one or several vLLM servers make.

    Prompts are spread over the servers. One that dies, is late or cuts its answer off is dropped
    with a warning, and its prompts go to the others; it gets the next weights again if it is back.
    Every answer names the weights that made it, and after each push a probe's log-probabilities are
    compared with the policy's, so responses of other weights end the run as `WrongWeights`.

    Args:
        urls: of the servers.
        model: the name that they serve the policy under.
        timeout: seconds that a request may take: a whole group of the longest responses.
        transfer: ``folder``, which the servers read; or ``broadcast``, over a socket (a CPU) or
            NCCL (GPUs). A policy with adapters always pushes these alone, by a folder.
        folder: for it, on a disk that trainer and servers share; None: shared memory.
        host: of the trainer, as the servers reach it, for ``broadcast``.
        probe_tolerance: nats; None: by the policy's precision, `core.precision`.
    """

    own_weights = True

    def __init__(
        self,
        urls: Sequence[str],
        model: str = "policy",
        timeout: float = 600.0,
        transfer: Transfer = "folder",
        folder: str | None = None,
        host: str = "127.0.0.1",
        probe_tolerance: float | None = None,
    ) -> None:
        if not urls:
            raise ConfigError("rollout.sampler.urls=[]: expected at least one server's address.")
        if transfer not in ("folder", "broadcast"):
            raise ConfigError(
                f"rollout.sampler.transfer={transfer!r}: expected folder or broadcast."
            )
        self.peers = [_Peer(Server(url, model, timeout)) for url in urls]
        self.transfer, self.folder, self.host = transfer, folder, host
        self.probe_tolerance = probe_tolerance
        self.version: int | None = None
        self.reports_whole = False  # log-probabilities before a cut, as a probe has shown
        # Version 3 of another run that uses the same servers is not ours.
        self.run = uuid.uuid4().hex[:8]

    # Sampling -------------------------------------------------------------------------------------

    def sample(
        self, policy: Policy, prompts: PromptBatch, sampling: Sampling, seed: int
    ) -> Rollout:
        """Return the servers' responses, group-major.

        Raises:
            ConfigError: the servers do not report the policy's log-probabilities of such samples.
            WrongWeights: a response was made by others than the last that they were given.
            SamplerFailed: no server is left, or one refused.
        """
        if self.version is None:
            raise WrongWeights(
                "rollout.sampler: expected weights before the first sample; found none. Call "
                "weights_changed(policy, version) first."
            )
        self._require_reported(policy, sampling)
        options = engine_options(sampling, policy.eos_ids)
        rows, seeds = prompt_rows(prompts), request_seeds(prompts, seed)
        tasks = [(place, row, {**options, "seed": s}) for place, (row, s) in enumerate(
            zip(rows, seeds, strict=True))]  # fmt: skip
        with ThreadPoolExecutor(CONCURRENCY * len(self.peers)) as pool:
            groups = list(pool.map(lambda task: self._one(*task), tasks))
        return as_rollout(policy, prompts, sampling, groups, self.version)

    def _one(self, place: int, row: list[int], options: dict[str, Any]) -> list[Sample]:
        """One prompt's responses, from the first server from ``place`` on that answers."""
        for _ in range(2 * len(self.peers)):
            peer = self._peer(place)
            try:
                samples = peer.server.generate(row, options, peer.adapter)
            except Gone as error:
                self._drop(peer, error)
                continue
            vllm_checks.require_version(peer.server.url, samples, self._name())
            return samples
        raise SamplerFailed(f"rollout.sampler.urls: no server answered prompt {place} in turn.")

    def _peer(self, place: int) -> _Peer:
        alive = [peer for peer in self.peers if peer.alive]
        if not alive:  # a hiccup of the network leaves a server with the right weights behind
            alive = [p for p in self.peers if p.server.version() == self._name()]
            for peer in alive:
                peer.alive = True
        if not alive:
            urls = [peer.server.url for peer in self.peers]
            raise SamplerFailed(
                f"rollout.sampler.urls: expected a server that answers; of {urls} none does with "
                "the weights that it was given. Start them with gprl_lightning.rollout.vllm_start; "
                "the same command in this run's folder then goes on from its last checkpoint."
            )
        return alive[place % len(alive)]

    def _drop(self, peer: _Peer, error: Gone) -> None:
        if peer.alive:
            peer.alive, peer.link = False, None
            warnings.warn(
                f"{peer.server.url} {LOST}, and is left out until the next weights are pushed. "
                f"If it is only slow, raise rollout.sampler.timeout. {error}",
                stacklevel=3,
            )

    def _require_reported(self, policy: Policy, sampling: Sampling) -> None:
        """Before the first samples of a cut distribution, look at what the servers report."""
        require_reportable(sampling)
        if self.reports_whole or not sampling.cuts or sampling.top_k == 1:
            return
        limit = vllm_checks.tolerance_of(policy, self.probe_tolerance)
        for peer in self.peers:
            samples = self._probe(policy, peer, vllm_checks.greedy_probe(policy))
            if samples:
                vllm_checks.require_raw(policy, peer.server.url, samples, limit)
        self.reports_whole = True

    def _name(self) -> str:
        return f"{self.run}-{self.version}"

    # Weights --------------------------------------------------------------------------------------

    def weights_changed(self, policy: Policy, version: int) -> None:
        """Push the weights to every server that answers, and prove by a probe that they arrived.

        Raises:
            WrongWeights: a server answers with other log-probabilities than the policy's.
            SamplerFailed: no server is left.
        """
        if version == self.version:
            return
        self.run, self.version = of_every_process(self.run)[0], version
        told: Any = self._push(policy) if rank() == 0 else None
        alive, adapters, probes, failure = of_every_process(told)[0]
        if failure is not None:
            raise failure
        for peer, lives, adapter in zip(self.peers, alive, adapters, strict=True):
            peer.alive, peer.adapter = lives, adapter
        self._compare(policy, probes)

    def _push(self, policy: Policy) -> tuple[list[bool], list[str | None], list[Any], Any]:
        """Of the first process: what the others must know, an error to raise together included."""
        failure, probes = None, []
        try:
            self._push_to_all(policy)
            sampling = probe_sampling(policy)
            probes = [(p.server.url, self._probe(policy, p, sampling)) for p in self.peers]
            self._peer(0)
        except (SamplerFailed, WrongWeights) as error:
            failure = error
        alive, adapters = ([p.alive for p in self.peers], [p.adapter for p in self.peers])
        return alive, adapters, probes, failure

    def _push_to_all(self, policy: Policy) -> None:
        with ExitStack() as stack:
            push: Callable[[_Peer], None] = partial(self._by_broadcast, policy)
            if self.transfer == "folder" or vllm_push.adapters_only(policy):
                folder = stack.enter_context(vllm_push.weights_folder(policy, self.folder))
                push = partial(self._by_folder, folder, vllm_push.adapters_only(policy))
            for peer in self.peers:
                if peer.server.version() is None:
                    self._drop(peer, Gone("it does not say that it is well"))
                    continue
                try:
                    push(peer)
                    peer.alive = True
                except (Gone, RuntimeError) as error:
                    if isinstance(error, SamplerFailed):
                        raise
                    self._drop(peer, Gone(str(error)))

    def _by_folder(self, folder: Any, adapters: bool, peer: _Peer) -> None:
        if adapters:
            before = peer.adapter
            peer.adapter = vllm_push.push_adapters(peer.server, folder, self._name(), before)
        else:
            vllm_push.push_folder(peer.server, folder, self._name())

    def _by_broadcast(self, policy: Policy, peer: _Peer) -> None:
        device = next(policy.parameters()).device
        if peer.link is None:
            peer.link = vllm_push.Broadcast(peer.server, self.host, device)
        peer.link.push(policy, self._name())

    def _probe(self, policy: Policy, peer: _Peer, sampling: Sampling) -> list[Sample]:
        """Return a server's samples of the probe's prompt; none if it is gone."""
        if not peer.alive:
            return []
        options = {**engine_options(sampling, policy.eos_ids), "seed": 0}
        try:
            samples = peer.server.generate(probe_prompt(policy), options, peer.adapter)
        except Gone as error:
            self._drop(peer, error)
            return []
        vllm_checks.require_version(peer.server.url, samples, self._name())
        return samples

    def _compare(self, policy: Policy, probes: Sequence[tuple[str, list[Sample]]]) -> None:
        limit = vllm_checks.tolerance_of(policy, self.probe_tolerance)
        for url, samples in probes:
            if samples:
                vllm_checks.require_policys(policy, url, samples, self._name(), limit)
