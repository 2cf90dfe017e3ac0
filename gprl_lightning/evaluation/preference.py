"""What a preference model is worth on labelled pairs, and how it uses its axes.

Accuracy alone hides what GPRL lives on: a GPM whose axes are copies of one scalar turns it into a
scalar method, and a model that never voices a cycle has no use for more than one axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from gprl_lightning.core.batch import Messages
from gprl_lightning.core.pairs import pair_accuracy, pair_loss
from gprl_lightning.core.preference import axis_pairs, pairwise_scores, total_scores
from gprl_lightning.data.preferences import PreferencePair
from gprl_lightning.evaluation.axis_report import (
    axes_against_attributes,
    by_size,
    gate_by_subset,
    identification,
)
from gprl_lightning.evaluation.preference_metrics import AxisUse, CyclicTriads, Reliability
from gprl_lightning.models.preference_model import PreferenceModel

MARGIN_BINS = 4  # quartiles


def evaluate_preference_model(
    model: PreferenceModel, pairs: Sequence[PreferencePair]
) -> dict[str, Any]:
    """Return everything of this file about ``model`` on ``pairs``, ready for JSON. Each text is
    read once.

    Axes and triads are taken over all answers that a prompt has in the data (two, in a plain pair
    set, which has no triads).
    """
    conversations = list(dict.fromkeys(c for pair in map(_keys, pairs) for c in pair))
    vectors, eigenvalues = model.embed_conversations([_messages(c) for c in conversations])
    vectors, eigenvalues = vectors.cpu(), eigenvalues.cpu()
    row = {conversation: i for i, conversation in enumerate(conversations)}
    index = torch.tensor([[row[c] for c in _keys(pair)] for pair in pairs])
    sides = vectors[index]
    scores = total_scores(pairwise_scores(axis_pairs(sides))[:, 0, 1], eigenvalues[index[:, 0]])
    labels = torch.tensor([pair.label for pair in pairs])
    reliability = Reliability()
    reliability.update(torch.sigmoid(scores / model.tau), labels)
    correct = pair_accuracy(scores, labels)
    return {
        "pairs": len(pairs),
        "prompts": len({c[:-1] for c in conversations}),
        "kind": model.kind,
        "num_axes": model.num_axes,
        "accuracy": _mean(correct),
        "loss": _mean(pair_loss(scores, labels, torch.zeros_like(labels), model.tau)),
        "by_subset": _by_subset(pairs, correct),
        "calibration": reliability.compute(),
        "by_margin": _by_margin(pairs, scores, correct),
        "length": _length_bias(pairs, scores),
        **_per_prompt(model, conversations, vectors, eigenvalues),
        "axis_names": list(axis_names(model)),
        "gate": _gate(pairs, eigenvalues[index[:, 0]]),
        "attributes": axes_against_attributes(sides, pairs),
        "identification": _identification(
            model, conversations, vectors, eigenvalues, (sides, eigenvalues[index[:, 0]])
        ),
        "data_cycles": _data_cycles(pairs, correct),
    }


def axis_names(model: PreferenceModel) -> tuple[str, ...]:
    """Return the axes' names: of the attributes that they were trained on, else their own."""
    return (*model.attributes, *model.axes[len(model.attributes) :])


def _gate(pairs: Sequence[PreferencePair], eigenvalues: Tensor) -> dict[str, Any]:
    """λ by subset, each prompt counted once, in the subset of its first pair."""
    first: dict[Conversation, int] = {}
    for i, pair in enumerate(pairs):
        first.setdefault(_keys(pair)[0][:-1], i)
    rows = list(first.values())
    return gate_by_subset(eigenvalues[rows], [pairs[i].subset or "all" for i in rows])


def _groups(conversations: list[Conversation]) -> dict[Conversation, list[int]]:
    """Rows of the answers to each prompt."""
    groups: dict[Conversation, list[int]] = {}
    for i, conversation in enumerate(conversations):
        groups.setdefault(conversation[:-1], []).append(i)
    return groups


def _identification(
    model: PreferenceModel,
    conversations: list[Conversation],
    vectors: Tensor,
    eigenvalues: Tensor,
    by_pair: tuple[Tensor, Tensor],
) -> dict[str, Any] | None:
    """None where there is nothing to rotate: a single axis, or rewards."""
    if model.kind != "gpm" or model.num_axes == 1:
        return None
    groups = [g for g in _groups(conversations).values() if len(g) >= 2]
    return identification(by_size([(vectors[g], eigenvalues[g[0]]) for g in groups]), *by_pair)


