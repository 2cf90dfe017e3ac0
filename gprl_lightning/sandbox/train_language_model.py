"""Train the sandbox's language model (``python -m gprl_lightning.sandbox.train_language_model``).

A Llama of about a million parameters with a byte-pair tokenizer of its own, trained on the filtered
corpus, a minor share of grammar answers, and copies of answers with another subject of the same
family (a tiny model learns to copy a word from its prompt only if it sees that the word varies).
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gprl_lightning.sandbox import grammar
from gprl_lightning.sandbox.corpus import Example, read_examples
from gprl_lightning.sandbox.requests import FAMILIES, Request, split_requests
from gprl_lightning.sandbox.sentences import mentions
from gprl_lightning.sandbox.tokenizer import (
    ASSISTANT,
    BOS,
    EOS,
    PAD,
    SPECIAL,
    USER,
    build_tokenizer,
)

ASSETS = Path(__file__).parent / "assets" / "language_model"
MAX_RESPONSE_TOKENS = 60
PROMPT_LOSS_WEIGHT = 0.1  # prompts are few and fixed; a little weight shapes their representation


def build_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, intermediate: int):
    """Return a randomly initialised Llama with tied embeddings and heads of 32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers,
        intermediate_size=intermediate, num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32, max_position_embeddings=256, tie_word_embeddings=True,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def with_other_subject(
    example: Example, allowed: frozenset[Request], rng: random.Random
) -> Example:
    """Return the example about another subject of its family, if the answer names its subject
    plainly."""
    subjects = next(s for s, _ in FAMILIES.values() if example.subject in s)
    other = rng.choice(subjects)
    changed = re.sub(rf"\b{example.subject}\b", other, example.response)
    same = changed == example.response or mentions(changed, example.subject)
    moved = replace(example, subject=other, response=changed)
    return example if same or moved.request not in allowed else moved


def epoch_examples(
    corpus: list[Example], grammar_share: float, rng: random.Random
) -> list[Example]:
    """Return one pass: every corpus answer, half with another subject, and fresh grammar
    answers."""
    train = split_requests()[0]
    allowed = frozenset(train)
    rows = [with_other_subject(e, allowed, rng) if rng.random() < 0.5 else e for e in corpus]
    for request in rng.choices(train, k=round(len(corpus) * grammar_share / (1 - grammar_share))):
        rows.append(
            Example(request.task, request.subject, request.detail, grammar.answer(request, rng))
        )
    rng.shuffle(rows)
    return rows


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: list[Example]
) -> list[tuple[list[int], int]]:
    """Return token ids of prompt and answer, and where the answer starts; too long ones are left
    out."""
    prompts: list[list[int]] = tokenizer([e.request.text for e in examples])["input_ids"]
    answers: list[list[int]] = tokenizer([e.response for e in examples])["input_ids"]
    return [
        ([BOS, USER, *prompt, ASSISTANT, *answer, EOS], len(prompt) + 3)
        for prompt, answer in zip(prompts, answers, strict=True)
        if len(answer) <= MAX_RESPONSE_TOKENS
    ]


def batches(
    rows: list[tuple[list[int], int]], tokens: int, rng: random.Random
) -> Iterator[tuple[Int[Tensor, "rows length"], Float[Tensor, "rows length"]]]:
    """Yield batches of rows of about equal length: ids and loss weights, [rows, length], 0 on
    pads."""
    order = sorted(rows, key=lambda row: len(row[0]) + 4 * rng.random())
    found, start = [], 0
    while start < len(order):
        stop = start
        while stop < len(order) and len(order[stop][0]) * (stop - start + 1) <= tokens:
            stop += 1
        found.append(order[start : max(stop, start + 1)])
        start = max(stop, start + 1)
    rng.shuffle(found)
    for batch in found:
        length = max(len(ids) for ids, _ in batch)
        ids = torch.zeros(len(batch), length, dtype=torch.long)
        weights = torch.zeros(len(batch), length)
        for i, (row, first) in enumerate(batch):
            ids[i, : len(row)] = torch.tensor(row)
            weights[i, 1:first] = PROMPT_LOSS_WEIGHT
            weights[i, first : len(row)] = 1.0
        yield ids, weights


