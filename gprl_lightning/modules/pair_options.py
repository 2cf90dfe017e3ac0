"""The options of `PairObjective`, what they refuse, and the reference that follows from them."""

from __future__ import annotations

from typing import Literal

from gprl_lightning.config import Config
from gprl_lightning.config.section import Count, section
from gprl_lightning.core.game_gains import Gain
from gprl_lightning.errors import ConfigError
from gprl_lightning.models.frozen import FrozenModel
from gprl_lightning.models.policy import Policy, reference_of
from gprl_lightning.modules.parts import Parts

Pairs = Literal["sampled", "file"]
Player = Literal["reference", "policy"]


@section("objective", frozen=True)
class PairOptions:
    """Where pairs come from. ``objective.*`` in the configuration.

    Attributes:
        pairs: ``sampled``, best and worst of a group; ``file``, those of ``data.path`` (of the
            sandbox: its own, labelled by the gold).
        player: who samples: ``policy``, or ``reference``, the starting or the round's policy.
        gain: what ranks a group: ``probability`` of winning against it, or ``score``.
        round_length: iterations of a round, after which the policy becomes the reference; None: the
            starting policy stays the reference.

    Raises:
        ConfigError: an unknown word, or a combination that means nothing.
    """

    pairs: Pairs = "sampled"
    player: Player = "reference"
    gain: Gain = "probability"
    round_length: Count | None = None

    def __post_init__(self) -> None:
        if self.pairs == "file" and self.player == "policy":
            raise ConfigError(
                "objective.player=policy: expected reference with objective.pairs=file, of which "
                "nobody samples. Set objective.pairs=sampled."
            )

    def ends_round(self, index: int) -> bool:
        """Return True if a round ends with iteration ``index`` (0-based)."""
        return self.round_length is not None and (index + 1) % self.round_length == 0


def own_reference(parts: Parts, options: PairOptions, needed: bool) -> FrozenModel[Policy] | None:
    """Return the starting policy, or a copy that rounds may overwrite, or None if nobody asks.

    Raises:
        ConfigError: rounds without a reference that they could replace; or with LoRA, whose
            reference is the policy without its adapters and has no place for a round's.
    """
    plays = options.pairs == "sampled" and options.player == "reference"
    if not (needed or plays):
        if options.round_length is not None:
            raise ConfigError(
                f"objective.round_length={options.round_length}: expected null, because nobody "
                "asks for a reference that a round could replace: the loss reads none, and the "
                f"pairs are objective.pairs={options.pairs}, objective.player={options.player}. "
                "Set objective.round_length=null."
            )
        return None
    if options.round_length is None:
        return parts.start
    if parts.config.policy.lora is not None:
        raise ConfigError(
            f"objective.round_length={options.round_length}: expected null with policy.lora, whose "
            "reference is the policy without its adapters. Set lora=none."
        )
    return reference_of(parts.policy)


def refuse_online_options(config: Config) -> None:
    """Refuse what the online update reads and this one would pass over without a word.

    Raises:
        ConfigError: such an option is set.
    """
    for key, found, expected, why in (
        ("rollout.staleness", config.rollout.staleness, 0, "the reference may be who samples"),
        ("rollout.correction", config.rollout.correction, "none", "no ratio is read"),
        ("algorithm.chi2_coef", config.algorithm.chi2_coef, 0.0, "its loss has no such term"),
        ("algorithm.oversample", config.algorithm.oversample, 1, "no group is left out"),
    ):
        if found != expected:
            raise ConfigError(
                f"{key}={found}: expected {expected} with an objective on pairs, because {why}. "
                f"Set {key}={expected}."
            )
