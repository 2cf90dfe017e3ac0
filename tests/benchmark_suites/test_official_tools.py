"""The authors' own packages read our files and agree with our figures: `make test-official`.

``ALPACA_PYTHON`` is an interpreter that has the ``alpaca_eval`` package, ``FASTCHAT`` the folder
that has the ``fastchat`` package. Both want other versions of things than we do.
"""

from __future__ import annotations

import ast
import csv
import glob
import hashlib
import json
import math
import os
import random
import re
import subprocess
from pathlib import Path
from statistics import stdev

import pytest

from gprl_lightning.benchmarks.alpaca_eval import AlpacaEval2
from gprl_lightning.benchmarks.alpaca_length import length_controlled_win_rate
from gprl_lightning.benchmarks.mt_bench import MTBench
from gprl_lightning.benchmarks.protocol import Contestant
from gprl_lightning.benchmarks.questions import Question
from tests.benchmark_suites.folders import alpaca_pair, mt_folder, tokens
from tests.benchmark_suites.judged import figures, judged
from tests.chat_server import Reply
from tests.hub import hub

pytestmark = pytest.mark.official
INSTRUCTIONS = 805  # the package's table has as many


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def setting() -> tuple[AlpacaEval2, list[Question], Contestant]:
    """Four of five answers are longer than the baseline's, by up to 600 characters."""
    coin = random.Random(0)
    questions, answers = [], {}
    for n in range(INSTRUCTIONS):
        size = coin.randint(700, 1200)
        question = Question(str(n), (f"Instruction {n}.",), references={"b": ("b" * size,)})
        longer = coin.random() < 0.8
        answers[str(n)] = ("m" * (size + (1 if longer else -1) * coin.randint(1, 600)),)
        questions.append(question)
    return AlpacaEval2(), questions, Contestant("policy", answers)


def judge(quality: float, length: float):
    """Prefer the model's answer by `quality`, and the longer one by `length`: a logistic model."""

    _, questions, contestant = setting()
    scale = stdev(len(contestant.answers[q.uid][0]) - len(q.references["b"][0]) for q in questions)

    def rule(body, number):
        first, second = alpaca_pair(body)
        mine, other = (first, second) if first.startswith("m") else (second, first)
        wins = sigmoid(quality + length * math.tanh((len(mine) - len(other)) / scale))
        return tokens(wins if mine is first else 1 - wins)

    return rule


