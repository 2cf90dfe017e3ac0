"""How many axes do real preferences bear? Heads on a frozen backbone, five folds.

    python -m tests.benchmarks.real_preferences FILE [--backbone …] [--layers 12] [--pairs N]

FILE: pairs in any form that `data.path` takes (hh-rlhf's harmless-base, for one). The backbone's
states are computed once for each way of reading (values with the prompt, values of the answer
alone) and kept in a file; then the heads of a model of each shape are trained on four folds and
tried on the fifth. Frozen: the figures are a floor of what a trained backbone would reach. The
states are standardised, by the training folds. A fifth of the training folds chooses the epoch.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gprl_lightning.core.axis_identification import correlation
from gprl_lightning.core.options import Values
from gprl_lightning.core.pairs import pair_accuracy, pair_axis_scores, pair_loss
from gprl_lightning.data.preferences import PreferencePair, read_pairs
from gprl_lightning.models.builtin import policy_folder
from gprl_lightning.models.initialization import from_backbone
from gprl_lightning.models.tokenizer_files import load_tokenizer

FOLDS, EPOCHS, BATCH, RATE, DECAY = 5, 40, 64, 1e-3, 0.1
CHUNK = 64  # pairs between two saves
SORRY = re.compile(
    r"\b(sorry|can’t|can't|cannot|won’t|won't|not able to|shouldn’t|shouldn't)\b", re.I
)
FEATURES: dict[str, Callable[[str], float]] = {
    "words": lambda text: float(len(text.split())),
    "declines": lambda text: float(bool(SORRY.search(text))),
    "asks back": lambda text: float("?" in text),
}
States = tuple[Tensor, Tensor]  # of the answers [2 pairs, width], of the gate [2 pairs, width]


@dataclass(frozen=True)
class Shape:
    """A model's shape: k = 0 is Bradley-Terry."""

    axes: int
    gated: bool = False
    values: Values = "conversation"

    def __str__(self) -> str:
        if self.axes == 0:
            return "Bradley-Terry"
        words = [f"GPM k = {self.axes}"]
        words += ["gated"] if self.gated else []
        words += ["answer only"] if self.values == "answer_only" else []
        return ", ".join(words)


SHAPES = [
    Shape(0),
    Shape(1),
    *(Shape(k, gated) for k in (2, 3, 5) for gated in (False, True)),
    *(Shape(k, True, "answer_only") for k in (2, 3, 5)),
]


class Heads(torch.nn.Module):
    """The heads of a `PreferenceModel`, on states. At first rows are orthogonal, the gate even."""

    def __init__(self, shape: Shape, width: int):
        super().__init__()
        self.shape = shape
        self.value = torch.nn.Linear(width, 2 * shape.axes or 1)
        self.gate = torch.nn.Linear(width, shape.axes, bias=False) if shape.gated else None
        torch.nn.init.zeros_(self.value.bias)
        if shape.axes:
            torch.nn.init.orthogonal_(self.value.weight)
        else:
            torch.nn.init.normal_(self.value.weight, std=1 / (width + 1))
        if self.gate is not None:
            torch.nn.init.zeros_(self.gate.weight)

    def forward(self, states: States) -> tuple[Tensor, Tensor]:
        """Scores of axes and eigenvalues, of pairs."""
        answers, prompts = states
        v = self.value(answers)
        if not self.shape.axes:
            v = torch.stack([v, torch.ones_like(v)], -1).flatten(-2)
        else:
            v = torch.nn.functional.normalize(v, dim=-1)
        scores = pair_axis_scores(v)
        if self.gate is None:
            return scores, torch.ones_like(scores)
        return scores, torch.softmax(self.gate(prompts[::2]), -1)

    @property
    def tau(self) -> float:
        return 0.1 if self.shape.axes else 1.0

    def total(self, states: States) -> Tensor:
        scores, gate = self(states)
        return (scores * gate).sum(-1)