Conversation = tuple[tuple[str, str], ...]


def _keys(pair: PreferencePair) -> tuple[Conversation, Conversation]:
    sides = (pair.chosen, pair.rejected)
    first, second = (tuple((m["role"], m["content"]) for m in side) for side in sides)
    return first, second


def _messages(conversation: Conversation) -> Messages:
    return tuple({"role": role, "content": content} for role, content in conversation)


def _mean(values: Tensor) -> float | None:
    """None for no values: not a number is not JSON."""
    if len(values) == 0:
        return None
    metric = MeanMetric()
    metric.update(values)
    return float(metric.compute())


def _by_subset(pairs: Sequence[PreferencePair], correct: Tensor) -> dict[str, Any]:
    rows: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        rows.setdefault(pair.subset or "all", []).append(i)
    return {
        name: {"pairs": len(index), "accuracy": _mean(correct[index])}
        for name, index in sorted(rows.items())
    }


def _by_margin(
    pairs: Sequence[PreferencePair], scores: Tensor, correct: Tensor
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy in quartiles of the data's margins, where it has any, and of the model's ``|s|``."""
    margins = {"model": scores.abs(), "data": torch.tensor([pair.margin for pair in pairs])}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, values in margins.items():
        if values.max() > values.min():
            parts = values.argsort().tensor_split(MARGIN_BINS)
            found[name] = [
                {
                    "from": float(values[part].min()),
                    "to": float(values[part].max()),
                    "accuracy": _mean(correct[part]),
                }
                for part in parts
                if len(part)
            ]
    return found


def _length_bias(pairs: Sequence[PreferencePair], scores: Tensor) -> dict[str, Any]:
    """How often the longer answer (in characters) wins, by the model and by the labels."""
    longer = torch.tensor([float(len(p.answers[0]) - len(p.answers[1])) for p in pairs])
    differ = longer != 0
    labels = torch.tensor([pair.label for pair in pairs])
    half = torch.full_like(labels, 0.5)
    return {
        "pairs": int(differ.sum()),
        "longer_wins_by_model": _mean(((1 + longer.sign() * scores.sign()) / 2)[differ]),
        "longer_wins_by_labels": _mean((half + longer.sign() * (labels - half))[differ]),
    }


def _per_prompt(
    model: PreferenceModel, conversations: list[Conversation], vectors: Tensor, eigenvalues: Tensor
) -> dict[str, Any]:
    axes, triads = AxisUse(model.num_axes), CyclicTriads()
    for group in _groups(conversations).values():
        if len(group) >= 2:
            axes.update(vectors[group], eigenvalues[group[0]])
            scores = pairwise_scores(axis_pairs(vectors[group][None]))[0]
            triads.update(total_scores(scores, eigenvalues[group[0]]))
    return {"axes": axes.compute(), "model_cycles": triads.compute()}


def _data_cycles(pairs: Sequence[PreferencePair], correct: Tensor) -> dict[str, Any]:
    """Accuracy on pairs that lie on a cycle of the labels, of any length, and on the rest."""
    beats: dict[Conversation, set[Conversation]] = {}
    for pair in pairs:
        winner, loser = _keys(pair) if pair.label > 0.5 else _keys(pair)[::-1]
        if pair.label != 0.5:
            beats.setdefault(winner, set()).add(loser)
    on_cycle = torch.tensor(
        [
            pair.label != 0.5
            and _reaches(beats, *(_keys(pair)[::-1] if pair.label > 0.5 else _keys(pair)))
            for pair in pairs
        ]
    )
    parts = {"on_cycles": correct[on_cycle], "elsewhere": correct[~on_cycle]}
    accuracies = {f"accuracy_{name}": _mean(part) for name, part in parts.items()}
    return {"pairs_on_cycles": int(on_cycle.sum()), **accuracies}


def _reaches(
    beats: dict[Conversation, set[Conversation]], start: Conversation, goal: Conversation
) -> bool:
    """Whether a chain of wins leads from ``start`` to ``goal``."""
    seen, ahead = {start}, [start]
    while ahead:
        for reached in beats.get(ahead.pop(), set()) - seen:
            if reached == goal:
                return True
            seen.add(reached)
            ahead.append(reached)
    return False
