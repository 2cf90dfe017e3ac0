"""Our losses on pairs against TRL's on one batch, one small model: the same loss and gradients.

    pip install -e '.[bench]'
    python -m pytest -m benchmark tests/benchmarks/test_trl_agreement.py

TRL computes its loss through its own trainers, from tokens to gradients, with an output layer in
float32. Ours is computed from a plain log-softmax in float64 over the same model. TRL names no
label smoothing for DPO: there its CPO loss is given log-ratios, of which it is conservative DPO.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gprl_lightning.core.pair_losses import DPO, IPO, PairLogprobs, SimPO
from gprl_lightning.core.square_loss import SquareLoss

pytestmark = pytest.mark.benchmark

VOCABULARY, PAD = 40, 0
# Prompt, chosen and rejected answer, in tokens, of different lengths.
ROWS = (
    ([5, 6, 7], [8, 9, 10, 11, 2], [12, 13, 2]),
    ([14, 15], [16, 2], [17, 18, 19, 20, 21, 22, 2]),
    ([23, 24, 25, 26], [27, 28, 29, 2], [30, 31, 32, 2]),
)
TOLERANCE = {"atol": 1e-6, "rtol": 1e-6}
GRADIENT_TOLERANCE = 1e-6  # of the norm; TRL rounds to float32 on the way


def tiny(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.3,
        pad_token_id=PAD,
        eos_token_id=2,
        bos_token_id=1,
    )
    return LlamaForCausalLM(config).double().eval()


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    inner = Tokenizer(models.WordLevel(words, unk_token="w3"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="w0", bos_token="w1", eos_token="w2", unk_token="w3"
    )


def batch() -> dict[str, torch.Tensor]:
    """As TRL's collator lays it out: the chosen rows, then the rejected, padded on the right."""
    sequences = [(p, c) for p, c, _ in ROWS] + [(p, r) for p, _, r in ROWS]
    width = max(len(p) + len(a) for p, a in sequences)
    ids, attention, completion = [], [], []
    for prompt, answer in sequences:
        rest = width - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[PAD] * rest])
        attention.append([1] * (len(prompt) + len(answer)) + [0] * rest)
        completion.append([0] * len(prompt) + [1] * len(answer) + [0] * rest)
    return {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(attention),
        "completion_mask": torch.tensor(completion),
    }


def sums(model: LlamaForCausalLM) -> torch.Tensor:
    """log π of each whole answer, [pairs, 2], by the plain way."""
    data = batch()
    logits = model(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
    tokens = data["input_ids"][:, 1:, None]
    logprobs = logits[:, :-1].log_softmax(-1).gather(2, tokens)[..., 0]
    return (logprobs * data["completion_mask"][:, 1:]).sum(1).view(2, -1).T


def ours(policy: LlamaForCausalLM, reference: LlamaForCausalLM) -> PairLogprobs:
    with torch.no_grad():
        ref_logprobs = sums(reference)
    tokens = batch()["completion_mask"].sum(1).view(2, -1).T
    labels = torch.ones(len(ROWS)).double()
    gains = torch.tensor([[0.3, -0.4]]).double().expand(len(ROWS), 2)
    return PairLogprobs(sums(policy), ref_logprobs, tokens, labels, gains)


def gradients(loss: torch.Tensor, model: LlamaForCausalLM) -> torch.Tensor:
    found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in found])


def rows_of_text():
    from datasets import Dataset

    def text(ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)

    return Dataset.from_list(
        [{"prompt": text(p), "chosen": text(c), "rejected": text(r)} for p, c, r in ROWS]
    )


OURS = {
    "sigmoid": lambda pairs, beta: DPO(beta)(pairs).loss.mean(),
    "ipo": lambda pairs, beta: IPO(beta)(pairs).loss.mean(),
    # TRL adds the squares of the two answers of a pair; ours is their mean.
    "sppo_hard": lambda pairs, beta: 2 * SquareLoss(beta, hard=True)(pairs).loss.mean(),
}


@pytest.mark.parametrize("loss_type", OURS)
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo_ipo_and_hard_sppo(loss_type, beta, tmp_path):
    from trl import DPOConfig, DPOTrainer

    policy, reference = tiny(1), tiny(2)
    arguments = DPOConfig(
        str(tmp_path), beta=beta, loss_type=[loss_type], use_cpu=True, report_to=[], bf16=False,
        gradient_checkpointing=False, per_device_train_batch_size=3,
    )  # fmt: skip
    trainer = DPOTrainer(
        policy, reference, arguments, train_dataset=rows_of_text(), processing_class=tokenizer()
    )
    found = trainer._compute_loss(policy, batch(), return_outputs=False)
    expected = OURS[loss_type](ours(policy, reference), beta)
    assert expected > 0.01
    torch.testing.assert_close(expected, found.to(expected), **TOLERANCE)
    slope, theirs = gradients(expected, policy), gradients(found, policy)
    assert (slope - theirs).norm() < GRADIENT_TOLERANCE * slope.norm()


def cpo(loss_type: str, beta: float, gamma: float, smoothing: float):
    """TRL's loss on pairs, with the options of a trainer."""
    from trl.experimental.cpo import CPOTrainer

    options = SimpleNamespace(
        alpha=0.0, beta=beta, simpo_gamma=gamma, label_smoothing=smoothing, loss_type=loss_type,
        accelerator=SimpleNamespace(device="cpu"),
    )  # fmt: skip
    return lambda chosen, rejected: CPOTrainer.cpo_loss(options, chosen, rejected)[0].mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("beta, ratio", [(2.5, 0.55), (2.0, 0.3)])
def test_simpo_by_cpo(beta, ratio, smoothing):
    policy = tiny(1)
    pairs = ours(policy, tiny(2))
    expected = SimPO(beta, ratio, smoothing)(pairs).loss.mean()
    means = pairs.logprobs / pairs.tokens  # TRL's `average_log_prob`
    found = cpo("simpo", beta, beta * ratio, smoothing)(means[:, 0], means[:, 1])
    torch.testing.assert_close(expected, found, **TOLERANCE)
    ours_by_weight = torch.autograd.grad(expected, list(policy.parameters()), retain_graph=True)
    theirs = torch.autograd.grad(found, list(policy.parameters()))
    torch.testing.assert_close(ours_by_weight, theirs, **TOLERANCE)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing_of_dpo_by_cpo(smoothing):
    pairs = ours(tiny(1), tiny(2))
    expected = DPO(0.1, smoothing)(pairs).loss.mean()
    ratios = pairs.logprobs - pairs.ref_logprobs
    found = cpo("sigmoid", 0.1, 0.0, smoothing)(ratios[:, 0], ratios[:, 1])
    torch.testing.assert_close(expected, found, **TOLERANCE)
