"""Real-world failures of online RL, planted one by one: each ends the run, by its name."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from lightning import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from gprl_lightning import errors as invariants
from gprl_lightning.callbacks.invariants import STILL_ITERATIONS, Invariants
from gprl_lightning.core.embeddings import Embeddings
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.modules import gprl, minibatch_loss
from gprl_lightning.modules.statistics import UpdateStatistics
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.tracking.metrics_file import read_metrics
from tests.tiny import EOS, tiny_model, tiny_tokenizer
from tests.worlds import tiny_loader, tiny_module, tiny_policy, tiny_trainer


def fit(folder, module, iterations: int = 2, **kwargs):
    trainer = tiny_trainer(folder, every=100, **kwargs)
    trainer.fit(module, tiny_loader(module, iterations))
    return trainer


def test_a_sound_run_passes_every_check_and_says_so(tmp_path):
    fit(tmp_path, tiny_module(2, minibatches=2, inner_epochs=2, micro_batch_size=2))
    columns = read_metrics(tmp_path / "metrics.csv")
    assert columns["train/bad_steps"][1] == [0, 0]
    assert all(0 <= value < 1e-5 for value in columns["rollout/logprob_mismatch"][1])
    for name in ("train/no_signal_fraction", "rollout/truncated_fraction"):
        assert all(0 <= value <= 1 for value in columns[name][1])


# 1. An optimiser that holds nothing, or something else --------------------------------------------


def test_everything_frozen_as_before_adapters_are_added(tmp_path):
    module = tiny_module()
    module.policy.requires_grad_(False)
    with pytest.raises(invariants.NoTrainableParameters, match=r"policy\.lora"):
        fit(tmp_path, module)


def test_adapters_added_after_the_optimiser_was_built(tmp_path):
    """The freeze leaves the optimiser with tensors that never get a gradient again."""

    class LateAdapters(Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.policy.requires_grad_(False)
            pl_module.policy.adapter = nn.Linear(4, 4)

    with pytest.raises(invariants.WrongOptimizer, match="2 missing and 21 that are not trained"):
        fit(tmp_path, tiny_module(), callbacks=[LateAdapters()])


def test_a_trainable_judge(tmp_path):
    module = tiny_module()
    module.preference_model.module.value_head.requires_grad_(True)
    with pytest.raises(invariants.NotFrozen, match="preference_model"):
        fit(tmp_path, module)


# 2. A reference that follows the policy -----------------------------------------------------------


def test_a_reference_that_shares_the_policy_s_tensors(tmp_path):
    module = tiny_module()
    for mine, its in zip(module.reference.parameters(), module.policy.parameters(), strict=True):
        mine.data = its.data
    with pytest.raises(invariants.ReferenceFollowsPolicy, match=r"reference_of\(policy\)"):
        fit(tmp_path, module)


def test_a_reference_that_is_the_policy_as_when_adapters_stay_on(tmp_path):
    """Nothing about its tensors is wrong: only its answers show it."""

    class AdaptersLeftOn(nn.Module):
        def __init__(self, policy):
            super().__init__()
            self.policy, self.sampling = (policy,), policy.sampling
            self.eos_ids, self.pad_id, self.decode = policy.eos_ids, policy.pad_id, policy.decode
            self.shares_prompts = policy.shares_prompts

        def forward(self, *batch, **known):
            return self.policy[0](*batch, **known)

    iterations = STILL_ITERATIONS + 2
    module = tiny_module(iterations)
    module.reference = FrozenModel(AdaptersLeftOn(module.policy))
    with pytest.raises(invariants.ReferenceFollowsPolicy, match="adapters are not switched off"):
        fit(tmp_path, module, iterations)


def test_a_reference_that_is_not_the_starting_policy(tmp_path):
    module = tiny_module()
    module.reference = reference_of(tiny_policy(seed=1))
    with pytest.raises(invariants.ReferenceNotAtStart, match="expected a KL of 0"):
        fit(tmp_path, module)


@pytest.mark.parametrize("name", ["reference", "preference_model"])
def test_frozen_weights_that_something_writes_to(tmp_path, name):
    class Writer(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            next(getattr(pl_module, name).parameters()).data[0] += 1e-3

    with pytest.raises(invariants.FrozenWeightsChanged, match=name):
        fit(tmp_path, tiny_module(), callbacks=[Writer()])


# 3. pad == eos, and a mask that takes the true EOS for padding ------------------------------------


class MaskFromPadIds(NativeSampler):
    """The mask that many trainers build."""

    def sample(self, policy, prompts, sampling, seed):
        rollout = super().sample(policy, prompts, sampling, seed)
        return replace(rollout, response_mask=rollout.response_ids != policy.pad_id)


def stopping_policy() -> Policy:
    """pad == eos, and a response ends about every fourth token."""
    model = tiny_model("llama")
    model.lm_head.weight.data *= 0.1
    model.lm_head.bias = nn.Parameter(torch.zeros(len(model.lm_head.weight)))
    model.lm_head.bias.data[EOS] = 3.5
    return Policy(model, tiny_tokenizer(pad="<eos>"))


def test_pad_equals_eos_and_masks_it(tmp_path):
    module = tiny_module(policy=stopping_policy())
    assert module.policy.pad_id == EOS
    module.sampler = MaskFromPadIds()
    with pytest.raises(invariants.EndOfSequenceMasked, match="not from the pad id"):
        fit(tmp_path, module)


def test_with_pad_equal_to_eos_the_policy_learns_to_stop(tmp_path):
    """A judge that likes short responses: they get shorter, so the EOS itself is trained."""
    iterations = 12
    module = tiny_module(iterations, policy=stopping_policy(), lr=3e-2, kl_coef=0.0)

    def embed(prompts, responses, columns):
        length = torch.tensor([[float(len(r)) for r in group] for group in responses])
        rewards = -length[..., None].repeat(1, 1, 3)
        return Embeddings.of_rewards(rewards, torch.ones(len(prompts), 3) / 3)

    module.preference_model.module.embed = embed
    fit(tmp_path, module, iterations)
    columns = read_metrics(tmp_path / "metrics.csv")
    lengths = columns["rollout/response_length"][1]
    assert sum(lengths[-3:]) < 0.6 * sum(lengths[:3])
    assert columns["rollout/truncated_fraction"][1][-1] == 0


# 4. NaN × 0 ---------------------------------------------------------------------------------------


class NaNOnPadding(Policy):
    def forward(self, prompt_ids, prompt_mask, response_ids, response_mask, *rest, **known):
        values = super().forward(
            prompt_ids, prompt_mask, response_ids, response_mask, *rest, **known
        )
        return tuple(v.masked_fill(~response_mask, math.nan) for v in values)


def nan_module(**kwargs):
    policy = stopping_policy()
    policy.__class__ = NaNOnPadding
    return tiny_module(policy=policy, **kwargs)


def test_a_masked_nan_cannot_poison_the_loss(tmp_path):
    fit(tmp_path, nan_module())
    columns = read_metrics(tmp_path / "metrics.csv")
    assert columns["train/bad_steps"][1] == [0, 0]
    assert all(math.isfinite(v) for name in columns for v in columns[name][1])


def test_a_masked_nan_that_is_multiplied_by_its_mask(tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch_loss, "zero_outside", lambda mask, values: values * mask)
    monkeypatch.setattr(
        minibatch_loss, "masked_sum", lambda values, weights, mask: (values * weights).sum()
    )
    with pytest.raises(invariants.TooManyBadSteps, match=r"algorithm\.max_bad_steps=3"):
        fit(tmp_path, nan_module(iterations=6), 6)


# 5. A loss whose scale depends on the micro-batch split -------------------------------------------


@pytest.mark.parametrize("aggregation", ["dr_grpo", "dapo", "grpo"])
@pytest.mark.parametrize("mistake", ["own counts", "mean of means"])
def test_a_loss_that_depends_on_the_micro_batch_split(tmp_path, monkeypatch, aggregation, mistake):
    right = minibatch_loss.token_weights

    def of_the_micro_batch(mask, aggregation, num_rollouts, num_tokens, max_tokens, dtype):
        own = right(mask, aggregation, len(mask), int(mask.sum()), max_tokens, dtype)
        return own if mistake == "own counts" else own * len(mask) / num_rollouts

    monkeypatch.setattr(minibatch_loss, "token_weights", of_the_micro_batch)
    module = tiny_module(policy=stopping_policy(), micro_batch_size=3, loss_aggregation=aggregation)
    if mistake == "mean of means" and aggregation != "dapo":
        fit(tmp_path, module)  # counts of rollouts, not of tokens: this is the right loss
        return
    with pytest.raises(invariants.LossScale, match=r"algorithm\.micro_batch_size"):
        fit(tmp_path, module)


# Steps that are not finite ------------------------------------------------------------------------


class BrokenJudge:
    """Gives NaN for the first group of some iterations."""

    def __init__(self, module, iterations):
        self.embed, self.calls, self.iterations = (
            module.preference_model.module.embed,
            0,
            iterations,
        )
        module.preference_model.module.embed = self

    def __call__(self, prompts, responses, columns):
        found = self.embed(prompts, responses, columns)
        if self.calls in self.iterations:
            found.vectors[0, 0] = math.nan
        self.calls += 1
        return found


def test_a_bad_step_is_skipped_and_counted_and_leaves_no_trace(tmp_path):
    module = tiny_module(4, anchored=False, policy=tiny_policy())
    BrokenJudge(module, {1})
    weights = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            weights.append(copy.deepcopy(pl_module.policy.state_dict()))

    trainer = fit(tmp_path, module, 4, callbacks=[Watch()])
    assert read_metrics(tmp_path / "metrics.csv")["train/bad_steps"][1] == [0, 1, 1, 1]
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairwise(weights)]
    assert same == [True, False, False]
    assert module.advantage_state["running"].isfinite().all()
    assert all(math.isfinite(v) for v in trainer.callbacks[1].state.variance_share)
    assert module.lr_schedulers().last_epoch == 4, "the schedule keeps its place"


def test_too_many_bad_steps_leave_the_batch_for_replay(tmp_path):
    module = tiny_module(anchored=False)
    BrokenJudge(module, {0, 1})
    trainer = tiny_trainer(tmp_path, every=100)
    trainer.callbacks[0].max_bad_steps = 1
    with pytest.raises(invariants.TooManyBadSteps) as stopped:
        trainer.fit(module, tiny_loader(module, 3))
    file = tmp_path / "bad_steps" / "iteration_000002_rank0.pt"
    assert str(file) in str(stopped.value)
    saved = torch.load(file, weights_only=False)

    again = tiny_module(anchored=False)
    again.manual_backward = lambda loss: loss.backward()
    again.policy.load_state_dict(saved["weights"])
    for rows in saved["rows"]:
        statistics = UpdateStatistics()
        norm = again._backward(saved["scored"], rows, statistics)
        assert not statistics.close(rows, norm)


def test_the_count_of_bad_steps_survives_a_resume():
    first, second = Invariants(), Invariants()
    first.bad_steps = 2
    second.load_state_dict(first.state_dict())
    assert second.bad_steps == 2


# Nothing to learn from ----------------------------------------------------------------------------


class Ties:
    """Scores all responses alike, but in some iterations."""

    def __init__(self, module, telling=()):
        judge = module.preference_model.module
        self.embed, self.telling, self.calls = judge.embed, telling, 0
        judge.embed = self

    def __call__(self, prompts, responses, columns):
        found = self.embed(prompts, responses, columns)
        if self.calls not in self.telling:
            found.vectors[:] = found.vectors[:, :1]
        self.calls += 1
        return found


def silent_run(folder, limit, iterations=6, telling=(), checkpoint=None):
    module = tiny_module(iterations, anchored=False)
    Ties(module, telling)
    trainer = tiny_trainer(folder, every=100)
    trainer.callbacks[0].max_silent_iterations = limit
    trainer.fit(module, tiny_loader(module, iterations), ckpt_path=checkpoint, weights_only=True)
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def test_iterations_without_signal_end_the_run_saved(tmp_path):
    with pytest.raises(invariants.NoSignal, match=r"max_silent_iterations=3: .* 3 iterations"):
        silent_run(tmp_path, 3)
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert saved.name == "iteration_000003.ckpt"
    assert read_metrics(tmp_path / "metrics.csv")["train/no_signal_fraction"][1] == [1, 1, 1]
    with pytest.raises(invariants.NoSignal, match="4 iterations"):
        silent_run(tmp_path, 3, checkpoint=saved)  # the count goes on
    assert silent_run(tmp_path / "any", None) == 6


def test_a_signal_begins_the_count_anew(tmp_path):
    assert silent_run(tmp_path, 3, telling={2}, iterations=5) == 5
    with pytest.raises(invariants.NoSignal):
        silent_run(tmp_path / "later", 3, telling={2}, iterations=8)


def test_a_short_run_wholly_without_signal_is_no_success(tmp_path):
    with pytest.raises(invariants.NoSignal, match="2 iterations"):
        silent_run(tmp_path, 50, iterations=2)


def test_old_logprobs_of_minus_infinity_would_end_as_a_finite_ratio(tmp_path):
    class Underflow(NativeSampler):
        def sample(self, policy, prompts, sampling, seed):
            rollout = super().sample(policy, prompts, sampling, seed)
            logprobs = rollout.old_logprobs.clone()
            if prompts.iteration == 1:
                logprobs[-1, 0] = -math.inf
            return replace(rollout, old_logprobs=logprobs, sampler_logprobs=logprobs)

    module = tiny_module()
    module.sampler = Underflow()
    fit(tmp_path, module)
    assert read_metrics(tmp_path / "metrics.csv")["train/bad_steps"][1] == [0, 1]


# Log-probabilities, precision, text ---------------------------------------------------------------


@pytest.mark.parametrize("mistake", ["temperature", "shift"])
def test_a_sampler_that_is_not_the_policy(tmp_path, mistake):
    class Shifted(NativeSampler):
        def sample(self, policy, prompts, sampling, seed):
            rollout = super().sample(policy, prompts, sampling, seed)
            logprobs = rollout.old_logprobs.roll(1, 1)
            return replace(rollout, old_logprobs=logprobs, sampler_logprobs=logprobs)

    module = tiny_module()
    if mistake == "shift":
        module.sampler = Shifted()
    else:
        module.sampling = replace(module.sampling, temperature=0.5)
    with pytest.raises(invariants.LogprobMismatch, match=r"algorithm\.max_logprob_mismatch"):
        fit(tmp_path, module)


def test_a_policy_that_is_another_function_at_every_forward(tmp_path):
    class Noisy(Policy):
        def forward(self, *batch, **known):
            logprobs, entropy = super().forward(*batch, **known)
            return logprobs + 1e-3 * torch.randn_like(logprobs) * batch[3], entropy

    policy = tiny_policy()
    policy.__class__ = Noisy
    module = tiny_module(policy=policy)
    with pytest.raises(invariants.RatioNotOne, match="dropout"):
        fit(tmp_path, module)


def test_weights_too_coarse_for_the_steps(tmp_path):
    module = tiny_module(policy=tiny_policy(torch.bfloat16, spread=1.0), lr=1e-7)
    with pytest.raises(invariants.WeightsUnchanged, match=r"policy\.dtype=float32"):
        fit(tmp_path, module)


def test_weights_of_which_a_fifth_moved(tmp_path):
    """Most steps are lost all the same: what is left is another update than the one computed."""

    class Sparse(torch.optim.AdamW):
        def step(self, closure=None):
            before = [p.detach().clone() for group in self.param_groups for p in group["params"]]
            super().step(closure)
            for parameter, old in zip(self.param_groups[0]["params"], before, strict=True):
                kept = torch.arange(parameter.numel()).view_as(parameter) % 5 == 0
                parameter.data.copy_(torch.where(kept, parameter, old))

    module = tiny_module(2)
    module.make_optimizer = partial(Sparse, lr=1e-3)
    with pytest.raises(invariants.WeightsUnchanged, match="moved"):
        fit(tmp_path, module)


def test_steps_too_small_are_judged_when_the_rate_has_warmed_up(tmp_path):
    """33 iterations of warm-up: float32 weights move later, bfloat16 ones at no rate of these."""
    long = partial(tiny_module, iterations=1100, lr=1e-7)
    fit(tmp_path / "rising", long(policy=tiny_policy(spread=1.0)), iterations=4)
    coarse = long(policy=tiny_policy(torch.bfloat16, spread=1.0))
    with pytest.raises(invariants.WeightsUnchanged, match="moved"):
        fit(tmp_path / "risen", coarse, iterations=25)
    seen = read_metrics(tmp_path / "risen" / "metrics.csv")["train/learning_rate"][1]
    assert 15 <= len(seen) <= 18  # half of the peak


class Rounding(NativeSampler):
    """Off by up to 0.05 nats, as bfloat16 on a large model."""

    def sample(self, policy, prompts, sampling, seed):
        rollout = super().sample(policy, prompts, sampling, seed)
        noise = 0.05 * torch.rand(rollout.old_logprobs.shape, generator=torch.Generator())
        logprobs = rollout.old_logprobs - noise
        return replace(rollout, old_logprobs=logprobs, sampler_logprobs=logprobs)


@pytest.mark.parametrize("sampler", [NativeSampler, Rounding])
def test_in_half_precision_old_logprobs_are_kept_within_the_bound_and_else_recomputed(
    tmp_path, sampler
):
    """The gauge shows what the sampler is off by; recomputed, the ratio is exactly 1."""
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(
                (
                    outputs["iteration"].group.logprobs.recomputed,
                    outputs["iteration"].update.ratio_error,
                )
            )

    calm = Policy(tiny_model("llama", spread=5.0), tiny_tokenizer())  # sharper ones round more
    module = tiny_module(minibatches=2, micro_batch_size=2, policy=calm)
    module.sampler = sampler()
    fit(tmp_path, module, precision="bf16-mixed", callbacks=[Watch()])
    gauge = read_metrics(tmp_path / "metrics.csv")["rollout/logprob_mismatch"][1]
    if sampler is Rounding:
        assert seen == [(True, 0.0), (True, 0.0)]
        assert all(0.025 < value < 0.2 for value in gauge)
    else:
        assert seen[0] == (True, 0.0), "of the first rollout two rows prove nothing"
        assert all(not recomputed and 0 < error < 0.1 for recomputed, error in seen[1:])
        assert all(1e-4 < value < 0.025 for value in gauge)


def forwards_and_weights(folder, monkeypatch, deferred):
    """The policy's forward passes of each iteration, and the weights after the last."""
    module = tiny_module(3, minibatches=1, micro_batch_size=4)  # three micro-batches
    module.sampler = Rounding()
    calls, seen = [], []
    module.policy.register_forward_pre_hook(lambda *_: calls.append(1))

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            check, update = outputs["iteration"].group.logprobs, outputs["iteration"].update
            seen.append((len(calls), check.recomputed, update.ratio_error))
            calls.clear()

    if not deferred:
        confirm = gprl.confirm_old_logprobs
        monkeypatch.setattr(gprl, "confirm_old_logprobs", lambda *a: confirm(*a[:4]))
    fit(folder, module, 3, precision="bf16-mixed", callbacks=[Watch()])
    gauge = read_metrics(folder / "metrics.csv")["rollout/logprob_mismatch"][1]
    return seen, gauge, module.policy.state_dict()


