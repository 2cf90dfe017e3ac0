"""``task=benchmark``: a policy's answers, a judge's verdicts, the benchmark's figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from gprl_lightning.benchmarks.answering import answer_questions
from gprl_lightning.benchmarks.journal import JOURNAL, Journal
from gprl_lightning.benchmarks.judging import (
    ask_judge,
    estimate,
    price_of,
    print_progress,
    reported_models,
)
from gprl_lightning.benchmarks.protocol import Benchmark, Contestant, Judged, Report
from gprl_lightning.benchmarks.questions import Question, fingerprint
from gprl_lightning.benchmarks.result import RESULT_FILE, Result, print_result, write_result
from gprl_lightning.benchmarks.sources import fetch, require_files
from gprl_lightning.config import Config
from gprl_lightning.core.batch import PromptBatch
from gprl_lightning.core.checksum import checksum
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.policy import Policy, load_policy
from gprl_lightning.models.tokenizer_files import tokenizer_fingerprint
from gprl_lightning.rollout.sampler import Sampler, Sampling
from gprl_lightning.runtime.preparation import prepare
from gprl_lightning.tracking.run_folder import begin, write_summary

ASSUMED_CHARACTERS = 2000  # of an answer that is not made yet; for the estimate alone


def run_benchmark(config: Config, cfg: DictConfig, folder: Path) -> float | None:
    """Run one benchmark. Return its first figure, or None if there is none.

    Without ``judge.base_url`` the answers are written, and judged by nobody. With ``plan=true``
    nothing is made, and the judge's cost is told.

    Raises:
        ConfigError: no benchmark is chosen, or its files cannot be had or are not as published.
    """
    prepare(config)
    benchmark, section = make_benchmark(config), config.benchmark
    questions, published = load_questions(config, benchmark)
    judge_model = config.judge.model or benchmark.judge_model
    cache = Path(config.judge.cache or Path(config.paths.cache) / "judge")
    planned = partial(
        estimate, judge=config.judge, model=judge_model, cache=cache, tokens=benchmark.judge_tokens
    )
    if config.plan:
        print("Plan: " + planned(benchmark.comparisons(questions, assumed(questions))).line())
        return None
    begin(cfg, folder)
    (folder / RESULT_FILE).unlink(missing_ok=True)  # an earlier run's
    started = time.perf_counter()
    contestant, notes = contestant_of(config, cfg, benchmark, questions, folder)
    file = benchmark.write_answers(questions, contestant, folder)
    print(f"{len(contestant.answers)} answers: {file}")
    answered = time.perf_counter()
    if config.judge.base_url is None:
        print("No judge: judge.base_url is not set.")
        return None
    comparisons = benchmark.comparisons(questions, contestant)
    print("Judging: " + planned(comparisons).line(), flush=True)
    verdicts, usage = ask_judge(comparisons, config.judge, judge_model, cache)
    report = benchmark.report(Judged(questions, contestant, verdicts, judge_model, folder))
    result = Result(
        benchmark=benchmark.name,
        method=config.name,
        model=contestant.model,
        judge=judge_model,
        published_judge=benchmark.judge_model,
        judge_reported=reported_models(verdicts),
        judge_extra=config.judge.extra,
        questions=len(questions),
        published_questions=published,
        report=replace(report, notes=(*notes, *report.notes)),
        biased=is_biased(report, section.max_position_bias),
        usage=usage,
        price=price_of(config.judge),
        seconds={"answers": answered - started, "judge": time.perf_counter() - answered},
    )
    write_result(result, folder)
    print_result(result)
    write_summary(config, folder, result.final(), {"answers": file})
    return report.figures[0].value if report.figures else None


def make_benchmark(config: Config) -> Benchmark:
    """Return the benchmark that the configuration names.

    Raises:
        ConfigError: none is named.
    """
    if not config.benchmark._target_:
        raise ConfigError(
            "benchmark=none: expected a benchmark for task=benchmark. Choose benchmark="
            "alpaca_eval_2, arena_hard_v0_1, arena_hard_v2, mt_bench or wildbench."
        )
    target = {"_target_": config.benchmark._target_, **config.benchmark.options}
    return cast(Benchmark, instantiate(target))


def load_questions(config: Config, benchmark: Benchmark) -> tuple[list[Question], bool | None]:
    """Return the questions to ask, and whether they are those that were published.

    Downloaded ones are, by the checksums of their files; those of a folder, by what they say. None
    tells that we have never seen the published ones, so that a folder's cannot be told.

    Raises:
        ConfigError: a file cannot be had, or is not the published one.
    """
    section, files, expected = config.benchmark, benchmark.files(), benchmark.published_fingerprint
    published: bool | None
    if section.path is None:
        folder = fetch(files, Path(config.paths.cache) / "benchmarks" / benchmark.name)
        questions = benchmark.load(folder)
        published = True
    else:
        questions = benchmark.load(require_files(files, Path(section.path).expanduser()))
        published = None if expected is None else expected == fingerprint(questions)
    if section.limit is not None and section.limit < len(questions):
        return questions[: section.limit], False
    return questions, published


def contestant_of(
    config: Config,
    cfg: DictConfig,
    benchmark: Benchmark,
    questions: Sequence[Question],
    folder: Path,
) -> tuple[Contestant, tuple[str, ...]]:
    """Return the answers of a file, or the policy's, and what is to be said of them.

    The policy's are kept in the run's folder as they are made, and not made again there.
    """
    section = config.benchmark
    if section.answers is not None:
        contestant = benchmark.read_answers(Path(section.answers), questions)
        lacking = len(questions) - len(contestant.answers)
        note = f"{lacking} of {len(questions)} questions have no answer in {section.answers}."
        return contestant, (note,) if lacking else ()
    policy = load_policy(
        config.policy, policy_folder(config.policy.path, config.paths.cache), temperature=1.0
    )
    policy.to("cuda" if torch.cuda.is_available() else "cpu")
    longest = section.max_new_tokens or benchmark.max_new_tokens
    made_by = {
        "benchmark": benchmark.name,
        "questions": fingerprint(questions),
        "policy": checksum(policy.named_parameters()),
        "tokenizer": tokenizer_fingerprint(policy.tokenizer),
        "first_prompt": policy.chat.text(questions[0].messages(()), generation=True),
        "sampler": cfg.rollout.sampler["_target_"],
        "seed": config.seed,
        "max_new_tokens": longest,
        "batch_size": section.batch_size,
    }
    answers, no_room = answer_questions(
        policy,
        questions,
        benchmark.temperature,
        partial(draw, ready_sampler(cfg, policy), config.seed),
        longest,
        section.batch_size,
        print_progress("answered"),
        Journal(folder / JOURNAL, made_by),
    )
    model = section.model or Path(config.policy.path).name
    note = f"{no_room} answers are empty: their prompts fill the policy's context."
    return Contestant(model, answers), (note,) if no_room else ()


def ready_sampler(cfg: DictConfig, policy: Policy) -> Callable[[], Sampler]:
    """Return what makes the sampler, with the policy's weights, when it is first wanted."""

    @cache
    def make() -> Sampler:
        sampler: Sampler = instantiate(cfg.rollout.sampler)
        sampler.weights_changed(policy, 0)
        return sampler

    return make


def draw(
    sampler: Callable[[], Sampler],
    seed: int,
    policy: Policy,
    prompts: PromptBatch,
    temperature: float,
    max_new_tokens: int,
) -> tuple[str, ...]:
    """Return one response for each prompt. Temperature 0 is greedy: the likeliest token alone."""
    greedy = temperature == 0
    sampling = Sampling(
        group_size=1,
        max_new_tokens=max_new_tokens,
        temperature=1.0 if greedy else temperature,
        top_k=1 if greedy else 0,
    )
    device = next(policy.parameters()).device
    return sampler().sample(policy, prompts.to(device), sampling, seed).responses


def assumed(questions: Sequence[Question]) -> Contestant:
    """Return answers of a likely length, for an estimate before there are any."""
    text = "x" * ASSUMED_CHARACTERS
    return Contestant("plan", {q.uid: (text,) * len(q.turns) for q in questions})


def is_biased(report: Report, limit: float) -> bool:
    """Return True if the judge's position bias is above `limit`, and not by chance."""
    return report.position is not None and report.position.exceeds(limit)
