"""What a good sentence of the sandbox's corpus is: plain, whole English of known words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from gprl_lightning.sandbox.requests import FAMILIES

MIN_SENTENCE_WORDS, MAX_SENTENCE_WORDS = 3, 24

SENTENCE = re.compile(r"[^.!?]+[.!?]+")
_WORD = re.compile(r"[A-Za-z][A-Za-z'-]*")
_PLURAL = re.compile(r"(?<!of )\b([Tt]he (?:prices|tickets|seats|pockets|lessons)) (was|is)\b")


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


def _words(text: str) -> str:
    return r"\b(?:" + "|".join(text.split()) + r")\b"


# Odd characters, lone letters, stray punctuation, capitals inside a sentence.
_ODD = re.compile(
    r"[^A-Za-z ,.!?'-]|[.!?]{2,}|\b[b-hj-zB-HJ-Z]\b|[,'-] *[.!?,]| ,|- | -|^[^A-Z]|(?<![a-z])'"
    r"|(?<=[a-z,'] )(?!I\b)[A-Z]"
)
_REPEATED = re.compile(
    r"\b(\w+)\b\W+(?:(?:and|or|yet|but|a|an|the|is|of|so)\W+)?\1\b", re.IGNORECASE
)
# Talk about the text itself, and letters.
_META = _any_of(
    _words("reviews? responses? reply replies answer sentences? words? prompt user assistant AI"),
    _words("write writing written wrote describe description mention mentioned mentioning example"),
    _words("request email question dear sincerely regards sir madam few here's hello title"),
    _words("author's assist assistance"),
    r"\blanguage model\b",
    r"\bhere is\b",
)
# Constructions that the teacher falls into where an opening and the request do not fit together.
_SLIP = _any_of(
    r"\b(?:sorry|delighted|happy|glad) that (?:I'm|I am|my pleasure|a)\b",
    r"\bhear that about\b",
    r"\byou haven?\b(?! |')",
    r"\bthank you for (?:the|a|our|my)\b(?! \w+ (?:about|feedback))",
    r"\b(?:was|were|is|are) (?:is|are|was|were|it|they|I|we)\b",
    r"\bThe \w+ I,",
    r"\ba (?:a|an|the|is|it)\b",
    r"\bto (?:your|our|the|a) (?:I|we)\b",
    r"\bA \w+ can \w+\.$",
    r"\bof course\b (?:not|did|is|was|and)",
    r"\bHey, I (?:a|the|of)\b",
    r"\b(?:I|We) (?:loved|enjoyed) \w+\.$",
    r"^(?:My favorite part|The best thing|The worst thing)(?!.*\b(?:was|is|are|were|has)\b)",
    r"\bthank you for your (?:friend|guest|book|name)\b",
    r"\bI'm I\b",
    r"\bare in the\b",
    r"\bhappy to (?:love|the|you|make you)\b",
)
_ADJECTIVE = (
    "(?:beautiful|wonderful|charming|elegant|cozy|modern|classic|unique|bold|simple|warm|bright"
    "|inviting|vibrant|stylish|sleek|luxurious|stunning|breathtaking|delicious|lovely|soft|delicate"
    "|quaint|intimate|romantic|colorful|serene|peaceful|friendly|small|large|big|old|great|good"
    "|amazing|fantastic|perfect|comfortable|bustling|lively|rustic|authentic|exquisite|functional"
    "|practical|local|popular|disappointing|happy|sad|high-end|oversized|rich|smooth)"
)
# A noun phrase that stops at its adjective; two verbs on one subject; an impossible last word.
_BROKEN = _any_of(
    r"\b(?:a|an|with|of|its|their|our|my) (?:very |most |so )?"
    rf"(?:{_ADJECTIVE}(?:,? and |, | ))*{_ADJECTIVE}[.,!]",
    r"\b(?:is|was|are|were) (?:an?|the) (?:\w+ ){1,4}(?:is|was|are|were|has|had) ",
    r"\b(?:I|you|we|they) (?:I|you|we|they)\b",
    r"\b(?:to|of|for|with|the|and|or|in|at|by|from|a|an)[.!?]",
)
_COMMON = """
about also and are been being but can could did does enjoy enjoyed even every for from get
great had has have here how into its it's just like love loved made make many more most much
not one our out really see some such than that the their them there they they're this time
very want was way well were what when where which who will with would you your you're we
we're
"""
COMMON = frozenset(_COMMON.split())


def words(text: str) -> list[str]:
    """Return the words of a text, as written."""
    return _WORD.findall(text)


def content_counts(text: str) -> Counter[str]:
    """Return how often each word that carries meaning occurs, in lower case."""
    found = (word.lower() for word in words(text) if len(word) > 3)
    return Counter(word for word in found if word not in COMMON)


def tidy(text: str) -> str:
    """Return straight quotes, single spaces, verbs that agree; nothing after the first line."""
    text = _PLURAL.sub(lambda match: f"{match[1]} {'were' if match[2] == 'was' else 'are'}", text)
    lines = text.replace("\u2019", "'").replace("\u2018", "'").strip().split("\n")
    return re.sub(r" +", " ", lines[0]).strip()


def mentions(text: str, phrase: str) -> bool:
    """Return True if a text names a subject or a detail, in the singular or the plural."""
    stem = phrase.removesuffix("s")
    return re.search(rf"\b{re.escape(stem)}(?:s|es)?\b", text, re.IGNORECASE) is not None


def common_words(texts: Iterable[str], minimum: int) -> frozenset[str]:
    """Return the lower-cased words that at least `minimum` texts use, and those of the requests."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({word.lower() for word in words(tidy(text))})
    known = {word for word, count in counts.items() if count >= minimum}
    for subjects, details in FAMILIES.values():
        known.update(word for phrase in (*subjects, *details) for word in phrase.split())
    return frozenset(known)


def good_sentence(sentence: str, known: frozenset[str]) -> bool:
    """Return True if a sentence is plain, whole English of known words, without a stutter or
    meta talk."""
    found = words(sentence)
    if not MIN_SENTENCE_WORDS <= len(found) <= MAX_SENTENCE_WORDS:
        return False
    if not all(word.lower() in known for word in found):
        return False
    if any(p.search(sentence) for p in (_ODD, _META, _SLIP, _BROKEN, _REPEATED)):
        return False
    return max(content_counts(sentence).values(), default=0) <= 1
