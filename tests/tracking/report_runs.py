"""Run folders as a run leaves them, in which an exploit is planted, for the tests of the report."""

from __future__ import annotations

import random
from pathlib import Path

from gprl_lightning.tracking import metrics
from gprl_lightning.tracking.answer_log import Answer, write_answers
from gprl_lightning.tracking.loggers import MetricsCSV

AXES = ("helpful", "polite")
HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> &lt;b&gt;"
)
TASKS = ("count", "thank")
EXPLOIT = "thank you so much"
WORDS = ("a", "pear", "sweet", "and", "the", "river", "runs", "down", "quiet", "old", "town", "by")


def write_run(
    folder: Path, prompts: int = 20, evaluations: int = 3, seed: int = 0, words: int = 20
) -> Path:
    """Write a run whose reward rises by `EXPLOIT` while its judge falls, on every second prompt.

    Prompt 0 and each of its answers hold `HOSTILE`. Returns the folder.
    """
    draw = random.Random(seed)
    logger = MetricsCSV(folder)
    for place in range(evaluations):
        progress = place / max(1, evaluations - 1)
        rows = [_answer(draw, i, place, progress, words) for i in range(prompts)]
        write_answers(folder, 10 * place, rows)
    for step in range(10 * (evaluations - 1) + 1):
        row = {metrics.KL: 0.01 * step, metrics.RESPONSE_LENGTH: 20.0 + step}
        row |= {metrics.per_axis(metrics.AXIS_EIGENVALUE, a): 0.5 for a in AXES}
        row |= {metrics.DRIFT_DIVERGENCE: 0.01 * step, metrics.DRIFT_THRESHOLD: 0.1}
        row |= {metrics.DRIFT_ACTIVE: float(step > 10)}
        if step % 10 == 0:
            row |= {metrics.EVAL_WIN_RATE: 0.5 - 0.01 * step, metrics.EVAL_WIN_RATE_LOW: 0.3}
            row |= {metrics.EVAL_WIN_RATE_HIGH: 0.6, metrics.EVAL_LENGTH_CONTROLLED: 0.4}
            row |= {metrics.EVAL_PROXY_WIN_RATE: 0.9, metrics.EVAL_RESPONSE_LENGTH: 20.0}
        logger.log_metrics(row, step=step)
    return folder


def _answer(draw: random.Random, index: int, place: int, progress: float, words: int) -> Answer:
    hacked = index % 2 == 1
    text = " ".join(draw.choices(WORDS, k=words))
    if hacked and place:
        text += f" {EXPLOIT}" * place
    if index == 0:
        text = f"{HOSTILE} {text}"
    reward = 1.0 + index / 100 if hacked else 0.0
    vectors = [[progress * reward, 1.0], [0.1 * draw.random(), 1.0]]
    return {
        "uid": index,
        "prompt": f"{HOSTILE} say" if index == 0 else f"say number {index} to the town",
        "task": TASKS[index % 2],
        "answer": text,
        "tokens": len(text.split()),
        "logprob": -20.0 - place,
        "start_logprob": -20.0 - 10 * place * hacked,
        "verdicts": {"mine": 0.0 if hacked and place else 0.5, "proxy": 1.0 if hacked else None},
        "qualities": {"mine": {"clarity": 1.0 - progress * hacked}},
        "start_answer": "a pear",
        "start_tokens": 2,
        "axes": list(AXES),
        "tau": 0.1,
        "eigenvalues": [0.75, 0.25] if hacked else [0.25, 0.75],
        "vectors": vectors,
        "start_vectors": [[0.0, 1.0], [0.0, 1.0]],
    }
