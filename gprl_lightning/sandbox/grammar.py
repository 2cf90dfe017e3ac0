"""A template grammar of short answers: a minor share of the training text; also serves tests.

The sampled corpus is fluent but loose. The grammar's answers are plain and always on the request,
so that a tiny model sees often enough how a subject, its detail and a fitting word go together.
"""

from __future__ import annotations

import random

from gprl_lightning.sandbox.requests import Request

# detail: words of praise | words of blame
_QUALITIES = """
coffee: rich, strong, fresh, smooth | weak, cold, bitter, too expensive
bread: warm, fresh, soft, delicious | dry, hard, stale, burnt
service: quick, friendly, warm, excellent | slow, rude, cold, careless
menu: varied, simple, creative, full of choice | short, boring, confusing, old
prices: fair, low, reasonable, honest | too high, unfair, confusing, silly
dessert: sweet, light, delicious, creamy | too sweet, dry, small, plain
view: beautiful, wide, peaceful, stunning | dull, gray, blocked, ugly
bed: soft, warm, comfortable, clean | hard, small, old, noisy
breakfast: fresh, warm, tasty, generous | cold, late, plain, small
staff: kind, friendly, helpful, patient | rude, slow, careless, unhelpful
garden: green, quiet, lovely, full of flowers | dry, empty, messy, small
pool: clean, warm, big, clear | cold, dirty, small, crowded
atmosphere: warm, cozy, relaxed, lively | cold, noisy, dull, tense
tickets: cheap, easy to get, fair, worth it | too expensive, sold out, hard to get, late
guide: funny, clear, friendly, smart | boring, late, confusing, rude
seats: soft, comfortable, wide, clean | hard, narrow, old, dirty
music: lovely, soft, lively, beautiful | too loud, boring, sad, terrible
crowd: cheerful, friendly, calm, lively | too big, noisy, rude, wild
battery: strong, reliable, long lasting, light | weak, slow, heavy, unreliable
price: fair, low, reasonable, honest | too high, unfair, silly, steep
design: sleek, simple, elegant, modern | ugly, heavy, old, clumsy
sound: clear, rich, deep, warm | thin, noisy, weak, flat
screen: bright, sharp, clear, large | dark, small, dim, slow
weight: light, easy to carry, well balanced, just right | too heavy, tiring, awkward, a problem
color: bright, deep, lovely, rich | dull, dark, faded, ugly
fabric: soft, warm, light, smooth | rough, thin, stiff, cheap
fit: perfect, easy, flattering, comfortable | tight, loose, awkward, poor
pockets: deep, handy, big, useful | small, shallow, useless, torn
style: classic, modern, elegant, bold | boring, old, plain, strange
comfort: great, lasting, perfect, wonderful | poor, low, missing, terrible
story: moving, clever, warm, exciting | slow, confusing, sad, thin
teacher: patient, kind, clear, funny | strict, bored, late, unclear
pace: gentle, lively, steady, just right | too slow, too fast, uneven, tiring
lessons: clear, fun, useful, easy to follow | boring, hard, too long, confusing
ending: beautiful, surprising, happy, satisfying | weak, sad, sudden, confusing
mood: warm, light, cheerful, calm | dark, heavy, dull, sad
"""
_PLURALS = frozenset({"prices", "tickets", "seats", "pockets", "lessons"})

