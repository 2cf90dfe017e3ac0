"""A trigram language model with interpolated Kneser-Ney smoothing: the sandbox's judge of
fluency.

It knows nothing of the policy's network: it counts words in the corpus. Source: Chen and Goodman
1999, section 2.8 (one discount per order), kept in back-off form: each seen n-gram has its
interpolated probability, each context the weight that multiplies the shorter estimate.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DISCOUNT = 0.75
MIN_COUNT = 2  # rarer words are counted as the unknown word
UNKNOWN, BEGIN, END = 0, 1, 2
_BITS = 14
_TOKEN = re.compile(r"[a-z]+(?:['-][a-z]+)*|[.,!?;:]|[^\sa-z]+")


def ngram_tokens(text: str) -> list[str]:
    """Return lower-case words and punctuation marks."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class NgramModel:
    """Natural-log tables, keyed by word numbers packed into one integer, the last word lowest."""

    vocabulary: dict[str, int]
    unigram: list[float]
    bigram: dict[int, float]
    trigram: dict[int, float]
    bigram_backoff: dict[int, float]  # of the context of one word
    trigram_backoff: dict[int, float]  # of the context of two words

    @classmethod
    def fit(cls, texts: Iterable[str]) -> NgramModel:
        """Count the texts, each a sequence of its own, and smooth."""
        rows = [ngram_tokens(text) for text in texts]
        counts = Counter(token for row in rows for token in row)
        names = sorted(t for t, count in counts.items() if count >= MIN_COUNT)
        vocabulary = {"<unk>": UNKNOWN, "<s>": BEGIN, "</s>": END}
        vocabulary |= {name: i + 3 for i, name in enumerate(names)}
        trigrams: Counter[int] = Counter()
        for row in rows:
            ids = [BEGIN, BEGIN, *(vocabulary.get(t, UNKNOWN) for t in row), END]
            for u, v, w in zip(ids, ids[1:], ids[2:], strict=False):
                trigrams[(((u << _BITS) | v) << _BITS) | w] += 1
        low = (1 << 2 * _BITS) - 1
        bigrams = Counter(
            key & low for key in trigrams
        )  # in how many contexts: continuation counts
        unigrams = Counter(key & ((1 << _BITS) - 1) for key in bigrams)
        total, size = sum(unigrams.values()), len(vocabulary)
        left = DISCOUNT * len(unigrams) / total
        probability = [
            max(unigrams[i] - DISCOUNT, 0) / total + left / size for i in range(size)
        ]  # fmt: skip
        bigram, bigram_backoff = _smooth(bigrams, lambda key: probability[key & ((1 << _BITS) - 1)])

        def shorter(key: int) -> float:
            return bigram[key & low]  # every seen trigram ends in a seen bigram

        trigram, trigram_backoff = _smooth(trigrams, shorter)
        tables = (bigram, trigram, bigram_backoff, trigram_backoff)
        logs = [{key: math.log(value) for key, value in table.items()} for table in tables]
        return cls(vocabulary, [math.log(p) for p in probability], *logs)

    def token_log_probs(self, text: str) -> list[float]:
        """Return ln P of each token of the text and of its end, in nats."""
        get = self.vocabulary.get
        u = v = BEGIN
        found = []
        for w in [*(get(t, UNKNOWN) for t in ngram_tokens(text)), END]:
            context = (u << _BITS) | v
            value = self.trigram.get((context << _BITS) | w)
            if value is None:
                value = self.bigram.get((v << _BITS) | w)
                if value is None:
                    value = self.bigram_backoff.get(v, 0.0) + self.unigram[w]
                value += self.trigram_backoff.get(context, 0.0)
            found.append(value)
            u, v = v, w
        return found

    def mean_log_prob(self, text: str) -> float:
        """Mean ln P per token in nats, the end of the text counted as a token."""
        found = self.token_log_probs(text)
        return sum(found) / len(found)

    def save(self, path: Path) -> None:
        """Write one compressed ``.npz``, values in float16."""
        arrays: dict[str, Any] = {
            "words": np.array("\n".join(self.vocabulary)),
            "unigram": np.array(self.unigram, np.float16),
        }
        for name in ("bigram", "trigram", "bigram_backoff", "trigram_backoff"):
            table: dict[int, float] = getattr(self, name)
            keys = sorted(table)
            steps = np.diff(np.array(keys, np.int64), prepend=0)  # steps compress better than keys
            arrays[name + "_steps"] = steps
            arrays[name] = np.array([table[key] for key in keys], np.float16)
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> NgramModel:
        with np.load(path, allow_pickle=False) as data:
            words = str(data["words"]).split("\n")
            tables = [
                dict(
                    zip(np.cumsum(data[name + "_steps"]).tolist(), data[name].tolist(), strict=True)
                )
                for name in ("bigram", "trigram", "bigram_backoff", "trigram_backoff")
            ]
            return cls({word: i for i, word in enumerate(words)}, data["unigram"].tolist(), *tables)


def _smooth(
    counts: Counter[int], shorter: Callable[[int], float]
) -> tuple[dict[int, float], dict[int, float]]:
    """Probabilities of the seen n-grams, and each context's weight of the shorter estimate."""
    totals: defaultdict[int, int] = defaultdict(int)
    kinds: defaultdict[int, int] = defaultdict(int)
    for key, count in counts.items():
        totals[key >> _BITS] += count
        kinds[key >> _BITS] += 1
    backoff = {context: DISCOUNT * kinds[context] / totals[context] for context in totals}
    seen = {
        key: max(count - DISCOUNT, 0) / totals[key >> _BITS] + backoff[key >> _BITS] * shorter(key)
        for key, count in counts.items()
    }
    return seen, backoff
