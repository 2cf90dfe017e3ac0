"""What is compared with what, and the figure that the paper reports for it (METHOD §4).

The paper's figures are points of AlpacaEval 2.0's length-controlled win rate, of Llama-3-8B:
another scale than the sandbox's gold. They stand beside ours for the direction and the order of
size. Only the 56.51 of full GPRL is from the abstract; all others are known second-hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FULL, BASELINE = "none", "grpo_bt"
SECOND_HAND = "second-hand"

# What the page calls an arm; an arm that is not listed goes by its overrides.
NAMES = {
    "none": "GPRL, full",
    "grpo_bt": "GRPO + BT",
    "grpo_bt_bounded": "GRPO + BT, bounded scores",
    "grpo_bt_chi2": "GRPO + BT, √χ² for KL",
    "grpo_bt_ensemble_minimum": "GRPO + 3 BT, minimum",
    "grpo_bt_ensemble_std": "GRPO + 3 BT, mean − std",
    "grpo_bt_replayed": "GRPO + BT, full's β replayed",
    "grpo_bt_surprise": "GRPO + BT, surprise monitor",
    "grpo_gpm": "GRPO + GPM, one z-score",
    "gdpo_gpm": "GDPO on GPM axes",
    "gdpo_unit": "GDPO, no context",
    "mo_grpo": "MO-GRPO, no context",
    "no_drift": "GPRL, no controller",
    "reweight_only": "GPRL, reweight only",
    "kl_only": "GPRL, KL only",
    "surprise_monitor": "GPRL, surprise monitor",
    "firm_controller": "GPRL, firm controller",
    "firm_surprise": "GPRL, firm surprise monitor",
    "grpo_bt_firm_surprise": "GRPO + BT, firm surprise monitor",
    "anchored_guard": "GPRL, anchored guard",
    "floored_std": "GPRL, floored std",
    "single_axis": "GPRL, k = 1",
    "two_axes": "GPRL, k = 2",
    "four_axes": "GPRL, k = 4",
    "uniform_weighting": "GPRL, uniform eigenvalues",
    "matched_scale": "GPRL, matched advantage scale",
    "no_normalization": "GPRL, no normalisation",
    "global_normalization": "GPRL, global z-score",
    "distinct_axes": "GPRL, distinct axes",
    "distinct_no_drift": "GPRL, distinct axes, no controller",
    "distinct_grpo": "GRPO + GPM, distinct axes",
    "gold_reward": "GRPO + gold (ceiling)",
    "gprl": "GPRL, full",
    "rloo": "RLOO",
    "reinforce_pp": "REINFORCE++",
    "dr_grpo": "Dr. GRPO",
    "dapo": "DAPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "lampo": "LamPO",
    "vpo": "VPO",
    "max_min": "Worst of the axes",
    "constrained": "Constrained proxy",
    "dpo": "DPO",
    "ipo": "IPO",
    "simpo": "SimPO",
    "online_dpo": "Online DPO",
    "sppo": "SPPO",
    "gpo": "GPO",
}


@dataclass(frozen=True)
class Claim:
    """That one arm ends with more gold than another.

    Attributes:
        arm, against: of the grid.
        says: the claim, in words.
        paper: the paper's figure, in points; empty where it reports none that we know of.
    """

    arm: str
    against: str
    says: str
    paper: str = ""


CLAIMS = (
    Claim(
        FULL, BASELINE, "GPRL resists over-optimisation better than GRPO + BT",
        f"+14.6 (56.51, abstract, less 41.92, {SECOND_HAND})",
    ),
    Claim(
        FULL, "no_drift", "the controller helps",
        f"+3.67 at epoch 3, +8.7 to +10.9 at epoch 5 ({SECOND_HAND})",
    ),
    Claim(
        FULL, "global_normalization", "one z-score per axis beats one in all, with the controller",
        f"≈ +4 ({SECOND_HAND})",
    ),
    Claim(
        "no_drift", "grpo_gpm", "one z-score per axis beats one in all, without the controller",
        f"≈ +4 ({SECOND_HAND})",
    ),
    Claim(FULL, "single_axis", "three axes beat one", f"+12.3 (44.21 to 56.51, {SECOND_HAND})"),
    Claim(FULL, "two_axes", "three axes beat two", f"between 0 and +12.3 ({SECOND_HAND})"),
    Claim("grpo_gpm", BASELINE, "the GPM itself is the better reward"),
    Claim(FULL, "grpo_bt_replayed", "the monitor is worth more than its extra KL penalty"),
    Claim("grpo_bt_replayed", BASELINE, "the extra KL penalty alone helps"),
    Claim(FULL, "kl_only", "moving the axis multipliers adds to moving β"),
    Claim(FULL, "reweight_only", "moving β adds to moving the axis multipliers"),
    Claim(FULL, "uniform_weighting", "the prompt's eigenvalues help"),
    Claim(FULL, "no_normalization", "normalising helps"),
    Claim(FULL, "gdpo_gpm", "GPRL beats GDPO on the same axes"),
    Claim("matched_scale", BASELINE, "GPRL is ahead with steps of matched size, too"),
    Claim("surprise_monitor", FULL, "the surprise monitor beats the paper's (ours)"),
    Claim("surprise_monitor", BASELINE, "GPRL with the surprise monitor beats GRPO + BT (ours)"),
    Claim("surprise_monitor", "grpo_bt_surprise", "GPRL beats GRPO + BT with that monitor on both"),
    Claim("grpo_bt_surprise", BASELINE, "the surprise monitor helps GRPO + BT (ours)"),
    Claim("firm_controller", FULL, "a firmer hand on β helps the paper's monitor (ours)"),
    Claim("firm_surprise", BASELINE, "GPRL with the firm surprise monitor beats GRPO + BT (ours)"),
    Claim("firm_surprise", "firm_controller", "the surprise beats the paper's statistic (ours)"),
    Claim("firm_surprise", "grpo_bt_firm_surprise", "GPRL beats GRPO + BT, both held firmly"),
    Claim("grpo_bt_firm_surprise", BASELINE, "the firm surprise monitor helps GRPO + BT (ours)"),
    Claim("anchored_guard", FULL, "the anchored guard helps (ours)"),
    Claim("floored_std", FULL, "a floor under the z-score's std helps (ours)"),
    Claim("grpo_bt_bounded", BASELINE, "bounded scores help GRPO + BT (ours)"),
    Claim("distinct_axes", FULL, "distinct axes help GPRL (ours)"),
    Claim("distinct_axes", BASELINE, "GPRL on distinct axes beats GRPO + BT (ours)"),
    Claim("distinct_axes", "distinct_no_drift", "the controller helps where axes are distinct"),
    Claim(
        "distinct_no_drift", "distinct_grpo",
        "one z-score per axis beats one in all where axes are distinct",
    ),
    Claim("gold_reward", BASELINE, "a perfect reward beats a learned one (sanity check)"),
)  # fmt: skip


def name_of(arm: str) -> str:
    """Return what the page calls an arm, with the other overrides that its grid goes over."""
    preset, _, setting = arm.partition(" ")
    name = NAMES.get(preset, preset)
    return f"{name}, {setting}" if setting else name


def claims_for(arms: Sequence[str]) -> list[Claim]:
    """Return the claims that the arms allow to test, in each setting that the grid goes over;
    then every arm against GRPO + BT, and full against every arm, where no claim has the pair
    yet. Of a grid with neither, each against its first."""
    settings = dict.fromkeys(arm.partition(" ")[1] + arm.partition(" ")[2] for arm in arms)
    claims = [
        replace(c, arm=c.arm + s, against=c.against + s, says=c.says + s.replace(" ", ", "))
        for c in CLAIMS
        for s in settings
    ]
    found = [c for c in claims if c.arm in arms and c.against in arms]
    pairs = {(c.arm, c.against) for c in found} | {(c.against, c.arm) for c in found}
    for setting in settings:
        full, base = FULL + setting, BASELINE + setting
        same = [arm for arm in arms if arm.endswith(setting)] if setting else list(arms)
        if full not in arms and base not in arms:
            full, base = "", same[0]
        more = [(arm, base) for arm in same if base in arms]
        more += [(full, arm) for arm in same if full in arms]
        for arm, against in more:
            if arm != against and (arm, against) not in pairs:
                pairs |= {(arm, against), (against, arm)}
                found.append(Claim(arm, against, f"{name_of(arm)} beats {name_of(against)}"))
    return found
