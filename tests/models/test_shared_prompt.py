"""The forward pass that reads a prompt once: values and gradients are those of the plain path."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gprl_lightning.config import LoraConfig
from gprl_lightning.models.lora import with_lora
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.models.shared_prompt import shares_prompts
from tests.tiny import (
    EOS,
    PAD,
    VOCABULARY,
    exact,
    tiny_config,
    tiny_model,
    tiny_policy,
    tiny_prompts,
    tiny_tokenizer,
)

KNOWN = ("llama", "qwen2", "mistral", "qwen3")
# Rows of four prompts in no order, one prompt with a single row, the pad id and EOS inside.
WHICH = [2, 0, 1, 2, 0, 2, 3, 0]
PROMPTS = ["hi", "how are you, my friend?", "a<pad>b<pad>", "x<eos>y"]
RESPONSES = [[10, 11, 12, 13], [EOS], [], [30, PAD, PAD, 31, EOS], [40], [12, 11], [7, 8, 9], [41]]

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def model_of(arch: str) -> torch.nn.Module:
    if arch in ("llama", "qwen2", "gpt2", "gemma2"):
        return tiny_model(arch)  # type: ignore[arg-type]
    config = tiny_config("llama").to_dict()
    shape = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    more = {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": None}
    config = AutoConfig.for_model(
        arch, vocab_size=VOCABULARY, **{k: config[k] for k in shape}, **more
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                parameter * 10 if parameter.ndim == 2 else 1 + torch.rand(len(parameter))
            )
    return model


def pair(model: torch.nn.Module) -> tuple[Policy, Policy]:
    """A policy on the fast path, and one with the same weights on the plain path."""
    fast = Policy(model, tiny_tokenizer(), temperature=0.8)
    assert fast.shares_prompts
    plain = copy.deepcopy(fast)
    plain.shares_prompts = False
    return fast, plain


def batch(policy: Policy, left: int = 0, right: int = 0) -> Batch:
    prompts = tiny_prompts(policy, PROMPTS)
    pad = torch.nn.functional.pad
    ids = pad(prompts.input_ids[WHICH], (left, right), value=EOS)
    mask = pad(prompts.mask[WHICH], (left, right))
    lengths = torch.tensor([len(r) for r in RESPONSES])
    response_mask = torch.arange(7) < lengths[:, None]
    response_ids = torch.full(response_mask.shape, policy.pad_id)
    response_ids[response_mask] = torch.tensor([t for r in RESPONSES for t in r])
    return ids, mask, response_ids, response_mask


def results(policy: Policy, inputs: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies, and the gradient of all trainable weights."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(inputs[3].shape, generator=generator)
    policy.zero_grad()
    logprobs, entropy = policy(*inputs)
    (logprobs * weights).sum().backward()
    grads = [p.grad.flatten() for p in policy.parameters() if p.grad is not None]
    return logprobs.detach(), entropy, torch.cat(grads)


def require_same(fast: Policy, plain: Policy, inputs: Batch, tolerance: float) -> None:
    *found, gradient = results(fast, inputs)
    *expected, expected_gradient = results(plain, inputs)
    assert expected[0].abs().max() > 1 and expected_gradient.norm() > 1e-3
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
    assert gradient.shape == expected_gradient.shape
    difference = (gradient - expected_gradient).norm() / expected_gradient.norm()
    assert difference <= tolerance


@pytest.mark.parametrize("arch", KNOWN)
def test_values_and_gradients(arch):
    fast, plain = pair(model_of(arch))
    require_same(fast, plain, batch(fast), 1e-5)


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_in_float64_they_are_the_same_function(arch):
    fast, plain = pair(exact(tiny_model(arch)))
    require_same(fast, plain, batch(fast), 1e-10)


@pytest.mark.parametrize(("left", "right"), [(5, 0), (0, 4), (3, 2)])
def test_padding_of_prompts_on_any_side(left, right):
    fast, plain = pair(tiny_model())
    require_same(fast, plain, batch(fast, left, right), 1e-5)


def test_any_subset_of_rows():
    fast, plain = pair(tiny_model())
    for rows in ([0], [0, 3, 5], [6, 1], [2, 3], [7, 4, 1, 6]):
        require_same(fast, plain, tuple(part[rows] for part in batch(fast)), 1e-5)  # type: ignore


def test_prompts_of_one_token():
    """Nothing is left of them to share; and one that is another's beginning is another prompt."""
    fast, plain = pair(tiny_model())
    _, _, response_ids, response_mask = batch(fast)
    ids = torch.tensor(
        [[0, 0, 5], [0, 0, 5], [0, 0, 5], [0, 5, 0], [0, 5, 0], [5, 0, 0], [5, 0, 0], [0, 0, 5]]
    )
    lengths = torch.tensor([1, 1, 1, 2, 2, 3, 3, 1])
    mask = torch.arange(3) >= 3 - lengths[:, None]
    require_same(fast, plain, (ids, mask, response_ids, response_mask), 1e-5)
    require_same(fast, plain, (ids[:3], mask[:3], response_ids[:3], response_mask[:3]), 1e-5)


