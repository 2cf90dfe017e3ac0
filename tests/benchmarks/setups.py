"""The worlds of the speed benchmarks: policies, preference models of their size, and prompts.

Policies are random Llamas, or SmolLM2-135M. Both sides of a comparison load the same folder.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModel,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.pretrained_preference import save_preference_model

SPECIAL = ("<pad>", "<s>", "</s>", "<user>", "<assistant>")
PAD, BOS, EOS = 0, 1, 2
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<s> <user> ' + m.content }}"
    "{% else %}{{ ' <assistant> ' + m.content + ' </s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)
TEMPLATE_TOKENS = 3  # that it adds to a prompt
PROMPTS = 4096  # all different: none comes up twice in a benchmark
NEVER = 1e-9  # the probability of EOS where no response is to stop

TOPICS = (
    "a steam engine", "the moon", "a violin", "photosynthesis", "a lighthouse", "the tides",
    "a bicycle", "bread", "a glacier", "the printing press", "a beehive", "a sailing boat",
)  # fmt: skip
ANGLES = (
    "how it works", "its history", "what it is made of", "why people care about it",
    "how to explain it to a child", "the three most common mistakes about it",
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Of a random Llama; `tied`: the embedding is the output layer too."""

    width: int
    layers: int
    vocabulary: int
    mlp: int = 384
    heads: int = 4
    kv_heads: int = 4
    tied: bool = True


@dataclass(frozen=True)
class Setup:
    """One row of the table.

    Attributes:
        shape: None: SmolLM2-135M.
        prompts: per iteration.
        group_size: G.
        prompt_tokens: on average; single prompts are up to a tenth longer or shorter.
        new_tokens: at which a response is cut.
        updates: optimiser steps on one rollout.
        mean_length: of the responses, as a share of ``new_tokens``; 1: none stops; None: EOS is as
            likely as any other token.
        targets: how many times cheaper than TRL's best an iteration must be, with glibc's
            thresholds as they are and raised.
    """

    name: str
    shape: Shape | None
    prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int
    updates: int = 1
    mean_length: float | None = 1.0
    targets: tuple[float, float] = (1.0, 1.0)
    dtype: torch.dtype = torch.float32

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group_size


SMALL, MEDIUM = Shape(128, 2, 8192), Shape(144, 4, 32_000)  # 1.5 and 5.6 million
SETUPS = {
    setup.name: setup
    for setup in (
        Setup("A", SMALL, 4, 8, 170, 64, targets=(4.0, 2.7)),
        Setup("A-stops", SMALL, 4, 8, 170, 64, mean_length=0.3, targets=(6.0, 4.0)),
        Setup("B", SMALL, 2, 16, 217, 64, updates=2, targets=(6.0, 4.0)),
        Setup("C", MEDIUM, 2, 8, 170, 96, updates=2, targets=(2.5, 2.0)),
        Setup("SmolLM2-135M", None, 2, 8, 55, 32, targets=(1.5, 1.3)),
    )
}


@dataclass(frozen=True)
class World:
    """Where a setup's parts are, as both sides load them."""

    policy: Path
    preference_model: Path
    prompts: Path
    runs: Path