def test_one_step_per_rollout_takes_its_own_log_probabilities_for_old_ones(tmp_path, monkeypatch):
    """A sampler that rounds otherwise costs no forward pass then, and no digit changes."""
    seen, gauge, weights = forwards_and_weights(tmp_path / "own", monkeypatch, True)
    before, old_gauge, expected = forwards_and_weights(tmp_path / "pass", monkeypatch, False)
    # The first rollout is asked about two rows, and then read to see two forward passes agree.
    assert seen == [(1 + 3 + 3, True, 0.0), (3, True, 0.0), (3, True, 0.0)]
    assert before == [(1 + 3 + 3, True, 0.0), (3 + 3, True, 0.0), (3 + 3, True, 0.0)]
    assert gauge == pytest.approx(old_gauge, abs=1e-6)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.parametrize("cached", [False, True])
def test_half_precision_copies_of_weights_do_not_outlive_an_update(tmp_path, monkeypatch, cached):
    """Several optimiser steps share one autocast context; its cache would keep the first's."""

    def weights(folder, cleared):
        module = tiny_module(2, minibatches=2, inner_epochs=2, lr=1e-2)
        if cleared:
            module.policy.register_forward_pre_hook(lambda *_: torch.clear_autocast_cache())
        fit(folder, module, precision="bf16-mixed")
        return torch.cat([p.flatten() for p in module.policy.state_dict().values()])

    if cached:  # what the test would see
        monkeypatch.setattr(
            MixedPrecision,
            "autocast_context_manager",
            lambda self: torch.autocast("cpu", torch.bfloat16, cache_enabled=True),
        )
    same = torch.equal(weights(tmp_path / "as_is", False), weights(tmp_path / "cleared", True))
    assert same is not cached