def states_of(pairs: list[PreferencePair], values: Values, options: argparse.Namespace) -> States:
    """The frozen backbone's states, from the file that an earlier call left, as far as it goes."""
    file = options.cache / f"states_{values}_{options.layers}.pt"
    found: States = torch.load(file) if file.exists() else (torch.zeros(0), torch.zeros(0))
    if len(found[0]) >= 2 * len(pairs):
        return found[0][: 2 * len(pairs)].float(), found[1][: 2 * len(pairs)].float()
    from transformers import AutoConfig, AutoModel

    folder = policy_folder(options.backbone, str(options.cache))
    shape = AutoConfig.from_pretrained(folder)
    shape.num_hidden_layers = options.layers
    # Few CPUs compute in bfloat16: elsewhere it takes six times as long.
    backbone = AutoModel.from_pretrained(folder, config=shape, dtype=torch.float32)
    tokenizer = load_tokenizer("--backbone", folder, None)
    model = from_backbone(backbone, tokenizer, values=values, max_tokens=1024, batch_size=16).eval()
    for start in range(len(found[0]) // 2, len(pairs), CHUNK):
        part = [side for p in pairs[start : start + CHUNK] for side in (p.chosen, p.rejected)]
        new = model.states_of_conversations(part)
        found = (torch.cat([found[0], new[0]]), torch.cat([found[1], new[1]])) if start else new
        torch.save(tuple(part.clone() for part in found), file)
        print(f"{values}: states of {len(found[0]) // 2} of {len(pairs)} pairs", flush=True)
    return found[0].float(), found[1].float()


def rows_of(states: States, pairs: Tensor) -> States:
    rows = torch.stack([2 * pairs, 2 * pairs + 1], -1).flatten()
    return states[0][rows], states[1][rows]


def standardised(states: States, train: Tensor) -> States:
    parts = []
    for part, known in zip(states, rows_of(states, train), strict=True):
        parts.append((part - known.mean(0)) / (known.std(0) + 1e-6) / part.shape[1] ** 0.5)
    return parts[0], parts[1]


def trained(shape: Shape, states: States, labels: Tensor, train: Tensor, seed: int) -> Heads:
    """The heads after the epoch that a fifth of `train` likes best, by its loss."""
    torch.manual_seed(seed)
    order = train[torch.randperm(len(train))]
    chooser, rest = order[: len(order) // 5], order[len(order) // 5 :]
    heads = Heads(shape, states[0].shape[1])
    optimizer = torch.optim.AdamW(heads.parameters(), lr=RATE, weight_decay=DECAY)
    best, kept = math.inf, heads.state_dict()
    for _ in range(EPOCHS):
        for part in rest[torch.randperm(len(rest))].split(BATCH):
            zero = torch.zeros(len(part))
            loss = pair_loss(heads.total(rows_of(states, part)), labels[part], zero, heads.tau)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        with torch.no_grad():
            total = heads.total(rows_of(states, chooser))
            loss = float(pair_loss(total, labels[chooser], 0 * total, heads.tau).mean())
        if loss < best:
            best, kept = loss, {k: v.clone() for k, v in heads.state_dict().items()}
    heads.load_state_dict(kept)
    return heads


@torch.no_grad()
def judged(heads: Heads, states: States, labels: Tensor, test: Tensor) -> dict[str, Tensor]:
    """What the heads say of pairs that they have not seen."""
    scores, gate = heads(rows_of(states, test))
    products = scores.double().T @ scores.double()
    scale = products.diagonal().sqrt()
    between = (products / scale / scale[:, None])[
        tuple(torch.triu_indices(len(scale), len(scale), 1))
    ]
    return {
        "correct": pair_accuracy((scores * gate).sum(-1), labels[test]),
        "gate_std": gate.std(0).mean(),
        "between": between.abs().mean() if len(between) else torch.tensor(float("nan")),
        "scores": scores,
        "gate": gate,
    }


def folds(pairs: list[PreferencePair]) -> Tensor:
    """The fold of each pair; pairs of one prompt share theirs."""
    prompts = {str(pair.prompt): None for pair in pairs}
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(prompts), generator=generator).tolist()
    place = dict(zip(prompts, order, strict=True))
    return torch.tensor([place[str(pair.prompt)] % FOLDS for pair in pairs])


def interval(values: Tensor) -> str:
    """Mean and its 95 % interval over pairs, in points."""
    half = 1.96 * float(values.std()) / len(values) ** 0.5
    return f"{100 * float(values.mean()):.1f} ± {100 * half:.1f}"


def says(found: dict[str, Tensor], pairs: list[PreferencePair]) -> str:
    """Each axis's correlation with what differs between the answers, and the gate's with it."""
    words = []
    for name, feature in FEATURES.items():
        a, b = (torch.tensor([feature(p.answers[i]) for p in pairs]) for i in (0, 1))
        difference = (a - b).double()
        by_axis = [
            float(s @ difference / (s.norm() * difference.norm() + 1e-30))
            for s in found["scores"].double().T
        ]
        words.append(f"{name} " + " ".join(f"{value:+.2f}" for value in by_axis))
    turns = torch.tensor([float(len(p.prompt)) for p in pairs]).double()
    by_gate = [correlation(g, turns) for g in found["gate"].double().T]
    return (
        "; ".join(words) + "; λ with the number of turns " + " ".join(f"{g:+.2f}" for g in by_gate)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file")
    parser.add_argument("--backbone", default="smollm2_135m")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--cache", type=Path, default=Path(".cache/gprl"))
    options = parser.parse_args(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    pairs = read_pairs(options.file)[: options.pairs]
    labels, fold = torch.tensor([pair.label for pair in pairs]), folds(pairs)
    print(f"{len(pairs)} pairs, {options.layers} layers of {options.backbone}, {FOLDS} folds")
    print(
        "| model | accuracy, % | − Bradley-Terry | gate std | between axes |\n|---|---|---|---|---|"
    )
    first: Tensor | None = None
    for shape in SHAPES:
        states = states_of(pairs, shape.values, options)
        correct, gate_std, between = torch.zeros(len(pairs)), [], []
        for i in range(FOLDS):
            train, test = ((fold != i).nonzero()[:, 0], (fold == i).nonzero()[:, 0])
            ready = standardised(states, train)
            found = judged(trained(shape, ready, labels, train, i), ready, labels, test)
            correct[test] = found["correct"]
            gate_std.append(float(found["gate_std"]))
            between.append(float(found["between"]))
            if i == 0 and shape.axes in (3, 5):
                told = says(found, [pairs[j] for j in test.tolist()])
        first = correct if first is None else first
        gate = f"{sum(gate_std) / FOLDS:.3f}" if shape.gated else "–"
        apart = f"{sum(between) / FOLDS:.2f}" if shape.axes > 1 else "–"
        print(f"| {shape} | {interval(correct)} | {interval(correct - first)} | {gate} | {apart} |")
        if shape.axes in (3, 5):
            print(f"  {told}", flush=True)


if __name__ == "__main__":
    main()
