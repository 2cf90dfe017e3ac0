"""Losses on pairs of responses of which one is preferred: DPO, IPO and SimPO.

A loss reads whole responses: sums of log-probabilities, in nats, in two columns, the chosen and the
rejected. It returns one number per pair; whoever calls it takes the mean over the pairs of a step.

    pairs = PairLogprobs(logprobs, ref_logprobs, tokens, labels, gains)
    terms = DPO(beta=0.1)(pairs)
    terms.loss.mean().backward()
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class PairLogprobs:
    """What a pair loss may read. Column 0 is the chosen response, column 1 the rejected one.

    Attributes:
        logprobs: log π_θ of each whole response, in nats.
        ref_logprobs: log π_ref of it, without gradient; not read where the loss has no reference.
        tokens: number of its tokens, at least 1.
        labels: probability that the chosen response is the better one; 1 where it is certain.
        gains: what each response gained against its group (`core.game_gains`), or, where pairs come
            alone, its label less ½; for `core.square_loss`.
    """

    logprobs: Float[Tensor, "pairs 2"]
    ref_logprobs: Float[Tensor, "pairs 2"]
    tokens: Int[Tensor, "pairs 2"]
    labels: Float[Tensor, " pairs"]
    gains: Float[Tensor, "pairs 2"]


@dataclass(frozen=True)
class PairTerms:
    """What a pair loss returns.

    Attributes:
        loss: of each pair; the mean over pairs is minimised.
        margin: by how much the policy's implied reward of the chosen response is ahead of the
            rejected one's, in the loss's own units, without gradient, for logging.
    """

    loss: Float[Tensor, " pairs"]
    margin: Float[Tensor, " pairs"]


class PairLoss(Protocol):
    """From log-probabilities of pairs to a loss for each; pure."""

    @property
    def needs_reference(self) -> bool:
        """Whether ``ref_logprobs`` is read; if not, no reference model has to be loaded."""
        ...

    def __call__(self, pairs: PairLogprobs) -> PairTerms:
        """Return the loss and the margin of each pair."""
        ...


@dataclass(frozen=True)
class DPO:
    """Compute ``−p log σ(β h) − (1 − p) log σ(−β h)``, h the difference of log-ratios.

    Source: DPO, arXiv 2305.18290, equation 7, of ``h = log π_θ/π_ref (chosen) − (rejected)``. The
    label smoothing ε is conservative DPO's (Mitchell 2023): with a label of 1, p = 1 − ε. A label
    between 0 and 1 is taken as a probability (ours).

    Attributes:
        beta: β, the strength of the implied KL penalty; 0.1 in the paper.
        label_smoothing: ε, the share of labels taken to be wrong, in [0, ½).
    """

    beta: float = 0.1
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_share("label_smoothing", self.label_smoothing)

    @property
    def needs_reference(self) -> bool:
        """Return True: DPO compares with the reference."""
        return True

    def __call__(self, pairs: PairLogprobs) -> PairTerms:
        """Return the loss and β h of each pair."""
        margin = self.beta * _ahead(pairs.logprobs - pairs.ref_logprobs)
        return _cross_entropy(margin, _smoothed(pairs.labels, self.label_smoothing))


@dataclass(frozen=True)
class IPO:
    """Compute ``p (h − 1/2β)² + (1 − p) (h + 1/2β)²``, h the difference of log-ratios per token.

    Source: IPO, arXiv 2310.12036, equation 17 (there β is τ), for which p = 1. The paper writes
    sums over tokens. Its authors divided each log-ratio by the response's length, and so does TRL:
    ``per_token=False`` is the formula as printed. Labels between 0 and 1 are ours.

    Attributes:
        beta: the regression target is 1 / 2β nats, per token unless ``per_token`` is False.
        per_token: whether log-ratios are means over the tokens of a response.
    """

    beta: float = 0.1
    per_token: bool = True

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    @property
    def needs_reference(self) -> bool:
        """Return True: IPO compares with the reference."""
        return True

    def __call__(self, pairs: PairLogprobs) -> PairTerms:
        """Return the loss and h of each pair."""
        ratios = pairs.logprobs - pairs.ref_logprobs
        ahead = _ahead(ratios / pairs.tokens if self.per_token else ratios)
        target = 1 / (2 * self.beta)
        labels = pairs.labels
        loss = labels * (ahead - target).square() + (1 - labels) * (ahead + target).square()
        return PairTerms(loss, ahead.detach())


@dataclass(frozen=True)
class SimPO:
    """Compute ``−log σ(β (log π/length (chosen) − (rejected)) − γ)``, without a reference.

    Source: SimPO, arXiv 2405.14734, equation 6. Labels below 1 act as in `DPO` (ours).

    Attributes:
        beta: β, 2.5 in the paper's Llama-3-Instruct setting.
        gamma_beta_ratio: γ/β, the margin of the mean log-probabilities in nats per token; 0.55.
        label_smoothing: ε, as in `DPO` (ours; 0 in the paper).
    """

    beta: float = 2.5
    gamma_beta_ratio: float = 0.55
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        require_share("label_smoothing", self.label_smoothing)

    @property
    def needs_reference(self) -> bool:
        """Return False: SimPO has no reference model."""
        return False

    def __call__(self, pairs: PairLogprobs) -> PairTerms:
        """Return the loss and the margin less γ of each pair."""
        ahead = _ahead(pairs.logprobs / pairs.tokens)
        margin = self.beta * (ahead - self.gamma_beta_ratio)
        return _cross_entropy(margin, _smoothed(pairs.labels, self.label_smoothing))


def require_positive(name: str, value: float) -> None:
    """Raise ValueError unless ``objective.loss.<name>`` is above 0."""
    if not value > 0:
        raise ValueError(f"objective.loss.{name}={value}: expected a number above 0.")


def require_share(name: str, value: float) -> None:
    """Raise ValueError unless ``objective.loss.<name>`` is in [0, 0.5)."""
    if not 0 <= value < 0.5:
        raise ValueError(f"objective.loss.{name}={value}: expected a number in [0, 0.5).")


def _ahead(values: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
    return values[:, 0] - values[:, 1]


def _smoothed(labels: Float[Tensor, " pairs"], epsilon: float) -> Float[Tensor, " pairs"]:
    return labels * (1 - epsilon) + (1 - labels) * epsilon


def _cross_entropy(margin: Float[Tensor, " pairs"], labels: Float[Tensor, " pairs"]) -> PairTerms:
    loss = -labels * F.logsigmoid(margin) - (1 - labels) * F.logsigmoid(-margin)
    return PairTerms(loss, margin.detach())
