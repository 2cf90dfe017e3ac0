"""Decoding in fixed shapes: the plain sampler's responses, whatever ends when."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gprl_lightning.config.models import LoraConfig
from gprl_lightning.models.lora import with_lora
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.rollout import fixed_shapes
from gprl_lightning.rollout.decode_weights import DecodeWeights
from gprl_lightning.rollout.fixed_step import FixedStep
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.tiny import tiny_model, tiny_policy, tiny_prompts, tiny_tokenizer

TEXTS = ["hi", "how are you, my friend?", "a<pad>b", "x"]
KNOWN = ["llama", "qwen2", "qwen3", "mistral"]


def both(policy, sampling, seed=1, sampler=None):
    prompts = tiny_prompts(policy, TEXTS)
    fixed = (sampler or NativeSampler(fixed_shapes=True)).sample(policy, prompts, sampling, seed)
    return fixed, NativeSampler(fixed_shapes=False).sample(policy, prompts, sampling, seed)


def assert_equal(fixed, plain):
    assert torch.equal(fixed.response_ids, plain.response_ids)
    assert torch.equal(fixed.response_mask, plain.response_mask)
    assert torch.equal(fixed.finished, plain.finished)
    torch.testing.assert_close(fixed.old_logprobs, plain.old_logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.01}]
)
@pytest.mark.parametrize("arch", KNOWN)
def test_it_draws_what_the_plain_sampler_draws(arch, options):
    policy = tiny_policy(arch, options.get("temperature", 1.0))
    fixed, plain = both(policy, Sampling(6, 70, **options))
    assert_equal(fixed, plain)
    assert fixed.finished.any()


def test_it_goes_on_in_smaller_grids(monkeypatch):
    shapes = []
    run = fixed_shapes.FixedShapes._run
    monkeypatch.setattr(
        fixed_shapes.FixedShapes,
        "_run",
        lambda self, step, *rest: shapes.append(step.shape) or run(self, step, *rest),
    )
    fixed, plain = both(tiny_policy("llama"), Sampling(16, 130))
    assert_equal(fixed, plain)
    assert len({shape.rows for shape in shapes}) > 2 and len({s.held for s in shapes}) > 1


def test_one_sampler_follows_the_weights_and_the_prompts():
    policy, sampler = tiny_policy("llama"), NativeSampler(fixed_shapes=True)
    assert_equal(*both(policy, Sampling(4, 24), 1, sampler))
    held = sampler.decoder.weights
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    assert_equal(*both(policy, Sampling(4, 24), 2, sampler))
    assert sampler.decoder.weights is held  # the same addresses: captured steps stay valid
    assert_equal(*both(policy, Sampling(5, 100), 2, sampler))


def test_where_a_step_cannot_be_captured_it_runs_by_itself(monkeypatch, caplog):
    def refused(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", refused)
    policy, sampler = tiny_policy("llama"), NativeSampler(fixed_shapes=True)
    sampler.decoder.captures = True
    assert_equal(*both(policy, Sampling(4, 70), 1, sampler))
    assert caplog.text.count("could not be captured") == 1 and not sampler.decoder.graphs


def test_captured_steps_are_replayed_and_a_larger_buffer_has_a_pool_of_its_own(monkeypatch):
    """A stand-in for CUDA's graphs: to capture a step does not run it, to replay it does. A real
    pool is gone with the last graph in it, and whoever asks for it again is refused."""
    run, pools = FixedStep.__call__, []

    class Graph:
        def replay(self):
            run(self.step)

    @contextmanager
    def capturing(graph, pool):
        pools.append(pool)
        monkeypatch.setattr(FixedStep, "__call__", lambda step: setattr(graph, "step", step))
        yield
        monkeypatch.setattr(FixedStep, "__call__", run)

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    policy, sampler = tiny_policy("llama"), NativeSampler(fixed_shapes=True)
    sampler.decoder.captures = True
    for size, pool in ((4, 0), (3, 0), (6, 1)):
        assert_equal(*both(policy, Sampling(size, 70), 1, sampler))
        assert pools[-1] is [*dict.fromkeys(pools)][pool]
    assert len(dict.fromkeys(pools)) == 2 and sampler.decoder.graphs


def embeddings(policy: Policy) -> torch.Tensor:
    module: Any = policy.causal_lm.get_input_embeddings()
    return module.weight


def disable_adapter(policy: Policy) -> Any:
    model: Any = policy.model
    return model.disable_adapter()


def lora_policy() -> Policy:
    torch.manual_seed(0)
    options = LoraConfig(r=4, alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    model = with_lora(tiny_model("llama"), options)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return Policy(model, tiny_tokenizer())


def test_adapters_are_merged_into_the_copy_and_the_policy_is_untouched():
    policy = lora_policy()
    before = {name: p.clone() for name, p in policy.named_parameters()}
    fixed, plain = both(policy, Sampling(4, 24))
    assert_equal(fixed, plain)
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())
    with disable_adapter(policy):
        without, _ = both(policy, Sampling(4, 24))
    assert not torch.equal(without.response_ids, fixed.response_ids)


def test_adapters_that_come_on_later_do_not_reach_the_base():
    """Off, a weight is the base's own; the packed copy must not write the merged one into it."""
    policy, sampler = lora_policy(), NativeSampler(fixed_shapes=True)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    with disable_adapter(policy):
        assert_equal(*both(policy, Sampling(4, 24), 1, sampler))
    assert_equal(*both(policy, Sampling(4, 24), 1, sampler))
    assert all(torch.equal(p, before[name]) for name, p in policy.named_parameters())


