"""Sample the sandbox's corpus from SmolLM2-135M-Instruct (``python -m
gprl_lightning.sandbox.make_corpus``).

Writes one JSON line per response, ``{"task", "subject", "detail", "response", "tokens"}``; several
processes may append to files of their own. About 200 tokens per second and core in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch

from gprl_lightning.sandbox.requests import Request, split_requests

SYSTEM = "You write one or two short, simple sentences."

# Each answer is begun for the model: left alone, a model of this size wanders off the request or
# only ever praises. Which opening is drawn decides whether the answer is glad, sour or in between.
OPENINGS: dict[str, tuple[str, ...]] = {
    "review": (
        "I loved this {subject}.", "This {subject} was a disappointment.", "The {detail}",
        "The {detail} was wonderful", "The {detail} was terrible", "This {subject} is",
        "I really enjoyed the {detail}", "Sadly, the {detail}", "A {subject} with",
        "I did not like the {detail}", "My favorite part of the {subject}", "I visited",
        "If you", "The best thing about this {subject}", "The worst thing about this {subject}", "",
    ),
    "describe": (
        "A small {subject} with", "An old {subject}", "The {subject} has", "A bright {subject}",
        "A cozy {subject}", "The {detail} of the {subject}", "A beautiful {subject}",
        "A plain {subject}",
        "A dull {subject}", "This {subject} is", "Its {detail}", "A modern {subject}",
        "A {subject}", "",
    ),
    "recommend": (
        "You should try this {subject}", "I found a great {subject}", "The {detail}", "Hey, I",
        "You will love the {detail}", "Do not bother with this {subject}",
        "My friend, this {subject}",
        "I was not happy with the {subject}", "I just tried", "If you like {detail}",
        "This {subject}",
        "Guess what! The {subject}", "The {subject} is", "",
    ),
    "complaint": (
        "We are sorry that", "Thank you for telling us about the {detail}", "We are very sorry",
        "I am sorry to hear", "We understand that the {detail}", "Thank you for", "The {detail}",
        "Sorry about the {detail}", "I apologize for the {detail}", "We will", "Our {subject}", "",
    ),
    "praise": (
        "Thank you so much!", "We are glad that you loved the {detail}", "Thank you for", "Thanks!",
        "We are so happy", "It is great to hear", "How kind of you!", "Our {subject}",
        "The {detail}",
        "I am delighted that", "We are proud of the {detail}", "",
    ),
}  # fmt: skip


def _opened(request: Request, rng: random.Random) -> tuple[list[dict[str, str]], str]:
    """The chat messages of a request, and the opening of its answer."""
    opening = rng.choice(OPENINGS[request.task])
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request.text}]
    return messages, opening.format(subject=request.subject, detail=request.detail)


def _begins_word(tokenizer, vocabulary: int) -> torch.Tensor:
    """Which tokens may stand after an opening: a space and a word, or punctuation."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(vocabulary)))
    return torch.tensor([t[0] == "\u0120" or t in {",", ".", "!", ":", ";"} for t in tokens])


@torch.inference_mode()
def sample(model, tokenizer, requests, rng, per_request, new_tokens, top_k, temperature):
    """Sample `per_request` answers for each request; returns token lists, cut at EOS."""
    opened = [_opened(r, rng) for r in requests]
    texts = [
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        + opening
        for messages, opening in opened
    ]
    batch = tokenizer(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    out = model(**batch, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    cache.batch_repeat_interleave(per_request)
    mask = batch.attention_mask.repeat_interleave(per_request, 0)
    logits = out.logits[:, -1].repeat_interleave(per_request, 0)
    done = torch.zeros(len(mask), dtype=torch.bool)
    stops = torch.tensor(
        [tokenizer.eos_token_id, *tokenizer.encode("\n", add_special_tokens=False)]
    )
    begins_word = _begins_word(tokenizer, logits.shape[1])
    opening = torch.tensor([bool(o) for _, o in opened]).repeat_interleave(per_request)
    columns = []
    for step in range(new_tokens):
        if step == 0:  # an opening must not be glued to what follows it: "I visited" + "the"
            logits = logits.masked_fill(opening[:, None] & ~begins_word, -torch.inf)
        top, index = logits.float().topk(top_k)
        choice = torch.multinomial((top / temperature).softmax(-1), 1)
        token = index.gather(1, choice)
        token = token.masked_fill(done[:, None] | torch.isin(token, stops), tokenizer.eos_token_id)
        columns.append(token)
        done |= token[:, 0] == tokenizer.eos_token_id
        if done.all():
            break
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        out = model(
            input_ids=token, attention_mask=mask, position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        logits = out.logits[:, -1]
    tokens = torch.cat(columns, 1).tolist()
    eos = tokenizer.eos_token_id
    rows = [row[: row.index(eos) + 1] if eos in row else row for row in tokens]
    return [(opened[i // per_request][1], row) for i, row in enumerate(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--tokens", type=int, default=1_100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--per-request", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=40)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--top-k", type=int, default=40)
    args = parser.parse_args()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.policy, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        args.policy, dtype=torch.bfloat16, trust_remote_code=False
    ).eval()
    requests = split_requests()[0]
    order = random.Random(args.seed)
    total, start, queue = 0, time.time(), []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as file:
        while total < args.tokens:
            if len(queue) < args.requests:
                queue = order.sample(requests, len(requests))
            batch, queue = queue[: args.requests], queue[args.requests :]
            rows = sample(
                model,
                tokenizer,
                batch,
                order,
                args.per_request,
                args.new_tokens,
                args.top_k,
                args.temperature,
            )
            for i, (opening, row) in enumerate(rows):
                r = batch[i // args.per_request]
                text = opening + tokenizer.decode(row, skip_special_tokens=True)
                ended = row[-1] == tokenizer.eos_token_id
                about = {"task": r.task, "subject": r.subject, "detail": r.detail}
                record = {**about, "response": text, "tokens": len(row), "ended": ended}
                file.write(json.dumps(record) + "\n")
            file.flush()
            total += sum(len(row) for _, row in rows)
            print(f"{total:>9} tokens, {total / (time.time() - start):.0f} per second", flush=True)


if __name__ == "__main__":
    main()
