"""The square loss of SPPO and GPO: log-ratios are regressed on a game's gains."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gprl_lightning.core.pair_losses import PairLogprobs, PairTerms, require_positive


@dataclass(frozen=True)
class SquareLoss:
    """Compute the mean over both responses of ``(log π_θ/π_t − gain / β)²``.

    π_t, the policy of the round, is the reference here. Sources: SPPO, arXiv 2405.00675, equation
    4.7 (η = 1/β), with gains of `core.game_gains.win_gains`; GPO, arXiv 2410.02197, section 5, with
    those of `score_gains`. As in the authors' code the two squares of a pair are meaned (TRL adds
    them).

    Attributes:
        beta: β; 1e-3 in both papers' scripts.
        hard: take ½ and −½ as the gains of the better and the worse response, and 0 where neither
            is, as TRL's ``sppo_hard``.
    """

    beta: float = 1e-3
    hard: bool = False

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    @property
    def needs_reference(self) -> bool:
        """Return True: the loss compares with the round's policy."""
        return True

    def __call__(self, pairs: PairLogprobs) -> PairTerms:
        """Return the loss of each pair, and by how many nats its log-ratios are apart."""
        ratios, gains = pairs.logprobs - pairs.ref_logprobs, pairs.gains
        if self.hard:
            gains = torch.sign(gains - gains.flip(1)) / 2
        loss = (ratios - gains / self.beta).square().mean(1)
        return PairTerms(loss, (ratios[:, 0] - ratios[:, 1]).detach())
