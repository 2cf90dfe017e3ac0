"""The teacher's verdict on an answer: log-probabilities behind a shared prompt, thresholds."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gprl_lightning.sandbox.gold import ASSETS
from gprl_lightning.sandbox.plausibility import plausible, token_log_probs
from gprl_lightning.sandbox.requests import Request


def test_log_probs_are_those_of_one_plain_forward_per_answer():
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "language_model")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "language_model", dtype=torch.float32)
    request = Request("review", "cafe", "coffee")
    answers = ["I loved this cafe.", "The coffee was cold and the staff were rude to us."]
    found = token_log_probs(model, tokenizer, request, answers)
    prompt = tokenizer(f"<s><|user|>{request.text}<|assistant|>")["input_ids"]
    for answer, logprobs in zip(answers, found, strict=True):
        ids = tokenizer(answer)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0]
        wanted = [
            logits[len(prompt) - 1 + i].log_softmax(-1)[token].item() for i, token in enumerate(ids)
        ]
        assert logprobs.tolist() == pytest.approx(wanted, abs=1e-4)


def test_one_unlikely_token_or_many_doubtful_ones_condemn_an_answer():
    opening = [-9.0] * 5  # given to the teacher, so not held against the answer
    assert plausible(torch.tensor(opening + [-1.0] * 8))
    assert not plausible(torch.tensor(opening + [-1.0] * 7 + [-6.5]))
    assert not plausible(torch.tensor(opening + [-3.0] * 8))
