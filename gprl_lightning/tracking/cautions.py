"""What in a run's metrics says that its win rate should not be believed yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gprl_lightning.tracking import metrics

WINDOW = 5  # iterations that a caution looks back
KL_BOUND = 0.5  # nats per token; text has turned to babble at 2
ALL = 1 - 1e-9
MOST = 0.5
WATCHED = (
    metrics.KL,
    metrics.TRUNCATED_FRACTION,
    metrics.NO_SIGNAL_FRACTION,
    metrics.REWARD_CUT_FRACTION,
)


def result_cautions(history: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """Return a sentence by the name of each metric that is out of bounds. Bounds are ours.

    Args:
        history: values by metric and iteration, the newest last; the last `WINDOW` are read.
    """
    found: dict[str, str] = {}
    recent = {name: list(values)[-WINDOW:] for name, values in history.items() if len(values)}
    means = {name: sum(values) / len(values) for name, values in recent.items()}
    kl = means.get(metrics.KL, 0.0)
    if kl > KL_BOUND:
        found[metrics.KL] = (
            f"KL to the starting policy is {kl:.2f} nats per token, beyond {KL_BOUND}: read the "
            "responses before the win rate. Lower optimizer.lr, or raise algorithm.kl_coef."
        )
    if means.get(metrics.TRUNCATED_FRACTION, 0.0) >= ALL:
        found[metrics.TRUNCATED_FRACTION] = (
            "every response was cut at rollout.max_new_tokens: the policy cannot learn to stop. "
            "Raise it, or check the policy's chat template and end-of-sequence token."
        )
    silent = means.get(metrics.NO_SIGNAL_FRACTION, 0.0)
    if silent > MOST:
        found[metrics.NO_SIGNAL_FRACTION] = (
            f"the reward tells no response from another in {silent:.0%} of the groups: they teach "
            "nothing. Check the reward, or raise rollout.temperature or rollout.group_size."
        )
    cut = means.get(metrics.REWARD_CUT_FRACTION, 0.0)
    if cut > 0:
        found[metrics.REWARD_CUT_FRACTION] = (
            f"{cut:.1%} of the texts that the reward read were cut at preference_model.max_tokens: "
            "it judged answers whose end it did not see. Raise it, or lower "
            "rollout.max_new_tokens or data.max_prompt_tokens."
        )
    return found | _of_judges(history)


def _of_judges(history: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """What the last evaluation says against its judges."""
    found: dict[str, str] = {}
    for name, values in history.items():
        metric, _, judge = name.rpartition("/")
        if metric == metrics.EVAL_UNDECIDED and values and values[-1] > MOST:
            found[name] = (
                f"the judge {judge} is near .5 in {values[-1]:.0%} of the comparisons: its win "
                "rate says little. Choose another in evaluation.judge, or evaluate longer answers."
            )
        if metric == metrics.EVAL_CUT_FRACTION and values and values[-1] > 0:
            found[name] = (
                f"{values[-1]:.1%} of the texts that the judge {judge} read were cut at its "
                "max_tokens: it did not see how they end. Raise it, or lower "
                "rollout.max_new_tokens."
            )
    return found
