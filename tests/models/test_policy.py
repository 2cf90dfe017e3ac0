"""The policy's log-probabilities against a forward of each row alone, without padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gprl_lightning.errors import ConfigError
from gprl_lightning.models.policy import Policy
from tests.tiny import (
    ARCHITECTURES,
    BOS,
    END_OF_TURN,
    EOS,
    PAD,
    VOCABULARY,
    chat,
    tiny_model,
    tiny_policy,
    tiny_prompts,
    tiny_tokenizer,
)

# Prompts of unlike length, one with the pad token inside; responses: cut, one token, empty, ended
# by either end token, one with the pad token inside.
TEXTS = ["hi", "how are you, my friend?", "a<pad>b<pad>", "?", "x y", "longer: 0123456789"]
RESPONSES = [
    [10, 11, 12, 13, 14, 15],
    [EOS],
    [],
    [20, 21, END_OF_TURN],
    [30, PAD, PAD, 31, EOS],
    [40],
]

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def batch(policy: Policy, extra: int = 0) -> Batch:
    """The examples; ``extra`` columns of padding on either side."""
    prompts = tiny_prompts(policy, TEXTS)
    ids = torch.nn.functional.pad(prompts.input_ids, (extra, 0), value=policy.pad_id)
    mask = torch.nn.functional.pad(prompts.mask, (extra, 0))
    width = max(map(len, RESPONSES)) + extra
    response_ids = torch.full((len(RESPONSES), width), policy.pad_id)
    response_mask = torch.zeros(len(RESPONSES), width, dtype=torch.bool)
    for row, tokens in enumerate(RESPONSES):
        response_ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        response_mask[row, : len(tokens)] = True
    return ids, mask, response_ids, response_mask


def alone(policy: Policy, row: int, inputs: Batch) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of one row, from the model's own logits, in float64."""
    ids, mask, response_ids, response_mask = (part[row] for part in inputs)
    response = response_ids[response_mask]
    tokens = torch.cat([ids[mask], response])
    logits = policy.causal_lm(tokens[None]).logits[0, len(tokens) - len(response) - 1 : -1]
    logprobs = torch.log_softmax(logits.double() / policy.temperature, -1)
    return logprobs.gather(1, response[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


@pytest.mark.parametrize("pad", ["<pad>", "<eos>", None])
@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_equals_each_row_alone(arch, pad):
    policy = tiny_policy(arch, temperature=0.7, pad=pad)
    assert policy.pad_id == (PAD if pad == "<pad>" else EOS)
    inputs = batch(policy)
    logprobs, entropy = policy(*inputs)
    for row, response in enumerate(RESPONSES):
        expected, expected_entropy = alone(policy, row, inputs)
        torch.testing.assert_close(
            logprobs[row, : len(response)].double(), expected, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            entropy[row, : len(response)].double(), expected_entropy, atol=1e-5, rtol=0
        )
        assert torch.all(logprobs[row, len(response) :] == 0)
        assert torch.all(entropy[row, len(response) :] == 0)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_gradients_equal_those_of_each_row_alone(arch):
    policy = tiny_policy(arch).double()
    inputs = batch(policy)
    weights = torch.randn(inputs[3].shape, dtype=torch.float64)
    (policy(*inputs)[0] * weights).sum().backward()
    together = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    for row, response in enumerate(RESPONSES):
        (alone(policy, row, inputs)[0] * weights[row, : len(response)]).sum().backward()
    assert len(together) > 10
    for name, parameter in policy.named_parameters():
        if parameter.grad is not None:
            # Gemma 2 takes its softmax in float32 whatever the weights are.
            rtol, atol = (1e-5, 1e-7) if arch == "gemma2" else (1e-8, 1e-10)
            torch.testing.assert_close(together[name], parameter.grad, rtol=rtol, atol=atol)


def test_padding_of_any_width_changes_nothing():
    policy = tiny_policy()
    short, _ = policy(*batch(policy))
    wide, _ = policy(*batch(policy, extra=5))
    torch.testing.assert_close(wide[:, : short.shape[1]], short, atol=1e-6, rtol=0)
    assert torch.all(wide[:, short.shape[1] :] == 0)


def test_only_empty_responses():
    policy = tiny_policy()
    ids, mask, response_ids, response_mask = batch(policy)
    logprobs, entropy = policy(ids, mask, response_ids, response_mask & False)
    assert torch.equal(logprobs, torch.zeros_like(logprobs))
    assert torch.equal(entropy, torch.zeros_like(entropy))


def test_temperature_and_soft_cap_count():
    """Liveness: each changes the result."""
    inputs = batch(tiny_policy("gemma2"))
    base = tiny_policy("gemma2")(*inputs)[0]
    assert not torch.allclose(tiny_policy("gemma2", temperature=0.5)(*inputs)[0], base, atol=0.1)
    uncapped = tiny_policy("gemma2")
    uncapped.causal_lm.config.final_logit_softcapping = None
    assert not torch.allclose(uncapped(*inputs)[0], base, atol=0.1)


@torch.no_grad()
def test_unknown_logit_transform_takes_the_plain_path(caplog):
    special = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    config = AutoConfig.for_model(
        "cohere", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logit_scale=0.25, **special,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = Policy(AutoModelForCausalLM.from_config(config).eval(), tiny_tokenizer(), 0.1)
    assert not policy.head_is_plain
    assert "CohereForCausalLM" in caplog.text
    inputs = batch(policy)
    logprobs, entropy = policy(*inputs)
    expected, expected_entropy = alone(policy, 0, inputs)
    torch.testing.assert_close(logprobs[0].double(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy[0].double(), expected_entropy, atol=1e-5, rtol=0)


def test_a_head_with_bias():
    model = tiny_model()
    model.lm_head.bias = torch.nn.Parameter(torch.randn(VOCABULARY))
    policy = Policy(model, tiny_tokenizer())
    assert policy.head_is_plain
    inputs = batch(policy)
    expected, _ = alone(policy, 0, inputs)
    torch.testing.assert_close(policy(*inputs)[0][0].double(), expected, atol=1e-5, rtol=0)


def test_half_precision_weights_give_float32_logprobs():
    policy = tiny_policy().bfloat16()
    logprobs, _ = policy(*batch(policy))
    assert logprobs.dtype == torch.float32
    full, _ = tiny_policy()(*batch(policy))
    assert (logprobs - full).abs().max() < 1.0


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_train_and_eval_are_the_same_function(arch):
    model = tiny_model(arch)
    for name in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"):
        setattr(model.config, name, 0.5)
    model = type(model)(model.config)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    policy = Policy(model, tiny_tokenizer())
    inputs = batch(policy)
    assert torch.equal(policy.train()(*inputs)[0], policy.eval()(*inputs)[0])


# Prompts and text ---------------------------------------------------------------------------------


def test_prompts_are_the_template_with_one_bos_left_padded():
    policy = tiny_policy(pad="<eos>")
    prompts = policy.encode_prompts(7, [3, 9], [chat("hello"), chat("a<eos>")], 40)
    assert (prompts.iteration, prompts.uids.tolist(), len(prompts)) == (7, [3, 9], 2)
    for row, text in enumerate(["hello", "a<eos>"]):
        real = prompts.input_ids[row][prompts.mask[row]].tolist()
        letters = [policy.tokenizer.convert_tokens_to_ids(letter) for letter in text]
        before, after = ([*policy.tokenizer(t).input_ids] for t in ("user:", "assistant:"))
        assert real == [BOS, *before, *letters, END_OF_TURN, *after]
        assert real.count(BOS) == 1
        # The mask is a suffix, whatever ids stand in it.
        assert prompts.mask[row].tolist() == sorted(prompts.mask[row].tolist())


def test_a_long_prompt_is_refused_and_not_cut():
    with pytest.raises(ConfigError, match=r"data\.max_prompt_tokens=10: prompt 4 has 22 tokens"):
        tiny_policy().encode_prompts(0, [4], [chat("hello")], 10)


def test_a_prompt_that_the_template_refuses():
    policy = tiny_policy()
    policy.tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ConfigError, match=r"data\.system_prompt.*no system role"):
        policy.encode_prompts(0, [0], [chat("hello")], 100)


def test_no_chat_template_and_no_end():
    with pytest.raises(ConfigError, match=r"policy\.chat_template"):
        Policy(tiny_model(), tiny_tokenizer(chat_template=None))
    model, tokenizer = tiny_model(), tiny_tokenizer()
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    with pytest.raises(ConfigError, match="end-of-sequence"):
        Policy(model, tokenizer)


def test_every_end_token_is_known():
    model = tiny_model()
    model.generation_config.eos_token_id = END_OF_TURN
    assert Policy(model, tiny_tokenizer()).eos_ids == (END_OF_TURN, EOS)


def test_decode_drops_special_and_end_tokens_and_what_is_masked():
    policy = tiny_policy()
    model = tiny_model()
    model.generation_config.eos_token_id = [4]  # an ordinary token, "a"
    ordinary = Policy(model, tiny_tokenizer())
    ids = torch.tensor([[5, 6, EOS, 7], [8, PAD, END_OF_TURN, 9], [6, 4, 9, 9]])
    mask = torch.tensor(
        [[True, True, True, False], [True, True, True, True], [True, True, False, False]]
    )
    assert policy.decode(ids, mask) == ("bc", "ef", "ca")
    assert ordinary.decode(ids, mask)[2] == "c"
