"""Drop the corpus's slips: answers with a step that the teacher itself holds unlikely.

Sampling takes an unlikely token now and then, and a small teacher does not recover from it. The
worst and the mean log-probability of an answer's tokens under the teacher find these answers
well.

``python -m gprl_lightning.sandbox.plausibility CORPUS.jsonl --teacher FOLDER --out KEPT.jsonl``
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gprl_lightning.sandbox.corpus import (
    Example,
    read_examples,
    without_lone_words,
    write_examples,
)
from gprl_lightning.sandbox.make_corpus import SYSTEM
from gprl_lightning.sandbox.requests import Request

OPENING_TOKENS = 5  # an answer's opening was given to the teacher: not its doing
MIN_WORST, MIN_MEAN = -6.0, -2.4  # nats


@torch.inference_mode()
def token_log_probs(
    model, tokenizer, request: Request, answers: Sequence[str]
) -> list[Float[Tensor, " tokens"]]:
    """Return ln P of each token of each answer to one request, in nats, under the teacher."""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": request.text}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(chat, return_tensors="pt", add_special_tokens=False).input_ids
    out = model(prompt, use_cache=True, logits_to_keep=1)
    cache = out.past_key_values
    cache.batch_repeat_interleave(len(answers))
    rows = [tokenizer(a, add_special_tokens=False).input_ids for a in answers]
    length = max(map(len, rows))
    ids = torch.tensor(
        [row + [0] * (length - len(row)) for row in rows]
    )  # right pads: never looked at
    rest = model(ids[:, :-1], past_key_values=cache, use_cache=True).logits
    first = out.logits[:, -1:].expand(len(answers), 1, -1)
    logprobs = (
        torch.cat([first, rest], 1).float().log_softmax(-1).gather(2, ids[:, :, None])[:, :, 0]
    )
    return [logprobs[i, : len(row)] for i, row in enumerate(rows)]


def plausible(logprobs: Float[Tensor, " tokens"]) -> bool:
    """Return True if neither one token nor the whole of an answer is unlikely."""
    rest = logprobs[OPENING_TOKENS:] if len(logprobs) > OPENING_TOKENS + 1 else logprobs
    return float(rest.min()) >= MIN_WORST and float(rest.mean()) >= MIN_MEAN


def judge(model, tokenizer, examples: Sequence[Example]) -> Iterator[tuple[Example, bool]]:
    """Return each example with its verdict, grouped by request."""
    groups: defaultdict[Request, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.request].append(example)
    for request, rows in groups.items():
        found = token_log_probs(model, tokenizer, request, [e.response for e in rows])
        yield from ((row, plausible(logprobs)) for row, logprobs in zip(rows, found, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="JSON lines, from gprl_lightning.sandbox.corpus")
    parser.add_argument("--teacher", required=True, help="folder of SmolLM2-135M-Instruct")
    parser.add_argument(
        "--verdicts", required=True, type=Path, help="a later call goes on from these"
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.teacher, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        args.teacher, dtype=torch.bfloat16, trust_remote_code=False
    ).eval()
    examples = read_examples(args.corpus)
    verdicts: dict[str, bool] = {}
    if args.verdicts.exists():
        for line in args.verdicts.read_text(encoding="utf-8").splitlines():
            verdicts |= json.loads(line)
    fresh = [e for e in examples if e.response not in verdicts]
    print(f"{len(fresh)} of {len(examples)} answers to judge", flush=True)
    with args.verdicts.open("a", encoding="utf-8", buffering=1) as file:
        for example, verdict in judge(model, tokenizer, fresh):
            verdicts[example.response] = verdict
            file.write(json.dumps({example.response: verdict}) + "\n")
    kept = without_lone_words(e for e in examples if verdicts[e.response])
    write_examples(args.out, kept)
    print(f"{len(kept)} kept")


if __name__ == "__main__":
    main()
