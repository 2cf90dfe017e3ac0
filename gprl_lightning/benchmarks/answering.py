"""A policy's answers to a benchmark's questions, turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gprl_lightning.benchmarks.journal import Journal
from gprl_lightning.benchmarks.questions import Question
from gprl_lightning.core.batch import Messages, PromptBatch
from gprl_lightning.models.policy import Policy

# (policy, prompts, temperature, max_new_tokens) → a text for each prompt. Temperature 0 is greedy.
Draw = Callable[[Policy, PromptBatch, float, int], Sequence[str]]
Progress = Callable[[int, int], None]


def answer_questions(
    policy: Policy,
    questions: Sequence[Question],
    temperature: Callable[[Question], float],
    draw: Draw,
    max_new_tokens: int,
    batch_size: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> tuple[dict[str, tuple[str, ...]], int]:
    """Return the answers by uid, and how many are empty for want of room.

    A prompt that fills the policy's context gets an empty answer: a judge shall see that the policy
    cannot answer it. One that nearly fills it gets a shorter answer.

    Args:
        policy: the model.
        questions: what is asked.
        temperature: of a question's answers.
        draw: samples one answer for each prompt.
        max_new_tokens: of an answer.
        batch_size: prompts at once.
        progress: gets (answers that are made, all of them).
        journal: of answers that are there already, and takes the others. A batch is made whole or
            not at all, so that each answer has the room that it would have had.
    """
    answers: dict[str, list[str]] = {q.uid: [] for q in questions}
    wanted, no_room = sum(len(q.turns) for q in questions), 0
    for turn in range(max((len(q.turns) for q in questions), default=0)):
        open_ones = [(i, q) for i, q in enumerate(questions) if len(q.turns) > turn]
        prompts = [q.messages(answers[q.uid]) for _, q in open_ones]
        texts: dict[str, str] = {}
        for batch in _batches(policy, open_ones, prompts, temperature, batch_size):
            room = min(max_new_tokens, batch.room)
            if room < 1:
                no_room += len(batch.questions)
                texts |= dict.fromkeys((q.uid for q in batch.questions), "")
                continue
            uids = [q.uid for q in batch.questions]
            made = journal.batch(turn, uids) if journal else None
            if made is None:
                encoded = policy.encode_prompts(turn, batch.numbers, batch.prompts, batch.longest)
                made = dict(zip(uids, draw(policy, encoded, batch.temperature, room), strict=True))
                if journal:
                    journal.add(turn, made)
            texts |= made
            if progress is not None:
                progress(sum(map(len, answers.values())) + len(texts), wanted)
        for uid, text in texts.items():
            answers[uid].append(text)
    return {uid: tuple(texts) for uid, texts in answers.items()}, no_room


class _Batch:
    """Questions of one temperature, the longest prompt first."""

    def __init__(self, rows: Sequence[tuple[int, Question, Messages, int]], temperature: float):
        self.numbers = [number for number, *_ in rows]
        self.questions = [question for _, question, *_ in rows]
        self.prompts = [prompt for _, _, prompt, _ in rows]
        self.longest = max(tokens for *_, tokens in rows)
        self.temperature = temperature
        self.room = 0


def _batches(
    policy: Policy,
    questions: Sequence[tuple[int, Question]],
    prompts: Sequence[Messages],
    temperature: Callable[[Question], float],
    batch_size: int,
) -> Iterator[_Batch]:
    """Yield batches by temperature, of prompts of like length, those without room by themselves."""
    context = getattr(policy.causal_lm.config.get_text_config(), "max_position_embeddings", None)
    groups: dict[tuple[float, bool], list[tuple[int, Question, Messages, int]]] = {}
    for (number, question), prompt in zip(questions, prompts, strict=True):
        tokens = len(policy.chat.tokens([prompt], generation=True)[0])
        full = context is not None and tokens >= context
        row = (number, question, prompt, tokens)
        groups.setdefault((temperature(question), full), []).append(row)
    for (heat, _), rows in groups.items():
        rows.sort(key=lambda row: -row[3])
        for start in range(0, len(rows), batch_size):
            batch = _Batch(rows[start : start + batch_size], heat)
            batch.room = 2**31 if context is None else context - batch.longest
            yield batch