# For each task, tone and place in the answer, the sentences to choose from. {s} is the subject,
# {d} the detail, {a} and {b} two words that fit it.
_SENTENCES: dict[tuple[str, str], tuple[str, str, str]] = {
    ("review", "glad"): (
        """I loved this {s}. / This {s} is a treat. / I had a great time with this {s}.
        / What a lovely {s}! / The {d} of this {s} {is} {a}. / This {s} made my day.
        / I really enjoyed the {d}.""",
        """The {d} {was} {a}. / The {d} {was} {a} and {b}. / My favorite part was the {d}.
        / I liked how {a} the {d} {was}. / The best thing about it is the {d}.
        / The {d} {was} better than I had hoped.""",
        "I will come back soon. / I would recommend it to anyone. / It is worth every penny.",
    ),
    ("review", "sour"): (
        """This {s} was a disappointment. / I expected more from this {s}.
        / Sadly, the {d} {was} {a}. / I did not enjoy this {s}. / The {d} of this {s} {was} {a}.
        / This {s} is not worth the money.""",
        """The {d} {was} {a}. / The {d} {was} {a} and {b}. / The worst part was the {d}.
        / I wish the {d} {was} not so {a}. / I had hoped that the {d} would be better.
        / It looks nice, but the {d} {is} {a}.""",
        "I will not come back. / I would not recommend it. / There are better choices.",
    ),
    ("describe", "glad"): (
        """A cozy {s} where the {d} {is} {a}. / A lovely {s} where the {d} {is} {a}.
        / A charming {s} that feels like home. / A bright {s} known for its {d}.
        / This {s} is simple and lovely. / A small {s} with a lot of heart.""",
        """The {d} {is} {a} and {b}. / Its {d} {is} {a}. / People come back for the {d}.
        / The {d} {is} its best part.""",
        "It is easy to love. / It feels just right. / It is simple but lovely.",
    ),
    ("describe", "sour"): (
        """A plain {s} where the {d} {is} {a}. / An old {s} that has seen better days.
        / A dull {s} where the {d} {is} {a}. / This {s} is plain and a little sad.
        / A tired {s} that needs some care.""",
        """The {d} {is} {a} and {b}. / Its {d} {is} {a}. / The {d} could be better.
        / Even the {d} {is} {a}.""",
        "It is easy to forget. / It feels a little sad. / It could use some love.",
    ),
    ("recommend", "glad"): (
        """You should try this {s}! / You will love this {s}. / I found a great {s} for you.
        / My friend, you will love the {d}. / I just tried a {s} and it was wonderful.
        / Guess what, I found a lovely {s}!""",
        """The {d} {is} {a}. / The {d} {is} {a} and {b}. / I still think about the {d}.
        / The {d} alone {is} worth it. / The {d} made me so happy.""",
        "Let me know what you think! / We should go together. / Trust me on this one.",
    ),
    ("recommend", "sour"): (
        """Do not bother with this {s}. / I was not happy with the {s}.
        / You may want to skip this {s}. / I just tried a {s} and it was not good.
        / My friend, stay away from that {s}.""",
        """The {d} {is} {a}. / The {d} {is} {a} and {b}. / I hoped for more from the {d}.
        / The {d} {was} a real problem.""",
        "You can do better. / Save your money. / Trust me on this one.",
    ),
    ("complaint", "sour"): (
        """We are sorry that the {d} {was} {a}. / Thank you for telling us about the {d}.
        / I am sorry to hear about the {d}. / We apologize for the {d} of our {s}.
        / We understand that the {d} {was} not what you hoped for. / Sorry about the {d}.""",
        """We will make the {d} of our {s} better. / We want our {s} to be a good place for you.
        / We are working on it now. / The {d} should not be {a}. / You deserve better from our {s}.
        / It is not what we want for our {s}.""",
        """We hope to see you again. / Please give us another chance. / We will do better next time.
        / Please let us know how we can help.""",
    ),
    ("praise", "glad"): (
        """Thank you so much! / We are glad that you loved the {d}. / How kind of you!
        / It is great to hear that you enjoyed the {d}. / We are proud of the {d} of our {s}.
        / Thank you for your kind note about the {d}. / We are so happy that you liked our {s}.""",
        """We work hard to keep the {d} {a}. / The {d} of our {s} {is} special to us.
        / We want the {d} to be {a} every day. / It makes us happy to hear this about our {s}.
        / We love the {d} too.""",
        """We hope to see you again soon. / You are always welcome. / Thank you for your kind words.
        / We can't wait to see you again.""",
    ),
}


def _words_of(line: str) -> tuple[str, dict[str, list[str]]]:
    detail, _, rest = line.partition(":")
    praise, blame = (part.strip().split(", ") for part in rest.split("|"))
    return detail, {"glad": praise, "sour": blame}


QUALITIES = dict(map(_words_of, _QUALITIES.strip().splitlines()))
_CHOICES = {
    key: tuple([s.strip() for s in place.split(" / ")] for place in places)
    for key, places in _SENTENCES.items()
}


def answer(request: Request, rng: random.Random) -> str:
    """Return one answer of one to three sentences; a reply is sorry or glad, anything else
    either."""
    tones = [tone for task, tone in _CHOICES if task == request.task]
    tone = rng.choice(tones)
    openings, middles, closings = _CHOICES[request.task, tone]
    parts = [rng.choice(openings)]
    if rng.random() < 0.9 or "{d}" not in parts[0]:
        parts.append(rng.choice(middles))
    if rng.random() < 0.45:
        parts.append(rng.choice(closings))
    plural = request.detail in _PLURALS
    filled = []
    for part in parts:
        first, second = rng.sample(QUALITIES[request.detail][tone], 2)
        filled.append(
            part.format(
                s=request.subject, d=request.detail, a=first, b=second,
                **({"is": "are", "was": "were"} if plural else {"is": "is", "was": "was"}),
            )
        )  # fmt: skip
    return " ".join(filled)
