"""An advantage rule of one's own: ranks in the place of z-scores.

python train.py --config-dir examples/conf algorithm/advantage=rank
"""

from gprl_lightning.core.advantage_rule import Advantages, AllReduce, ScoredGroups, State


def rank_advantages(groups: ScoredGroups, state: State, all_reduce: AllReduce) -> Advantages:
    """On each axis, the share of the group that a response beats, less the share that beats it."""
    scores = groups.scores()
    ahead = (scores[:, :, None] - scores[:, None]).sign().sum(2)  # groups, size, axes
    by_axis = ahead / (scores.shape[1] - 1)
    advantages = (by_axis * groups.weights()[:, None]).sum(-1)
    return Advantages(scores, by_axis, advantages, state)