def test_a_sampler_that_begins_to_differ_is_recomputed_from_the_next_iteration_on(tmp_path):
    """And goes back to its own when it no longer does. All rows are seen: here one token is off."""

    class OffForAWhile(NativeSampler):
        def sample(self, policy, prompts, sampling, seed):
            rollout = super().sample(policy, prompts, sampling, seed)
            logprobs = rollout.old_logprobs.clone()
            logprobs[-1, 0] += 1e-3 if prompts.iteration in (1, 2) else 0
            return replace(rollout, old_logprobs=logprobs, sampler_logprobs=logprobs)

    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(
                (
                    outputs["iteration"].group.logprobs.recomputed,
                    outputs["iteration"].update.ratio_error > 5e-4,
                )
            )

    module = tiny_module(minibatches=1)
    module.sampler = OffForAWhile()
    fit(tmp_path, module, iterations=5, callbacks=[Watch()])
    gauge = read_metrics(tmp_path / "metrics.csv")["rollout/logprob_mismatch"][1]
    assert seen == [(False, False), (False, True), (True, False), (True, False), (False, False)]
    assert [value > 5e-4 for value in gauge] == [False, True, True, False, False]


def test_responses_that_are_not_what_the_tokens_say(tmp_path):
    class Other(NativeSampler):
        def sample(self, policy, prompts, sampling, seed):
            rollout = super().sample(policy, prompts, sampling, seed)
            return replace(rollout, responses=tuple(f"{r} " for r in rollout.responses))

    module = tiny_module()
    module.sampler = Other()
    with pytest.raises(invariants.NotText, match=r"policy\.decode"):
        fit(tmp_path, module)
