"""What each technique of the fast path gains over the plain path, in process CPU-seconds.

``python -m tests.benchmarks.bench_fast_path [--pairs 5] [--only A B C sandbox]`` prints the table;
``--compiled`` what ``policy.compile=true`` gains over the fast path.
Each cell is the median over interleaved pairs, in one process with one thread.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from gprl_lightning.config import PolicyConfig
from gprl_lightning.core.batch import PromptBatch, Rollout
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.decoder import compile_layers
from gprl_lightning.models.policy import Policy, load_policy
from gprl_lightning.rollout.native import NativeSampler
from gprl_lightning.rollout.sampler import Sampling
from tests.tiny import chat, tiny_tokenizer


@dataclass(frozen=True)
class Setting:
    """One configuration: a random Llama (or the sandbox's model), prompts and lengths."""

    name: str
    hidden: int
    layers: int
    vocab: int
    groups: int
    size: int
    prompt_tokens: int
    new_tokens: int
    stops: bool = False


SETTINGS = (
    Setting("A", 128, 2, 8192, 4, 8, 170, 64),
    Setting("A with stops", 128, 2, 8192, 4, 8, 170, 64, stops=True),
    Setting("B", 128, 2, 8192, 2, 16, 217, 64),
    Setting("C", 144, 4, 32000, 2, 8, 170, 96),
    Setting("sandbox", 0, 0, 1000, 8, 8, 24, 64, stops=True),
)


def make_policy(setting: Setting) -> Policy:
    """Weights large enough that distributions are not flat; no end but where ``stops``."""
    if setting.name == "sandbox":
        return load_policy(PolicyConfig(), policy_folder("sandbox", ".cache/gprl"), 1.0)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=setting.vocab,
        hidden_size=setting.hidden,
        intermediate_size=344 * setting.hidden // 128,
        num_hidden_layers=setting.layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    policy = Policy(AutoModelForCausalLM.from_config(config), tiny_tokenizer())
    policy.eos_ids = tuple(range(0, 8192, 155)) if setting.stops else ()
    policy.decode = lambda ids, mask: ("",) * len(ids)  # the tokenizer does not know these ids
    return policy


def make_prompts(setting: Setting, policy: Policy) -> PromptBatch:
    """Random prompts whose lengths spread by a tenth."""
    generator = torch.Generator().manual_seed(1)
    longest, groups = setting.prompt_tokens, setting.groups
    spread = torch.linspace(0.9, 1.1, groups)
    lengths = (longest * spread).long()
    width = int(lengths.max())
    ids = torch.randint(4, setting.vocab, (groups, width), generator=generator)
    mask = torch.arange(width) >= width - lengths[:, None]
    messages = tuple(chat(str(i)) for i in range(groups))
    return PromptBatch(0, torch.arange(groups), messages, ids, mask)


def cpu_ms(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return 1e3 * (time.process_time() - started)


def paired(
    pairs: int, plain: Callable[[], object], fast: Callable[[], object]
) -> tuple[float, ...]:
    """Median CPU-milliseconds of each, and of their ratios."""
    plain(), fast()
    times = [(cpu_ms(plain), cpu_ms(fast)) for _ in range(pairs)]
    slow, quick = zip(*times, strict=True)
    ratios = [a / b for a, b in times]
    return statistics.median(slow), statistics.median(quick), statistics.median(ratios)


def rows_of(rollout: Rollout) -> tuple[Tensor, ...]:
    group = torch.arange(len(rollout.responses)) // rollout.group_size
    prompts = rollout.prompts
    return (
        prompts.input_ids[group],
        prompts.mask[group],
        rollout.response_ids,
        rollout.response_mask,
    )


def measure(setting: Setting, pairs: int) -> None:
    policy = make_policy(setting)
    plain = copy.deepcopy(policy)
    plain.shares_prompts = False
    prompts = make_prompts(setting, policy)
    sampler, sampling = NativeSampler(), Sampling(setting.size, setting.new_tokens)
    rollout = sampler.sample(policy, prompts, sampling, 0)
    share = float(rollout.response_mask.sum(1).float().mean()) / setting.new_tokens
    count = sum(p.numel() for p in policy.parameters()) / 1e6
    print(f"{setting.name}: {count:.1f}M, mean length {share:.0%}")
    rows = rows_of(rollout)

    def update(which: Policy) -> None:
        logprobs, _ = which(*rows)
        logprobs.sum().backward()
        which.zero_grad()

    def score(which: Policy) -> None:
        with torch.no_grad():
            which(*rows)

    techniques = {
        "sampling": lambda which: sampler.sample(which, prompts, sampling, 0),
        "forward": score,
        "forward + backward": update,
    }
    for name, work in techniques.items():
        slow, quick, ratio = paired(pairs, partial(work, plain), partial(work, policy))
        print(f"  {name:20s} {slow:9.1f} {quick:9.1f} {ratio:6.2f}x")


def measure_compiled(setting: Setting, pairs: int) -> None:
    """The fast path, and the same with ``policy.compile=true``."""
    policy = make_policy(setting)
    prompts, sampling = make_prompts(setting, policy), Sampling(setting.size, setting.new_tokens)
    rows = rows_of(NativeSampler().sample(policy, prompts, sampling, 0))
    compiled = copy.deepcopy(policy)
    compile_layers(compiled.causal_lm)

    def update(which: Policy) -> None:
        which(*rows)[0].sum().backward()
        which.zero_grad()

    started = time.perf_counter()
    update(compiled)
    print(f"{setting.name}: compiled in {time.perf_counter() - started:.0f} s")
    slow, quick, ratio = paired(pairs, partial(update, policy), partial(update, compiled))
    print(f"  {'forward + backward':20s} {slow:9.1f} {quick:9.1f} {ratio:6.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--compiled", action="store_true", help="what torch.compile adds")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[s.name for s in SETTINGS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for setting in SETTINGS:
        if setting.name in arguments.only:
            (measure_compiled if arguments.compiled else measure)(setting, arguments.pairs)


if __name__ == "__main__":
    main()
