"""The requests of the sandbox: short open-ended tasks about a subject and one detail of it.

A request is a task, a subject and a detail, as in *"Write a short review of a cafe. Mention the
coffee."* All combinations are enumerated in a fixed order and split once, by a seeded shuffle, into
train and held-out, so that every word of a held-out request is known but the request is new.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

TASKS: dict[str, str] = {
    "review": "Write a short review of a {subject}. Mention the {detail}.",
    "describe": "Describe a {subject} in a few words. Mention the {detail}.",
    "recommend": "Tell a friend about a {subject}. Mention the {detail}.",
    "complaint": "A guest did not like the {detail} of our {subject}. Write a reply.",
    "praise": "A guest loved the {detail} of our {subject}. Write a reply.",
}

# Each family of subjects shares the details one would talk about.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "eating": (
        ("cafe", "bakery", "restaurant", "pizza place", "tea house", "food truck", "bar", "diner"),
        ("coffee", "bread", "service", "menu", "prices", "dessert"),
    ),
    "staying": (
        ("hotel", "hostel", "cabin", "beach house", "campsite", "guest house", "farm stay", "spa"),
        ("view", "bed", "breakfast", "staff", "garden", "pool"),
    ),
    "visiting": (
        ("museum", "library", "park", "cinema", "zoo", "market", "theater", "bookshop"),
        ("atmosphere", "tickets", "guide", "seats", "music", "crowd"),
    ),
    "using": (
        ("phone", "laptop", "camera", "watch", "bicycle", "car", "radio", "tablet"),
        ("battery", "price", "design", "sound", "screen", "weight"),
    ),
    "wearing": (
        ("jacket", "backpack", "dress", "hat", "pair of shoes", "scarf", "coat", "sweater"),
        ("color", "fabric", "fit", "pockets", "style", "comfort"),
    ),
    "learning": (
        ("novel", "cooking class", "yoga class", "dance lesson", "language course", "board game",
         "film", "concert"),
        ("story", "teacher", "pace", "lessons", "ending", "mood"),
    ),
}  # fmt: skip

HELD_OUT = 240
SPLIT_SEED = 20260521


@dataclass(frozen=True)
class Request:
    """One request: its text, and the words that an answer to it should be about."""

    task: str
    subject: str
    detail: str

    @property
    def text(self) -> str:
        return TASKS[self.task].format(subject=self.subject, detail=self.detail)


def all_requests() -> list[Request]:
    """Return every task × subject × detail, in a fixed order (1,440 requests)."""
    return [
        Request(task, subject, detail)
        for subjects, details in FAMILIES.values()
        for subject in subjects
        for detail in details
        for task in TASKS
    ]


def split_requests() -> tuple[list[Request], list[Request]]:
    """Return the (train, held-out) requests: disjoint, fixed for ever, every word seen in train."""
    requests = all_requests()
    random.Random(SPLIT_SEED).shuffle(requests)
    return requests[HELD_OUT:], requests[:HELD_OUT]
