"""Token log-probabilities: equal to a plain softmax, gradients included, without its memory."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gprl_lightning.core.logprobs import Slope, token_logprobs


def example(
    rows: int = 2,
    tokens: int = 3,
    width: int = 4,
    vocab: int = 11,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab, (rows, tokens), generator=generator)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), targets


def plain(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    bias: Tensor | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T + (0 if bias is None else bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    distribution = torch.distributions.Categorical(logits=logits / temperature)
    return distribution.log_prob(targets), distribution.entropy()


VARIANTS = tuple(product((1.0, 0.7), (False, True), (None, 2.0), (1, 4, 1024)))


@pytest.mark.parametrize(("temperature", "biased", "softcap", "chunk_size"), VARIANTS)
def test_values_and_gradients_are_those_of_a_plain_softmax(
    temperature: float, biased: bool, softcap: float | None, chunk_size: int
) -> None:
    """The last of the chunks of 4 tokens has 2."""
    hidden, weight, bias, targets = example()
    found, expected = [], []
    for function, results in ((token_logprobs, found), (plain, expected)):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        extra = {"chunk_size": chunk_size} if function is token_logprobs else {}
        logprobs, entropy = function(
            leaves[0],
            leaves[1],
            targets,
            temperature=temperature,
            bias=leaves[2] if biased else None,
            softcap=softcap,
            **extra,
        )
        (logprobs * torch.linspace(-1, 2, 6).reshape(2, 3)).sum().backward()
        results += [logprobs, entropy, *(leaf.grad for leaf in leaves)]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def losses(logprobs: Tensor, places: Tensor) -> Tensor:
    """Some loss by tokens that is not linear."""
    return (places * logprobs.exp() + logprobs.square()).sum()


def told(places: Tensor, error: float = 0.0) -> Slope:
    """The derivative of `losses`, by hand."""

    def slope(logprobs: Tensor, part: slice) -> Tensor:
        return places[part] * logprobs.exp() + 2 * logprobs + error

    return slope


@pytest.mark.parametrize("error", [0.0, 0.01])
@pytest.mark.parametrize(("temperature", "biased", "softcap", "chunk_size"), VARIANTS)
def test_gradients_made_ahead_are_those_of_a_plain_softmax_even_if_the_slope_was_wrong(
    temperature: float, biased: bool, softcap: float | None, chunk_size: int, error: float
) -> None:
    hidden, weight, bias, targets = example()
    places = torch.linspace(-1, 2, 6, dtype=hidden.dtype)
    found, expected = [], []
    for results, function, extra in (
        (found, token_logprobs, {"chunk_size": chunk_size, "slope": told(places, error)}),
        (expected, plain, {}),
    ):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
        biases = leaves[2] if biased else None
        logprobs, entropy = function(*leaves[:2], targets, temperature, biases, softcap, **extra)
        losses(logprobs.flatten(), places).backward()
        results += [logprobs, entropy, *(leaf.grad for leaf in leaves)]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


class Products(TorchDispatchMode):
    """How often logits are made: products that give [tokens, vocabulary]."""

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab, self.logits = vocab, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.mm and result.shape[-1] == self.vocab:
            self.logits += 1
        return result


@pytest.mark.parametrize(("error", "expected"), [(0.0, 5), (0.01, 10)])
def test_a_slope_told_ahead_saves_making_the_logits_twice(error: float, expected: int) -> None:
    """40 tokens in chunks of 8; where the slope was wrong, they are made again."""
    hidden, weight, _, targets = example(rows=5, tokens=8, vocab=1000)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    places = torch.linspace(-1, 2, 40, dtype=hidden.dtype)
    with Products(1000) as products, LargestTensor() as watch:
        logprobs, _ = token_logprobs(*leaves, targets, chunk_size=8, slope=told(places, error))
        losses(logprobs.flatten(), places).backward()
    assert products.logits == expected
    assert watch.largest == 8000


def test_gradients_made_ahead_are_made_anew_for_a_second_backward_pass() -> None:
    hidden, weight, _, targets = example()
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    places = torch.linspace(-1, 2, 6, dtype=hidden.dtype)
    logprobs, _ = token_logprobs(*leaves, targets, slope=told(places))
    loss = losses(logprobs.flatten(), places)
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), first)


def test_where_no_gradient_is_wanted_no_slope_is_asked_for() -> None:
    hidden, weight, _, targets = example()
    with torch.no_grad():
        token_logprobs(
            hidden, weight.requires_grad_(), targets, slope=lambda *_: pytest.fail("asked")
        )


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_gradcheck(softcap: float | None) -> None:
    hidden, weight, bias, targets = example(rows=1, width=3, vocab=5)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]

    def logprobs(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return token_logprobs(hidden, weight, targets, 0.8, bias, softcap, chunk_size=2)[0]

    assert torch.autograd.gradcheck(logprobs, leaves)


def test_a_frozen_head_gets_no_gradient_and_hidden_gets_its_own() -> None:
    hidden, weight, _, targets = example()
    leaf = hidden.clone().requires_grad_()
    token_logprobs(leaf, weight, targets)[0].sum().backward()
    expected = hidden.clone().requires_grad_()
    plain(expected, weight, targets, 1.0, None, None)[0].sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(leaf.grad, expected.grad)


def test_a_frozen_body_leaves_the_gradient_to_the_head() -> None:
    hidden, weight, _, targets = example()
    weight.requires_grad_()
    token_logprobs(hidden, weight, targets)[0].sum().backward()
    assert hidden.grad is None and weight.grad.abs().sum() > 0


def test_entropy_is_for_logging_only() -> None:
    hidden, weight, _, targets = example()
    logprobs, entropy = token_logprobs(hidden.requires_grad_(), weight, targets)
    assert logprobs.requires_grad and not entropy.requires_grad


def test_selected_positions_and_none_at_all() -> None:
    hidden, weight, _, targets = example()
    everywhere, _ = token_logprobs(hidden, weight, targets)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    torch.testing.assert_close(
        token_logprobs(hidden[mask], weight, targets[mask])[0], everywhere[mask]
    )
    nowhere = hidden[:, :0].requires_grad_()
    logprobs, entropy = token_logprobs(nowhere, weight, targets[:, :0])
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (2, 0) and nowhere.grad.shape == nowhere.shape


def test_half_precision_hidden_gives_single_precision_results_and_half_gradients() -> None:
    hidden, weight, _, targets = example(dtype=torch.bfloat16)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    logprobs, entropy = token_logprobs(*leaves, targets)
    logprobs.sum().backward()
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert all(leaf.grad.dtype == torch.bfloat16 for leaf in leaves)
    expected, _ = plain(hidden.float(), weight.float(), targets, 1.0, None, None)
    torch.testing.assert_close(logprobs, expected, rtol=0.05, atol=0.05)


def test_half_precision_head_gradients_do_not_drown_in_the_sum_over_chunks() -> None:
    """Tokens of 256, 1, 1, ...: in bfloat16, -64 and eight times -1/4, one by one, is still -64."""
    hidden = torch.tensor([[256.0], *[[1.0]] * 8], dtype=torch.bfloat16)
    weight = torch.zeros(4, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(9, dtype=torch.long)
    token_logprobs(hidden, weight, targets, chunk_size=1)[0].sum().backward()
    assert weight.grad.flatten().tolist() == [198.0, -66.0, -66.0, -66.0]


def test_under_autocast_the_product_is_autocasts_and_gradients_are_the_leaves_own() -> None:
    hidden, weight, _, targets = example(dtype=torch.float32)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, _ = token_logprobs(*leaves, targets)
        logprobs.sum().backward()
    expected, _ = token_logprobs(hidden.bfloat16(), weight.bfloat16(), targets)
    assert torch.equal(logprobs, expected)
    assert all(leaf.grad.dtype == torch.float32 for leaf in leaves)


def saved_numbers(hidden: Tensor, weight: Tensor, targets: Tensor, chunk_size: int) -> int:
    """Numbers kept for the backward pass, the head itself left out."""
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        token_logprobs(hidden, weight, targets, chunk_size=chunk_size)
    assert any(tensor is weight or tensor.shape == weight.shape for tensor in kept)
    return sum(tensor.numel() for tensor in kept if tensor.shape != weight.shape)


def test_nothing_of_the_size_of_tokens_times_vocabulary_is_kept() -> None:
    """Kept are hidden (4 a token), targets and normaliser: 6 a token, whatever the vocabulary."""
    for vocab in (7, 1000):
        hidden, weight, _, targets = example(rows=5, tokens=8, vocab=vocab)
        weight.requires_grad_()
        assert saved_numbers(hidden.requires_grad_(), weight, targets, chunk_size=4) == 6 * 40


class LargestTensor(TorchDispatchMode):
    """Size of the largest tensor that any operation returns, forward and backward."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_tensor_exceeds_a_chunk_times_the_vocabulary() -> None:
    """40 tokens in chunks of 8 over 1,000 entries: 8,000 numbers, where the logits have 40,000."""
    hidden, weight, _, targets = example(rows=5, tokens=8, vocab=1000)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with LargestTensor() as watch:
        token_logprobs(*leaves, targets, chunk_size=8)[0].sum().backward()
    assert watch.largest == 8000
