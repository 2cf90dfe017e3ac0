"""Filter the raw samples of `make_corpus` into short, clean answers that keep to their request.

A 135M teacher wanders, glues words together and breaks off. Each answer is therefore cut to its
good sentences, and kept if what is left is about the request and speaks in the right voice. Half
of the words that a tiny model would have to learn are rare; dropping the sentences that hold them
makes what remains easier to imitate, and so better imitated.

``python -m gprl_lightning.sandbox.corpus RAW.jsonl ... --out CORPUS.jsonl`` writes the result.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from gprl_lightning.sandbox.requests import Request
from gprl_lightning.sandbox.sentences import (
    MAX_SENTENCE_WORDS,
    SENTENCE,
    common_words,
    content_counts,
    good_sentence,
    mentions,
    tidy,
    words,
)

MIN_WORD_SHARE = 0.001  # of raw answers; a rarer word is a name, a slip, or too rare to be learnt
MIN_WORDS, MAX_WORDS = 6, 38
MAX_SENTENCES = 3

_GUEST = re.compile(r"\b(?:guests?|customers?|readers?|someone|clients?)\b")
_SORRY = re.compile(
    r"\b(?:sorry|apologi[sz]e|apologies|understand|unfortunately|inconvenience|feedback|better"
    r"|improve|disappoint\w*|refund|replace|change|next time|make sure|telling us"
    r"|let(?:ting)? us know)\b",
    re.IGNORECASE,
)
_GLAD = re.compile(
    r"\b(?:thank|thanks|glad|happy|delighted|love[ds]?|enjoy\w*|proud|kind|pleasure|thrilled|hope"
    r"|welcome)\b",
    re.IGNORECASE,
)
_SOUR = re.compile(
    r"\b(?:sorry|apologi[sz]e|unfortunately|inconvenience|disappoint\w*|did not|didn't|not|don't"
    r"|can't|cannot)\b",
    re.IGNORECASE,
)
_ADDRESSES = re.compile(r"\b(?:you|your|you're|we|our|we're|us)\b", re.IGNORECASE)
# A sentence that leans on one before it, which may have been dropped.
_HANGING = re.compile(
    r"(?:They|It|He|She|His|Her|Their|Its|That|Those|But|And|So|Also|However|This is|There)\b"
)


@dataclass(frozen=True)
class Example:
    """A request and one good answer to it."""

    task: str
    subject: str
    detail: str
    response: str

    @property
    def request(self) -> Request:
        return Request(self.task, self.subject, self.detail)


def right_voice(request: Request, text: str) -> bool:
    """Return a reply addresses the guest, sorry or glad as need be; nothing else speaks of a
    guest."""
    about_guest = _GUEST.search(text.lower().replace("guest house", "")) is not None
    if request.task not in ("complaint", "praise"):
        return not about_guest and not re.match(r"(?:Thank|We are|Our)\b", text)
    if about_guest or not _ADDRESSES.search(text):
        return False
    # In a reply the house is ours, and the guest is who loves it.
    if re.search(rf"\byour {request.subject}\b|\bI (?:just |really )?love\b", text):
        return False
    if request.task == "complaint":
        return _SORRY.search(text) is not None
    return _GLAD.search(text) is not None and _SOUR.search(text) is None


def _good_sentences(text: str, known: frozenset[str]) -> list[str]:
    kept: list[str] = []
    for match in SENTENCE.finditer(tidy(text)):
        sentence = match[0].strip()
        if len(kept) == MAX_SENTENCES:
            break
        if len(words(" ".join(kept))) > MAX_WORDS - MAX_SENTENCE_WORDS // 2:
            break
        if not kept and _HANGING.match(sentence):
            continue
        if any(sentence.split()[:3] == other.split()[:3] for other in kept):
            continue
        if good_sentence(sentence, known):
            kept.append(sentence)
    return kept


def clean(request: Request, raw: str, known: frozenset[str]) -> str | None:
    """Return the good sentences of a raw answer, or None where they do not make an answer."""
    text = " ".join(_good_sentences(raw, known))
    if len(words(text)) < MIN_WORDS or not right_voice(request, text):
        return None
    if not mentions(text, request.detail) and not mentions(text, request.subject):
        return None
    repeats = content_counts(text)
    for word in (*request.subject.split(), request.detail):
        repeats[word] -= 1  # the request's own words may come twice, others once
    return text if max(repeats.values(), default=0) <= 1 else None


def read_raw(paths: Iterable[Path]) -> Iterator[tuple[Request, str]]:
    """Return the (request, raw answer) pairs of JSON-lines files; a broken last line is passed
    over."""
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            text = row["response"].rstrip()
            if row["ended"] and text[-1:].isalpha():
                text += "."
            yield Request(row["task"], row["subject"], row["detail"]), text


def read_examples(path: Path) -> list[Example]:
    """Return the examples of a JSON-lines file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Example(**json.loads(line)) for line in lines]


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSON lines."""
    path.write_text("".join(json.dumps(asdict(e)) + "\n" for e in examples), encoding="utf-8")


def filter_corpus(raw: Iterable[tuple[Request, str]]) -> list[Example]:
    """Return all good answers among the raw ones, each text once."""
    rows = list(raw)
    minimum = math.ceil(MIN_WORD_SHARE * len(rows))
    known = common_words((text for _, text in rows), minimum)
    kept: dict[str, Example] = {}
    for request, text in rows:
        answer = clean(request, text, known)
        if answer is not None:
            example = Example(request.task, request.subject, request.detail, answer)
            kept.setdefault(answer, example)
    return list(kept.values())


def without_lone_words(examples: Iterable[Example]) -> list[Example]:
    """Return the examples all of whose words another one uses too: a word seen once is not
    learnt."""
    rows = [(example, {w.lower() for w in words(example.response)}) for example in examples]
    counts = Counter(word for _, found in rows for word in found)
    return [example for example, found in rows if all(counts[word] > 1 for word in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args()
    examples = filter_corpus(read_raw(args.raw))
    write_examples(args.out, examples)
    count = sum(len(words(e.response)) for e in examples)
    print(f"{len(examples)} answers, {count} words; by task {Counter(e.task for e in examples)}")


if __name__ == "__main__":
    main()
