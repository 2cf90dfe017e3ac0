"""A small world whose preferences are cycles: stone, paper, blade, and the other way round in ice.

A response is a few words of one of three kinds among filler words; a prompt is about fire or ice,
which decides the direction of the cycle. Each prompt comes with one response of each kind, so that
each kind
wins once and loses once: a scalar score names at most 2 of 3 winners.
"""

from __future__ import annotations

import itertools
import random
from functools import partial

import torch
from lightning.pytorch import Trainer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from gprl_lightning.data.pair_loader import PairLoader
from gprl_lightning.data.preferences import PreferencePair, make_pair
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.preference_model import Kind, PreferenceModel
from gprl_lightning.modules.preference import PreferenceModule
from gprl_lightning.tracking import metrics

KINDS = [[f"{name}{i}" for i in range(4)] for name in ("stone", "paper", "blade")]
PLACES = [[f"{name}{i}" for i in range(4)] for name in ("fire", "ice")]
FILLER = [f"w{i}" for i in range(30)]
CONTROL = ["<pad>", "<eos>", "<user>", "<assistant>", "<end>"]
BRADLEY_TERRY_CEILING = 2 / 3


def cycle_tokenizer() -> PreTrainedTokenizerFast:
    words = [*CONTROL, *FILLER, *itertools.chain(*PLACES, *KINDS)]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = (
        "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + ' <end> ' }}{% endfor %}"
    )
    return fast


def cyclic_pairs(triads: int, seed: int) -> list[PreferencePair]:
    """Three pairs for each of ``triads`` prompts: a cycle."""
    rng = random.Random(seed)

    def text(words: list[str], count: int) -> str:
        chosen = rng.choices(FILLER, k=rng.randint(2, 5)) + rng.choices(words, k=count)
        rng.shuffle(chosen)
        return " ".join(chosen)

    pairs = []
    for group in range(triads):
        place = rng.randrange(2)
        prompt = text(PLACES[place], 2)
        answers = [text(words, 3) for words in KINDS]
        if place == 1:
            answers.reverse()
        for i in range(3):
            winner, loser = answers[i], answers[(i + 1) % 3]
            pairs.append(make_pair(prompt, winner, loser, group=f"{seed}-{group}"))
    return pairs


def cycle_model(
    kind: Kind = "gpm",
    num_axes: int = 2,
    pairs: list[PreferencePair] | None = None,
    seed: int = 0,
    gated: bool = True,
    tau: float | None = None,
    l2_normalize: bool = True,
) -> PreferenceModel:
    """An untrained model of 86,000 parameters; with ``pairs``, its angles are spread on them."""
    tokenizer = cycle_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    return from_backbone(
        LlamaModel(config),
        tokenizer,
        kind=kind,
        num_axes=num_axes,
        gated=gated,
        tau=tau,
        l2_normalize=l2_normalize,
        max_tokens=64,
        examples=[pair.chosen for pair in (pairs or [])[:300]],
        seed=seed,
    )


def fit(
    model: PreferenceModel,
    train: list[PreferencePair],
    held_out: list[PreferencePair],
    epochs: int = 1,
    learning_rate: float = 1e-3,
) -> float:
    """Train on ``train``; the accuracy on ``held_out``."""
    optimizer = partial(torch.optim.AdamW, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = PairLoader(train, model.text, 32, epochs=epochs)
    trainer.fit(
        PreferenceModule(model, optimizer, num_batches=len(loader)),
        loader,
        PairLoader(held_out, model.text, 96, shuffle=False),
    )
    model.eval()
    return float(trainer.callback_metrics[metrics.HELD_OUT_ACCURACY])
