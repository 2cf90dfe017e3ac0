"""Make the gold judge's data: trigram model, related words, and the scales of its axes.

``python -m gprl_lightning.sandbox.calibrate_gold CORPUS.jsonl`` writes them to ``assets/``; the
scales, those of both golds and of the axes that can be hacked, come from answers of the packaged
language model, the starting policy. Prints how each gold's axes correlate and how often it puts
three answers to one request in a circle.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gprl_lightning.sandbox import grammar
from gprl_lightning.sandbox.contextual_gold import CONTEXT_AXES, ContextualGold
from gprl_lightning.sandbox.corpus import Example, read_examples, read_raw
from gprl_lightning.sandbox.given_axes import HACKABLE
from gprl_lightning.sandbox.gold import ASSETS, AxisReader, GoldJudge
from gprl_lightning.sandbox.golds import Gold
from gprl_lightning.sandbox.ngram import NgramModel
from gprl_lightning.sandbox.requests import FAMILIES, Request, split_requests
from gprl_lightning.sandbox.sentences import content_counts

RELATED = 16  # words for each subject and detail
MIN_TOGETHER = 10
MAX_PHRASES = 0.35  # a word that goes with a greater share of subjects and details belongs to none


def find_related(answers: Sequence[tuple[Request, str]]) -> dict[str, list[str]]:
    """Find, for each subject and detail, the words most tied to it, by log-likelihood."""
    phrases = {p for subjects, details in FAMILIES.values() for p in (*subjects, *details)}
    own = {word for phrase in phrases for word in phrase.split()}
    everywhere: Counter[str] = Counter()
    beside: dict[str, Counter[str]] = {phrase: Counter() for phrase in phrases}
    size: Counter[str] = Counter()
    for request, text in answers:
        found = set(content_counts(text)) - own
        everywhere.update(found)
        for phrase in (request.subject, request.detail):
            beside[phrase].update(found)
            size[phrase] += 1
    spread = Counter(w for counts in beside.values() for w, n in counts.items() if n >= 2)
    related = {}
    for phrase in sorted(phrases):
        expected = {w: everywhere[w] * size[phrase] / len(answers) for w in beside[phrase]}
        gain = {
            w: n * math.log(n / expected[w])
            for w, n in beside[phrase].items()
            if n >= MIN_TOGETHER and n > 2 * expected[w] and spread[w] <= MAX_PHRASES * len(phrases)
        }
        related[phrase] = sorted(sorted(gain), key=gain.__getitem__, reverse=True)[:RELATED]
    return related


def sample_answers(
    folder: Path,
    requests: Sequence[Request],
    per_request: int,
    seed: int = 0,
    temperature: float = 1.0,
) -> list[list[str]]:
    """Sample `per_request` answers of a language model to each request."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    ).eval()
    answers: list[str] = []
    for start in range(0, len(requests), 16):
        chats = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": r.text}], tokenize=False, add_generation_prompt=True
            )
            for r in requests[start : start + 16]
        ]
        batch = tokenizer(
            chats, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        out = model.generate(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, do_sample=True, top_k=0,
            top_p=1.0, temperature=temperature, max_new_tokens=64, num_return_sequences=per_request,
        )  # fmt: skip
        answers += tokenizer.batch_decode(
            out[:, batch.input_ids.shape[1] :], skip_special_tokens=True
        )
    return [answers[i : i + per_request] for i in range(0, len(answers), per_request)]


def measured_scales(
    requests: Sequence[Request], answers: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Return mean and standard deviation over all answers of every axis that has a scale."""
    reader = AxisReader((*CONTEXT_AXES, *HACKABLE), {})
    rows = [reader.axes(r, a) for r, group in zip(requests, answers, strict=True) for a in group]
    table = np.array([list(row.values()) for row in rows])
    means, stds = table.mean(0), table.std(0)
    found = zip(reader.names, means, stds, strict=True)
    return {name: [float(mean), float(std)] for name, mean, std in found}


def correlations(
    judge: Gold, requests: Sequence[Request], answers: Sequence[Sequence[str]]
) -> np.ndarray:
    """Return Pearson correlations between axes over all answers, [axes, axes]."""
    rows = [
        list(judge.axes(r, a).values())
        for r, group in zip(requests, answers, strict=True)
        for a in group
    ]
    return np.corrcoef(np.array(rows).T)


def cyclic_share(
    judge: Gold, requests: Sequence[Request], answers: Sequence[Sequence[str]]
) -> float:
    """Return the share of triads of answers to one request that the judge puts in a circle."""
    cyclic = total = 0
    for request, group in zip(requests, answers, strict=True):
        for a, b, c in itertools.combinations(dict.fromkeys(group), 3):
            total += 1
            cyclic += (
                judge.prefer(request, a, b)
                == judge.prefer(request, b, c)
                == judge.prefer(request, c, a)
            )
    return cyclic / max(total, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="JSON lines, from gprl_lightning.sandbox.corpus")
    parser.add_argument("--raw", nargs="+", required=True, type=Path, help="the unfiltered samples")
    parser.add_argument("--requests", type=int, default=200)
    args = parser.parse_args()
    rng = random.Random(0)
    train = split_requests()[0]
    examples = read_examples(args.corpus)
    for request in rng.choices(train, k=len(examples) // 4):
        examples.append(
            Example(request.task, request.subject, request.detail, grammar.answer(request, rng))
        )
    NgramModel.fit(e.response for e in examples).save(ASSETS / "ngram.npz")
    related = json.dumps(find_related(list(read_raw(args.raw))), indent=1)
    (ASSETS / "related_words.json").write_text(related + "\n", encoding="utf-8")

    requests = rng.sample(train, args.requests)
    answers = sample_answers(ASSETS / "language_model", requests, 8)
    scales = json.dumps(measured_scales(requests, answers), indent=1)
    (ASSETS / "gold_scales.json").write_text(scales + "\n", encoding="utf-8")
    print(scales)
    for judge in (GoldJudge(), ContextualGold()):
        table = correlations(judge, requests, answers)
        print(*judge.names, np.array2string(table, precision=2, suppress_small=True), sep="\n")
        print(f"cyclic triads {cyclic_share(judge, requests, answers):.3f}")


if __name__ == "__main__":
    main()
