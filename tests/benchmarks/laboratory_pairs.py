"""Clean pairs to try the laboratory's preference models on: requests that no training has seen.

    python -m tests.benchmarks.laboratory_pairs FILE [experiment=laboratory …]

The starting policy answers 240 held-out requests eight times each; the gold labels every two
answers that it tells apart, without noise, with the verdicts of its axes as attributes and the
request's task as subset. Then:

    python train.py experiment=eval_preference_model data=jsonl data.path=FILE \
      preference_model=folder preference_model.path=…/preference_model
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

from gprl_lightning.config import DataConfig
from gprl_lightning.config.validation import validate
from gprl_lightning.data.preferences import make_pair
from gprl_lightning.rollout.sampler import Sampling
from gprl_lightning.sandbox.gold_judge import SandboxGoldJudge
from gprl_lightning.sandbox.golds import gold_of
from gprl_lightning.sandbox.pairs import sample_responses
from gprl_lightning.sandbox.preference_data import starting_policy
from gprl_lightning.sandbox.prompts import sandbox_prompts
from tests.composing import composed

REQUESTS, ANSWERS, SEED = 240, 8, 12345


def main() -> None:
    file, *overrides = sys.argv[1:]
    config = validate(composed(*(overrides or ["experiment=laboratory"])))
    _, prompts = sandbox_prompts(DataConfig(path="sandbox", held_out=REQUESTS))
    sampling = Sampling(ANSWERS, config.rollout.max_new_tokens, config.rollout.temperature)
    asked = [(p.uid, p.messages) for p in prompts]
    responses = sample_responses(starting_policy(config), sampling, asked, SEED)
    judge, rows = SandboxGoldJudge(gold_of(config)), []
    for prompt, answers in zip(prompts, responses, strict=True):
        for first, second in combinations(dict.fromkeys(answers), 2):
            (outcome,) = judge.prefer([prompt], [first], [second])
            if outcome == 0.5:
                continue
            better, worse = (first, second) if outcome > 0.5 else (second, first)
            axes = judge.axes([prompt, prompt], [better, worse])
            more = {name: (1 + (a > b) - (a < b)) / 2 for name, (a, b) in axes.items()}
            task = str(prompt.columns["task"])
            rows.append(make_pair(prompt.messages, better, worse, subset=task, attributes=more))
    Path(file).write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    print(f"{len(rows)} pairs about {len(prompts)} requests: {file}")


if __name__ == "__main__":
    main()
