"""Small folders in the layout of the benchmarks' authors, and judges that follow a rule."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gprl_lightning.benchmarks.files import write_json, write_jsonl
from tests.chat_server import Reply

TOPICS = ("rain", "bread", "chess", "moss", "tides", "maps")


def alpaca_folder(folder: Path, count: int = 6) -> Path:
    """Instruction i has a baseline answer of 10 · (i + 1) characters."""
    rows = [
        {
            "dataset": "own",
            "instruction": f"Write about {TOPICS[i]}.",
            "output": "b" * 10 * (i + 1),
            "generator": "baseline",
        }
        for i in range(count)
    ]
    write_json(folder / "alpaca_eval_gpt4_baseline.json", rows)
    return folder


def arena_folder(folder: Path, version: str, baselines: dict[str, str], count: int = 6) -> Path:
    """Each category has `count` questions; baseline answer i has 10 · (i + 1) characters."""
    place = folder / f"data/arena-hard-{version}"
    questions = [
        {"uid": f"{category}-{i}", "category": category, "prompt": f"Explain {TOPICS[i]}."}
        for category in baselines
        for i in range(count)
    ]
    write_jsonl(place / "question.jsonl", questions)
    for category, model in baselines.items():
        answers = [
            {
                "uid": f"{category}-{i}",
                "ans_id": str(i),
                "model": model,
                "messages": [
                    {"role": "user", "content": f"Explain {TOPICS[i]}."},
                    {"role": "assistant", "content": {"answer": "b" * 10 * (i + 1)}},
                ],
                "tstamp": 1.0,
            }
            for i in range(count)
        ]
        write_jsonl(place / "model_answer" / f"{model}.jsonl", answers)
    return folder


CATEGORIES = ("writing", "math", "stem", "coding", "roleplay", "extraction")


def mt_folder(folder: Path, count: int = 6) -> Path:
    questions = [
        {
            "question_id": 81 + i,
            "category": CATEGORIES[i],
            "turns": [f"First, {TOPICS[i]}?", f"And then {TOPICS[i]}?"],
        }
        for i in range(count)
    ]
    write_jsonl(folder / "question.jsonl", questions)
    solutions = [
        {
            "question_id": 81 + i,
            "answer_id": str(i),
            "model_id": "gpt-4",
            "choices": [{"index": 0, "turns": [f"one {TOPICS[i]}", f"two {TOPICS[i]}"]}],
        }
        for i in range(count)
    ]
    write_jsonl(folder / "reference_answer/gpt-4.jsonl", solutions)
    prompts = []
    for name in ("single-v1", "single-math-v1"):
        hard = "math" in name
        prompts.append(
            {
                "name": name,
                "type": "single",
                "system_prompt": f"You grade. {name}",
                "prompt_template": "[Q]{question}[A]{answer}" + "[R]{ref_answer_1}" * hard,
            }
        )
        prompts.append(
            {
                "name": f"{name}-multi-turn",
                "type": "single",
                "system_prompt": f"You grade twice. {name}",
                "prompt_template": "[Q1]{question_1}[A1]{answer_1}[Q2]{question_2}[A2]{answer_2}"
                + "[R1]{ref_answer_1}[R2]{ref_answer_2}" * hard,
            }
        )
    write_jsonl(folder / "judge_prompts.jsonl", prompts)
    return folder


WILD_TAGS = (
    ("Math", ["Reasoning"]),
    ("Coding & Debugging", []),
    ("Editing", ["Brainstorming"]),
    ("Advice seeking", []),
    ("Planning", []),
    ("Others", []),
)


def wild_folder(folder: Path, references: tuple[str, ...], count: int = 6) -> Path:
    """Reference answer i has 100 · (i + 1) characters."""
    rows = [
        {
            "id": i,
            "session_id": f"s{i}",
            "conversation_input": [
                {"role": "user", "content": f"Hello {TOPICS[i]}."},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": f"Help with {TOPICS[i]}."},
            ],
            "checklist": [f"Is it about {TOPICS[i]}?", "Is it kind?"],
            "primary_tag": WILD_TAGS[i][0],
            "secondary_tags": WILD_TAGS[i][1],
        }
        for i in range(count)
    ]
    _parquet(folder / "v2/test-00000-of-00001.parquet", rows)
    for model in references:
        outputs = [
            {"session_id": f"s{i}", "output": ["r" * 100 * (i + 1)], "generator": model}
            for i in range(count)
        ]
        _parquet(folder / model / "train-00000-of-00001.parquet", outputs)
    return folder


def _parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def between(text: str, start: str, end: str) -> str:
    """Return what stands between two marks; `end` is looked for after `start`."""
    return text.split(start, 1)[1].split(end, 1)[0]


def alpaca_pair(body: dict[str, Any]) -> tuple[str, str]:
    """Return the two answers that AlpacaEval's judge is shown."""
    text = body["messages"][-1]["content"]
    first = between(text, '"model_identifier": "m",\n        "output": """', '"""\n    },')
    second = between(text, '"model_identifier": "M",\n        "output": """', '"""\n    }\n}')
    return first, second


def arena_pair(body: dict[str, Any]) -> tuple[str, str]:
    """Return the two answers that Arena-Hard's judge is shown."""
    text = body["messages"][-1]["content"]
    marks = [
        (f"<|The Start of Assistant {x}'s Answer|>\n", f"\n<|The End of Assistant {x}'s Answer|>")
        for x in "AB"
    ]
    first, second = (between(text, *mark) for mark in marks)
    return first, second


def wild_pair(body: dict[str, Any]) -> tuple[str, str]:
    """Return the two answers that WildBench's judge is shown."""
    text = body["messages"][-1]["content"]
    first, second = (
        between(text, f"<|begin_of_response_{x}|>\n\n", f"\n\n<|end_of_response_{x}|>")
        for x in "AB"
    )
    return first, second


def tokens(probability: float) -> Reply:
    """Return a reply whose token is m with `probability`, and M otherwise."""
    logs = {"m": math.log(probability), "M": math.log(1 - probability), "The": -20.0}
    return Reply("m" if probability >= 0.5 else "M", top_logprobs=[logs])


def as_json(**fields: str) -> Reply:
    return Reply(json.dumps(fields))
