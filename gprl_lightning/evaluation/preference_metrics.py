"""Calibration, use of the axes, and cycles, in sums and counts that add up over processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from gprl_lightning.core.preference import axis_pairs, group_scores

BINS = 10  # of the reliability plot, over confidences from ½ to 1


class Reliability(Metric):
    """Confidence ``max(P, 1 − P)`` against how often the labels agree, in ten bins from ½ to 1."""

    confidence: Tensor
    agreement: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("confidence", "agreement", "count"):
            self.add_state(name, torch.zeros(BINS, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, probability: Float[Tensor, " pairs"], labels: Float[Tensor, " pairs"]) -> None:
        """Count pairs: P(chosen wins) by the model, and by the labels."""
        confidence = torch.maximum(probability, 1 - probability).double()
        agreement = torch.where(probability >= 0.5, labels, 1 - labels).double()
        bins = ((confidence - 0.5) * 2 * BINS).long().clamp(0, BINS - 1)
        self.confidence.index_add_(0, bins, confidence)
        self.agreement.index_add_(0, bins, agreement)
        self.count.index_add_(0, bins, torch.ones_like(confidence))

    def compute(self) -> dict[str, Any]:
        """Return what it measured."""
        count = self.count.clamp(min=1)
        confidence, agreement = self.confidence / count, self.agreement / count
        error = (self.count * (confidence - agreement).abs()).sum() / self.count.sum()
        bins = zip(confidence.tolist(), agreement.tolist(), self.count.tolist(), strict=True)
        return {
            "error": float(error),
            "bins": [
                {"confidence": c, "agreement": a, "pairs": int(n)} for c, a, n in bins if n > 0
            ],
        }


class AxisUse(Metric):
    """Which axes speak, and whether they say different things: moments of their group scores."""

    products: Tensor
    eigenvalues: Tensor
    squares: Tensor
    prompts: Tensor

    def __init__(self, num_axes: int):
        super().__init__()
        self.add_state("products", torch.zeros(num_axes, num_axes).double(), dist_reduce_fx="sum")
        self.add_state("eigenvalues", torch.zeros(num_axes).double(), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros(num_axes).double(), dist_reduce_fx="sum")
        self.add_state("prompts", torch.zeros(()).double(), dist_reduce_fx="sum")

    def update(
        self, vectors: Float[Tensor, "n two_axes"], eigenvalues: Float[Tensor, " axes"]
    ) -> None:
        """Count one prompt with its n ≥ 2 responses, which weigh 1 together."""
        scores = group_scores(axis_pairs(vectors[None]))[0].double()
        self.products += (
            scores.T @ scores / len(scores)
        )  # group scores have mean 0 by skew symmetry
        self.eigenvalues += eigenvalues
        self.squares += eigenvalues.double().square()
        self.prompts += 1

    def compute(self) -> dict[str, Any]:
        """Return what it measured."""
        variance = self.products.diagonal()
        deviation = variance.sqrt().clamp(min=1e-30)
        correlation = self.products / deviation / deviation[:, None]
        off_diagonal = ~torch.eye(len(variance), dtype=torch.bool, device=variance.device)
        mean = self.eigenvalues / self.prompts
        spread = (self.squares / self.prompts - mean.square()).clamp(min=0).sqrt()
        pairs = correlation[off_diagonal]
        return {
            "variance_share": (variance / variance.sum().clamp(min=1e-30)).tolist(),
            "correlation": correlation.tolist(),
            "mean_correlation": float(pairs.mean()) if len(pairs) else 0.0,
            "mean_absolute_correlation": float(pairs.abs().mean()) if len(pairs) else 0.0,
            "eigenvalue_mean": mean.tolist(),
            "eigenvalue_std": spread.tolist(),
        }


class CyclicTriads(Metric):
    """The share of triads of responses to one prompt on which the model goes round in a circle."""

    cyclic: Tensor
    triads: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("cyclic", torch.zeros(()).double(), dist_reduce_fx="sum")
        self.add_state("triads", torch.zeros(()).double(), dist_reduce_fx="sum")

    def update(self, scores: Float[Tensor, "n n"]) -> None:
        """Count the triads of one prompt by its skew-symmetric scores."""
        wins = (scores > 0).double()
        self.cyclic += torch.trace(wins @ wins @ wins) / 3
        self.triads += math.comb(len(scores), 3)

    def compute(self) -> dict[str, float | int]:
        share = self.cyclic / self.triads.clamp(min=1)
        return {"triads": int(self.triads), "cyclic": int(self.cyclic), "share": float(share)}