def make_world(setup: Setup, cache: Path) -> World:
    """Write the policy, a preference model of its size with new heads, and the prompts; once."""
    folder = cache.resolve() / setup.name
    world = World(*(folder / name for name in ("policy", "gpm", "prompts.jsonl", "runs")))
    if world.prompts.exists():  # written last
        return world
    world.runs.mkdir(parents=True, exist_ok=True)
    large = setup.dtype == torch.bfloat16  # made once, since it takes a minute
    if setup.shape is None:
        source = policy_folder("smollm2_135m", str(cache))
        world.policy.symlink_to(Path(source).resolve())
        tokenizer, judge = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source)
        texts = [f"Tell me about {topic}: {angle}." for topic in TOPICS for angle in ANGLES]
    else:
        tokenizer = word_tokenizer(setup.shape.vocabulary)
        policy = random_llama(setup.shape, 0, setup.dtype)
        if setup.mean_length is not None:
            set_stop_probability(policy, stop_probability(setup.mean_length, setup.new_tokens))
        policy.save_pretrained(world.policy)
        tokenizer.save_pretrained(world.policy)
        judge = policy.model if large else random_llama(setup.shape, 1, setup.dtype).model
        texts = random_prompts(setup.prompt_tokens, setup.shape.vocabulary)
    gpm = from_backbone(judge, tokenizer, num_axes=3, max_tokens=512)
    save_preference_model(gpm, world.preference_model)
    rows = (json.dumps({"prompt": text}) for text in texts)
    world.prompts.write_text("\n".join(rows) + "\n", encoding="utf8")
    return world


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token per word ``w5`` … ``w{vocabulary-1}``: a decoded response is as long as it was."""
    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), vocabulary))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = TEMPLATE
    return fast


def random_llama(shape: Shape, seed: int, dtype: torch.dtype) -> LlamaForCausalLM:
    """On the CPU, but made on the GPU where there is one, which billions of numbers take."""
    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        return LlamaForCausalLM._from_config(llama_config(shape), dtype=dtype).cpu()


def llama_config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=shape.tied,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )


def random_prompts(tokens: int, vocabulary: int) -> list[str]:
    """Prompts of so many tokens on average, with the template's; up to a tenth more or fewer."""
    generator = torch.Generator().manual_seed(0)
    low, high = (round(share * (tokens - TEMPLATE_TOKENS)) for share in (0.9, 1.1))
    lengths = torch.randint(low, high + 1, (PROMPTS,), generator=generator)
    words = torch.randint(len(SPECIAL), vocabulary, (PROMPTS, high), generator=generator)
    return [
        " ".join(f"w{i}" for i in row[:length])
        for row, length in zip(words.tolist(), lengths.tolist(), strict=True)
    ]


def stop_probability(mean_share: float, new_tokens: int) -> float:
    """p of EOS at each token so that min(geometric(p), new_tokens) has the given mean."""
    if mean_share >= 1:
        return NEVER
    low, high = 0.0, 1.0
    for _ in range(60):
        p = (low + high) / 2
        mean = (1 - (1 - p) ** new_tokens) / p
        low, high = (p, high) if mean > mean_share * new_tokens else (low, p)
    return p


@torch.no_grad()
def set_stop_probability(model: LlamaForCausalLM, probability: float) -> None:
    """Make EOS about as likely everywhere, by the weights alone, so that any sampler stops alike.

    One entry of the hidden state is made large and nearly the same for all tokens, by adding a
    constant to that column of the embedding; with it as an input that is always on, the same entry
    of EOS's own row is its bias. The head shares the embedding, so all other logits move together.
    """
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    weight[:, 0] += 1.0
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(SPECIAL), len(weight), (16, 64), generator=generator)
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, 8:].flatten(0, 1)
    logits = states @ weight.T
    others = logits.index_fill(1, torch.tensor([EOS]), -math.inf).logsumexp(1)
    low, high = -20.0, 20.0
    for _ in range(40):
        bias = (low + high) / 2
        found = torch.sigmoid(logits[:, EOS] + bias * states[:, 0] - others).mean()
        low, high = (bias, high) if found < probability else (low, bias)
    weight[EOS, 0] += bias


def overrides(setup: Setup, world: World, *more: str) -> list[str]:
    """The command line of ``train.py`` for an endless run of this setup, without evaluation."""
    return [
        "sandbox_only=false",
        f"policy.path={world.policy}",
        "preference_model=folder",
        f"preference_model.path={world.preference_model}",
        "preference_model.max_tokens=512",
        "data=jsonl",
        f"data.path={world.prompts}",
        "data.held_out=0",
        "data.max_prompt_tokens=512",
        f"data.prompts_per_step={setup.prompts}",
        f"rollout.group_size={setup.group_size}",
        f"rollout.max_new_tokens={setup.new_tokens}",
        f"algorithm.inner_epochs={setup.updates}",
        "algorithm.kl_coef=0.02",
        "optimizer.lr=1e-6",
        "evaluation.judge=none",
        "iterations=100000",
        "checkpoint_every=100000",
        "logger=csv",
        f"paths.output={world.runs}",
        *more,
    ]