def test_gradient_checkpointing_changes_nothing_and_recomputes():
    fast, plain = pair(tiny_model())
    expected = results(fast.train(), batch(fast))
    fast.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    norm = fast.causal_lm.model.layers[0].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append(0))
    found = results(fast.train(), batch(fast))
    assert len(calls) == 2  # once more in the backward pass
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    require_same(fast, plain, batch(fast), 1e-5)


@pytest.mark.parametrize("target_modules", ["all-linear", ["q_proj", "v_proj", "lm_head"]])
def test_adapters(target_modules):
    """Also on the head, which then is more than its weight; and the reference is without them."""
    model = with_lora(tiny_model(), LoraConfig(r=4, alpha=8, target_modules=target_modules))
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    fast, plain = pair(model)
    assert fast.head_is_plain == (target_modules == "all-linear")
    require_same(fast, plain, batch(fast), 1e-5)
    without, _ = reference_of(fast)(*batch(fast))
    expected, _ = Policy(tiny_model(), tiny_tokenizer(), temperature=0.8)(*batch(fast))
    torch.testing.assert_close(without, expected.detach(), atol=1e-5, rtol=0)
    assert (without - fast(*batch(fast))[0]).abs().max() > 0.1


def test_half_precision():
    """Weights in bfloat16, and float32 ones under autocast, are off by what bfloat16 rounds."""
    full, _ = pair(model_of("mistral"))
    exact_values, _ = full(*batch(full))
    fast, plain = pair(model_of("mistral").bfloat16())
    with torch.no_grad():
        ours, theirs = fast(*batch(fast))[0], plain(*batch(fast))[0]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = full(*batch(full))[0]
    noise = (theirs - exact_values).norm()
    assert 0 < (ours - exact_values).norm() < 2 * noise
    assert 0 < (mixed - exact_values).norm() < 2 * noise


def test_a_prompt_is_run_once():
    """Four prompts of 14, 35, 16 and 15 tokens, and as many suffix tokens as response tokens."""
    policy = tiny_policy()
    seen = []
    embedding = policy.causal_lm.get_input_embeddings()
    embedding.register_forward_hook(lambda _, args, __: seen.append(args[0].numel()))
    inputs = batch(policy)
    policy(*inputs)
    prompts = tiny_prompts(policy, PROMPTS)
    assert seen == [int(prompts.mask.sum()) - len(PROMPTS) + sum(map(len, RESPONSES))]


@pytest.mark.parametrize("arch", ["gpt2", "gemma2"])
def test_other_architectures_take_the_plain_path_and_say_so(arch, caplog):
    policy = Policy(tiny_model(arch), tiny_tokenizer())
    assert not policy.shares_prompts
    assert caplog.text.count("takes the plain path") == 1
    assert type(policy.causal_lm).__name__ in caplog.text


def test_what_looks_like_the_family_and_is_not_takes_the_plain_path(caplog):
    windowed = AutoConfig.for_model("mistral", sliding_window=4, hidden_size=32, **SMALL)
    dynamic = AutoConfig.for_model("llama", hidden_size=32, **SMALL)
    dynamic.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    for config in (windowed, dynamic):
        assert not shares_prompts(AutoModelForCausalLM.from_config(config))
    assert "does not know" in caplog.text
    changed = tiny_model()
    changed.model.layers[1].mlp = torch.nn.Identity()
    assert shares_prompts(changed)  # whatever the modules are, they are called
    twice = changed.model.layers[0]
    forward = twice.forward
    twice.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)
    assert not shares_prompts(changed)
    assert "something else" in caplog.text


SMALL = {
    "vocab_size": VOCABULARY,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


def test_another_attention_is_obeyed_by_the_plain_path(caplog):
    """The shared path has its own: what `policy.attention` names must be what runs."""
    model = tiny_model("llama")
    expected = Policy(copy.deepcopy(model), tiny_tokenizer())
    model.set_attn_implementation("eager")
    policy = Policy(model, tiny_tokenizer())
    assert expected.shares_prompts and not policy.shares_prompts
    assert "policy.attention=eager" in caplog.text
    calls = []
    attention = model.model.layers[0].self_attn
    attention.register_forward_hook(lambda *_: calls.append(model.config._attn_implementation))
    prompts = tiny_prompts(policy, PROMPTS[:2])
    ids = torch.tensor([[10, 11, 12], [13, 14, 15]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    found, wanted = (p(prompts.input_ids, prompts.mask, ids, mask)[0] for p in (policy, expected))
    assert calls == ["eager"]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