def with_noise(
    ids: Int[Tensor, "rows length"],
    weights: Float[Tensor, "rows length"],
    share: float,
    vocabulary: int,
) -> Int[Tensor, "rows length"]:
    """Return the inputs with a share of the answers' tokens drawn at random: a guard against
    rote."""
    replaced = (torch.rand(ids.shape) < share) & (weights == 1.0)
    return torch.where(replaced, torch.randint(len(SPECIAL), vocabulary, ids.shape), ids)


def weighted_loss(
    model: LlamaForCausalLM,
    inputs: Int[Tensor, "rows length"],
    ids: Int[Tensor, "rows length"],
    weights: Float[Tensor, "rows length"],
) -> Float[Tensor, ""]:
    """Mean next-token loss in nats, weighted; pads stand right, where no token looks."""
    logits = model(inputs[:, :-1]).logits.float()
    losses = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


@torch.inference_mode()
def held_out_loss(model: LlamaForCausalLM, rows: list[tuple[list[int], int]]) -> float:
    """Return nats per answer token on examples that were not trained on."""
    total = count = 0.0
    for ids, weights in batches(rows, 8192, random.Random(0)):
        weights = (weights == 1.0).float()
        count += float(weights.sum())
        total += float(weighted_loss(model, ids, ids, weights) * weights.sum())
    return total / count


def learning_rate(step: int, steps: int, peak: float, warmup: int = 60) -> float:
    """Return the rate of a linear warm-up, then of a cosine to a twentieth of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def save(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, sharpness: float
):
    """Save with the logits multiplied by `sharpness`, so that samples at temperature 1 are cleaner.

    The factor goes into the weight of the last norm, which feeds the output layer alone.
    """
    sharp = copy.deepcopy(model)
    with torch.no_grad():
        sharp.model.norm.weight.mul_(sharpness)
    sharp.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(corpus: list[Example], args: argparse.Namespace) -> None:
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    rng.shuffle(corpus)
    held_out, corpus = corpus[: len(corpus) // 25], corpus[len(corpus) // 25 :]
    texts = [
        t
        for e in epoch_examples(corpus, args.grammar_share, rng)
        for t in (e.request.text, e.response)
    ]
    tokenizer = build_tokenizer(texts, args.vocabulary)
    model = build_model(tokenizer, args.hidden, args.layers, args.intermediate)
    print(f"{model.num_parameters()} parameters, {len(corpus)} answers", flush=True)
    validation = encode(tokenizer, held_out)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    step, seen, start, source = 0, 0, time.time(), iter(())
    while step < args.steps:
        batch = next(source, None)
        if batch is None:
            rows = encode(tokenizer, epoch_examples(corpus, args.grammar_share, rng))
            source = batches(rows, args.batch_tokens, rng)
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.lr)
        ids, weights = batch
        inputs = with_noise(ids, weights, args.input_noise, len(tokenizer))
        loss = weighted_loss(model, inputs, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, seen = step + 1, seen + ids.numel()
        if step % args.save_every == 0 or step == args.steps:
            nats = held_out_loss(model, validation)
            print(f"step {step} tokens {seen} seconds {time.time() - start:.0f} "
                  f"loss {loss.item():.3f} held out {nats:.3f}", flush=True)  # fmt: skip
            save(model, tokenizer, args.out, args.sharpness)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="JSON lines, from gprl_lightning.sandbox.corpus")
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--vocabulary", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--intermediate", type=int, default=384)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--save-every", type=int, default=300)
    parser.add_argument("--batch-tokens", type=int, default=3072)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--grammar-share", type=float, default=0.25)
    parser.add_argument("--sharpness", type=float, default=1.25)
    parser.add_argument("--input-noise", type=float, default=0.08)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train(read_examples(args.corpus), args)


if __name__ == "__main__":
    main()