def run(python: str, script: str, *arguments: object, **environment: str) -> str:
    words = [python, "-c", script, *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def table(folder: Path, length: float) -> tuple[Path, str]:
    """Write a table as the package downloads: the baseline, one deviation shorter and longer.

    Its differences of lengths are the baseline's length less the other's.
    """
    file = folder / "tatsu-lab/alpaca_eval/df_gamed.csv"
    file.parent.mkdir(parents=True)
    coin = random.Random(1)
    difficulty = [coin.gauss(0, 1) for _ in range(INSTRUCTIONS)]
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        names = ["preference", "std_delta_len", "index", "instruction_difficulty"]
        rows.writerow(["model", *names, "not_gamed_baseline"])
        for model, shift in (("concise", 1.0), ("verbose", -1.0)):
            wins = sigmoid(-length * math.tanh(shift))
            rows.writerows([model, wins, shift, n, d, False] for n, d in enumerate(difficulty))
    return folder, hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("quality,length", [(0.0, 1.5), (0.6, 0.0), (0.6, 1.5), (-0.8, 1.5)])
def test_the_length_controlled_win_rate_is_that_of_the_quality_alone(quality, length, tmp_path):
    """The package's model is of the judge's own form, so what is left is sigmoid(quality)."""
    python = os.environ["ALPACA_PYTHON"]
    report, _, _ = judged(*setting(), judge(quality, length), tmp_path, concurrency=64)
    root, sha256 = table(tmp_path / "hub", length)
    with hub(root) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", address)
        patch.setenv("HF_HOME", str(tmp_path / "hf"))
        annotations = tmp_path / "annotations.json"
        found, why_not = length_controlled_win_rate(annotations, True, python, sha256)
        assert why_not is None and found is not None
        other, refused = length_controlled_win_rate(annotations, True, python)
    plain = figures(report)["win_rate"]
    print(
        f"quality {quality}, length {length}: win rate {plain:.1f}, length-controlled {found:.1f}"
    )
    assert found == pytest.approx(100 * sigmoid(quality), abs=0.5)
    assert (abs(plain - found) > 5) == (length > 0)
    assert other is None and refused is not None and "df_gamed.csv" in refused


def test_the_package_reads_our_annotations_and_gives_our_win_rates(tmp_path):
    report, _, _ = judged(*setting(), judge(0.3, 1.0), tmp_path, concurrency=64)
    script = """
import json, sys
from alpaca_eval.metrics import get_winrate
found = get_winrate(json.load(open(sys.argv[1])))
print(json.dumps({k: float(v) for k, v in found.items()}))
"""
    out = run(os.environ["ALPACA_PYTHON"], script, tmp_path / "annotations.json")
    theirs, ours = json.loads(out.strip().splitlines()[-1]), figures(report)
    assert theirs["win_rate"] == pytest.approx(ours["win_rate"], rel=1e-12)
    assert theirs["discrete_win_rate"] == pytest.approx(ours["discrete_win_rate"], rel=1e-12)
    plain = next(f for f in report.figures if f.name == "win_rate")
    assert plain.high is not None
    reach = plain.high - plain.value
    assert 1.959964 * theirs["standard_error"] == pytest.approx(reach, rel=1e-6)
    assert theirs["n_total"] == INSTRUCTIONS


def test_the_packages_annotator_has_our_prompt_our_order_and_our_parser(tmp_path):
    """It fills its template, throws its coin and reads log-probabilities as we do."""
    benchmark, questions, contestant = setting()
    few = questions[:40]
    asked = {c.uid: c for c in benchmark.comparisons(few, contestant)}
    file = benchmark.write_answers(few, contestant, tmp_path)
    baseline = [
        {"instruction": q.turns[0], "output": q.references["b"][0], "generator": "b"} for q in few
    ]
    (tmp_path / "baseline.json").write_text(json.dumps(baseline))
    script = """
import json, math, sys
from pathlib import Path
import alpaca_eval, pandas
from alpaca_eval import utils
from alpaca_eval.completion_parsers import logprob_parser
mine, base = (json.load(open(f)) for f in sys.argv[1:])
config = Path(alpaca_eval.__file__).parent / "evaluators_configs"
template = (config / "alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt").read_text()
rows = []
for m, b in zip(mine, base):
    seed = f"is_switched_outputs{m['instruction']}0"
    switched = utils.random_seeded_choice(seed=seed, choices=[False, True])
    first, second = (m, b) if switched else (b, m)
    texts = {"instruction": m["instruction"]}
    texts |= {"output_1": first["output"], "output_2": second["output"]}
    (prompt,), _ = utils.make_prompts(pandas.DataFrame([texts]), template)
    rows.append([switched, utils.prompt_to_chatml(prompt.strip())])
logs = [{"token": t, "logprob": math.log(p)} for t, p in (("m", 0.6), ("M", 0.2))]
said = {"logprobs": {"content": [{"token": "m", "top_logprobs": logs}]}}
parsed = logprob_parser(said, numerator_token="m", denominator_tokens=["m", "M"], is_binarize=False)
print(json.dumps([rows, parsed]))
"""
    out = run(os.environ["ALPACA_PYTHON"], script, file, tmp_path / "baseline.json")
    rows, parsed = json.loads(out.strip().splitlines()[-1])
    for q, (switched, messages) in zip(few, rows, strict=True):
        assert (asked[q.uid].part == "model_first") == switched
        assert [dict(m) for m in asked[q.uid].request.messages] == messages
    assert parsed[0] == pytest.approx(2 - 0.6 / 0.8)


def test_fastchat_reads_our_answers_and_gives_our_score(tmp_path):
    benchmark = MTBench()
    questions = benchmark.load(mt_folder(tmp_path / "data"))
    contestant = Contestant("policy", {q.uid: (f"a{q.uid}", "b") for q in questions})
    file = benchmark.write_answers(questions, contestant, tmp_path)

    def rule(body, number):
        match = re.search(r"a(8[1-5])", body["messages"][-1]["content"])
        return Reply(f"[[{int(match[1]) - 80}]]") if match else Reply("Hm.")

    report, _, _ = judged(benchmark, questions, contestant, rule, tmp_path)
    root = Path(os.environ["FASTCHAT"])
    # Of a module that imports every vendor's client, the two functions that read the files.
    tree = ast.parse((root / "fastchat/llm_judge/common.py").read_text())
    names = ("load_questions", "load_model_answers")
    tree.body = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name in names]
    tree.body.insert(0, ast.parse("from typing import Optional").body[0])
    theirs = {"json": json, "os": os, "glob": glob}
    exec(compile(tree, "common.py", "exec"), theirs)
    read = theirs["load_model_answers"](str(file.parent))["policy"]
    assert {str(k): tuple(v["choices"][0]["turns"]) for k, v in read.items()} == contestant.answers
    asked = theirs["load_questions"](str(tmp_path / "data/question.jsonl"), None, None)
    assert [q["turns"] for q in asked] == [list(q.turns) for q in questions]
    place = tmp_path / "data/mt_bench/model_judgment/rule_single.jsonl"
    script = (
        "import runpy, sys; sys.argv[0] = 'x'; runpy.run_module(sys.argv.pop(1), None, '__main__')"
    )
    words = ["fastchat.llm_judge.show_result", "--input-file", place]
    out = run(os.environ["ALPACA_PYTHON"], script, *words, PYTHONPATH=str(root))
    shown = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("policy")]
    ours = figures(report)
    expected = [ours["score_turn_1"], ours["score_turn_2"], ours["score"]]
    assert shown == pytest.approx(expected, abs=1e-5)
    assert sum(report.missing.values()) == 2, "the judgement without a rating is left out by both"