def test_a_sampler_of_two_policies_mixes_them_not():
    first, second = (Policy(tiny_model("llama", seed=s), tiny_tokenizer()) for s in (0, 1))
    before = {name: p.clone() for name, p in first.named_parameters()}
    sampler = NativeSampler(fixed_shapes=True)
    for policy in (first, second, first):
        assert_equal(*both(policy, Sampling(4, 24), 1, sampler))
    assert all(torch.equal(p, before[name]) for name, p in first.named_parameters())


def test_under_autocast_no_step_casts_a_weight():
    policy = tiny_policy("llama")
    sampler = NativeSampler(fixed_shapes=True)
    with torch.autocast("cpu", torch.bfloat16):
        rollout = sampler.sample(policy, tiny_prompts(policy, TEXTS), Sampling(4, 24), 1)
    weights = sampler.decoder.weights
    assert weights is not None and weights.dtype == torch.bfloat16
    parameters = sum(p.numel() for p in policy.parameters())
    embedding = embeddings(policy).numel()
    assert weights.bytes <= 2 * (parameters + embedding)  # the head is tied to the embedding
    assert rollout.old_logprobs.isfinite().all()


class Operators(TorchDispatchMode):
    """Counts what is not a view, and what waits for the device."""

    VIEWS = ("view", "slice", "expand", "transpose", "select", "split", "alias", "detach", "t.",
             "unsqueeze", "permute", "_unsafe_view", "_reshape_alias", "as_strided")  # fmt: skip
    WAITS = ("_local_scalar_dense", "nonzero", "item", "_unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators.append(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))

    @property
    def kernels(self) -> list[str]:
        return [name for name in self.operators if not name.startswith(self.VIEWS)]

    @property
    def waits(self) -> list[str]:
        return [name for name in self.operators if name.startswith(self.WAITS)]


def operators_of(layers: int, inside: bool, monkeypatch) -> Operators:
    """Of the second step; or of one look's work between captured steps."""
    counted = Operators()
    run, decode = fixed_shapes.FixedShapes._run, fixed_shapes.FixedShapes._decode

    def counting_run(self, step, count, eos_ids):
        run(self, step, 1, eos_ids)
        with counted:
            run(self, step, 1, eos_ids)
        run(self, step, count - 2, eos_ids)

    def silent_run(self, *rest):
        with _disable_current_modes():
            run(self, *rest)

    def counting_decode(self, *rest):
        with counted:
            return decode(self, *rest)

    monkeypatch.setattr(fixed_shapes.FixedShapes, "_run", counting_run if inside else silent_run)
    if not inside:
        monkeypatch.setattr(fixed_shapes.FixedShapes, "_decode", counting_decode)
    policy = Policy(tiny_model("llama", layers=layers), tiny_tokenizer())
    sampling = Sampling(4, fixed_shapes.STEPS_BETWEEN_LOOKS)
    NativeSampler(fixed_shapes=True).sample(policy, tiny_prompts(policy, TEXTS), sampling, 1)
    monkeypatch.undo()
    return counted


def test_a_step_waits_for_nothing_and_a_layer_is_few_operators(monkeypatch):
    """A CPU has no fused norm: 6 operators in the place of 1."""
    two, four = (operators_of(layers, True, monkeypatch) for layers in (2, 4))
    norms = 2 * (6 - 1)
    assert not two.waits and not four.waits
    assert len(four.kernels) - len(two.kernels) <= 2 * (26 + norms)


def test_between_captured_steps_it_waits_once_whatever_the_layers(monkeypatch):
    two, four = (operators_of(layers, False, monkeypatch) for layers in (2, 4))
    assert two.kernels == four.kernels
    assert len(two.waits) <= 1  # `tolist` is a copy to the host, which no operator shows


def test_packed_weights_are_read_once_a_step():
    policy = tiny_policy("qwen2")
    weights = DecodeWeights(policy.causal_lm, torch.float32)
    embedding = embeddings(policy)
    read = sum(p.numel() for p in policy.parameters()) - embedding.numel()
    tied = policy.causal_lm.config.tie_word_embeddings
    assert weights.bytes == 4 * (read + embedding.numel() * tied)


@pytest.mark.parametrize("adapters", [False, True])
def test_the_reference_is_read_into_the_policys_packed_weights_and_nothing_else_changes(adapters):
    """The policy has moved; both sample in turns, each what the plain sampler draws of it."""
    policy = tiny_policy("llama")
    if adapters:
        policy = Policy(with_lora(tiny_model("llama"), LoraConfig(r=4)), tiny_tokenizer())
    reference = reference_of(policy).module
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if not adapters or "lora_B" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    before = {name: p.clone() for name, p in [*policy.named_parameters()]}
    sampler, plain = NativeSampler(fixed_shapes=True), NativeSampler(fixed_shapes=False)
    other, sampling = sampler.beside(), Sampling(4, 24)
    prompts = tiny_prompts(policy, TEXTS)
    drawn = {}
    for network in (reference, policy, reference, policy):
        one = other if network is reference else sampler
        drawn[network] = one.sample(network, prompts, sampling, 3)
        assert_equal(drawn[network], plain.sample(network, prompts, sampling, 3))
    assert not torch.equal(drawn[policy].response_ids, drawn[reference].response_ids)
    assert all(torch.equal(before[name], p) for name, p in policy.named_parameters())
    assert other.decoder.weights is other.decoder.buffers is None and not other.decoder.graphs


def test_the_reference_takes_no_memory_for_packed_weights():
    policy, sampler = tiny_policy("llama"), NativeSampler(fixed_shapes=True)
    reference, prompts = reference_of(policy).module, tiny_prompts(policy, TEXTS)
    sampler.sample(policy, prompts, Sampling(4, 8), 1)
    held = sampler.decoder.weights
    assert held is not None
    lent = DecodeWeights(reference.causal_lm, held.dtype, room=held)
    for mine, theirs in zip(lent.layers, held.layers, strict=True):
        assert mine.qkv is theirs.qkv and mine.gate_up is theirs.gate_up
        assert mine.down is not theirs.down, "each model's own tensor"
    assert lent.embedding is not held.embedding
    half = DecodeWeights(policy.causal_lm, torch.bfloat16)  # where all is cast, all is a copy
    lent = DecodeWeights(reference.causal_lm, torch.bfloat16, room=half)
    assert all(mine is theirs for mine, theirs in zip(lent.ends, half.ends, strict=True))


def test_prompts_are_read_in_slices_that_memory_has_room_for(monkeypatch):
    policy, sampling, reads = tiny_policy("llama"), Sampling(3, 24), []
    read = fixed_shapes.read_prompts

    def counted(backbone, prompts, *rest):
        reads.append(prompts.shape)
        return read(backbone, prompts, *rest)

    monkeypatch.setattr(fixed_shapes, "read_prompts", counted)
    whole = both(policy, sampling)
    tokens = reads[0][1]
    monkeypatch.setattr(fixed_shapes, "READ_AT_ONCE", 3 * tokens)
    sliced = both(policy, sampling)
    assert [shape[0] for shape in reads] == [4, 3, 1]
    for pair in (whole, sliced):
        assert_equal(*pair)
