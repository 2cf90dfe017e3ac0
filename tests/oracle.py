"""The method once more, in float64 and plain loops, from the specification and not the package.

Everything is a float or a nested list. A group is a list of responses, a response a list of 2k
entries; scores are ``[response][axis]``, batches of groups ``[group][response][axis]``. Slow and
literal on purpose: where the package uses a closed form, this file uses the definition.

Conventions that the method leaves open, as read here: std is the population's (divided by n); a
z-score is (s - mean) / (std + epsilon); whitening and matching use the std over all responses of a
batch. METHOD §3 stands in `tests.oracle_drift`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Row = Sequence[float]
Grid = Sequence[Sequence[float]]


def mean(values: Row) -> float:
    return math.fsum(values) / len(values)


def std(values: Row) -> float:
    center = mean(values)
    return math.sqrt(mean([(value - center) ** 2 for value in values]))


def zscore(values: Row, epsilon: float, least: float = 0.0) -> list[float]:
    center, spread = mean(values), max(std(values), least)
    return [(value - center) / (spread + epsilon) for value in values]


def column(rows: Grid, index: int) -> list[float]:
    return [row[index] for row in rows]


# ---- §1: the preference model -------------------------------------------------------------------


def pairwise_score(first: Row, second: Row, axis: int) -> float:
    """s_l(i, j) = v_i[2l] v_j[2l+1] - v_i[2l+1] v_j[2l]."""
    return first[2 * axis] * second[2 * axis + 1] - first[2 * axis + 1] * second[2 * axis]


def total_score(first: Row, second: Row, eigenvalues: Row) -> float:
    """s(i > j | x) = sum_l lambda_l s_l(i, j)."""
    return sum(
        value * pairwise_score(first, second, axis) for axis, value in enumerate(eigenvalues)
    )


def win_probability(score: float, tau: float) -> float:
    return 1.0 / (1.0 + math.exp(-score / tau))


def softmax(logits: Row) -> list[float]:
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def eigenvalues(prompt_head: Grid, state: Row, scale: str) -> list[float]:
    """lambda(x) from the prompt head's weight [k][hidden] and the prompt's state [hidden]."""
    logits = [sum(w * h for w, h in zip(row, state, strict=True)) for row in prompt_head]
    if scale == "simplex":
        return softmax(logits)
    return [len(logits) * p for p in softmax([z / math.sqrt(len(state)) for z in logits])]


# ---- §2: scores and advantages ------------------------------------------------------------------


def group_scores(group: Grid) -> list[list[float]]:
    """The mean score of each response against the G - 1 others, per axis: the O(G^2) definition."""
    result = []
    for i, response in enumerate(group):
        others = [other for j, other in enumerate(group) if j != i]
        axes = range(len(response) // 2)
        result.append([mean([pairwise_score(response, o, axis) for o in others]) for axis in axes])
    return result


def bounded_group_scores(group: Grid, tau: float) -> list[list[float]]:
    """The mean chance of beating each of the others on an axis, less one half."""
    result = []
    for i, response in enumerate(group):
        others = [other for j, other in enumerate(group) if j != i]
        chances = [
            [win_probability(pairwise_score(response, o, axis), tau) for o in others]
            for axis in range(len(response) // 2)
        ]
        result.append([mean(row) - 0.5 for row in chances])
    return result


def axis_stds(scores: Grid) -> list[float]:
    return [std(column(scores, axis)) for axis in range(len(scores[0]))]


def axis_mask(stds: Row, running: Row, fraction: float) -> list[bool]:
    """True where the axis is kept."""
    return [s > 0 and s >= fraction * r for s, r in zip(stds, running, strict=True)]


def axis_advantages(
    scores: Grid,
    normalization: str,
    keep: Sequence[bool],
    epsilon: float,
    least: Row | None = None,
) -> Grid:
    columns = []
    for axis, kept in enumerate(keep):
        values = column(scores, axis)
        if normalization in ("per_axis", "per_axis_whitened"):
            values = zscore(values, epsilon, least[axis] if least else 0.0)
        columns.append(values if kept else [0.0] * len(values))
    return [list(row) for row in zip(*columns, strict=True)]


def aggregate(
    batch: Sequence[Grid],
    eigenvalues: Grid,
    multipliers: Row,
    normalization: str,
    weighting: str,
    scale: str,
    epsilon: float,
) -> list[list[float]]:
    """Advantages [group][response] from axis advantages [group][response][axis]."""
    axes = range(len(multipliers))
    result = []
    for rows, gate in zip(batch, eigenvalues, strict=True):
        uniform, unit = [mean(gate) for _ in axes], [1.0 for _ in axes]
        weights = {"eigenvalue": gate, "uniform": uniform, "unit": unit}[weighting]
        sums = [sum(weights[a] * multipliers[a] * row[a] for a in axes) for row in rows]
        result.append(zscore(sums, epsilon) if normalization == "global" else sums)
    flat = [value for group in result for value in group]
    if normalization == "per_axis_whitened":
        center, spread = mean(flat), std(flat)
        result = [[(value - center) / (spread + epsilon) for value in group] for group in result]
        flat = [value for group in result for value in group]
    if scale == "matched":
        spread = std(flat)
        result = [[value / (spread + epsilon) for value in group] for group in result]
    return result


def advantages(
    batch: Sequence[Grid],
    eigenvalues: Grid,
    multipliers: Row,
    normalization: str = "per_axis",
    weighting: str = "eigenvalue",
    scale: str = "paper",
    epsilon: float = 1e-4,
    keep: Sequence[Sequence[bool]] | None = None,
) -> list[list[float]]:
    """Advantages [group][response] from group scores [group][response][axis]."""
    kept = keep or [[True] * len(multipliers)] * len(batch)
    rows = [
        axis_advantages(scores, normalization, k, epsilon)
        for scores, k in zip(batch, kept, strict=True)
    ]
    return aggregate(rows, eigenvalues, multipliers, normalization, weighting, scale, epsilon)


def axis_correlation(batch: Sequence[Grid]) -> float:
    """Mean over pairs of axes of Pearson's correlation of group-centred scores over responses."""
    axes = len(batch[0][0])
    centred: list[list[float]] = [[] for _ in range(axes)]
    for scores in batch:
        for axis in range(axes):
            values = column(scores, axis)
            centred[axis] += [value - mean(values) for value in values]
    pairs = []
    for a in range(axes):
        for b in range(a + 1, axes):
            product = std(centred[a]) * std(centred[b])
            covariance = mean([x * y for x, y in zip(centred[a], centred[b], strict=True)])
            pairs.append(covariance / product if product > 0 else 0.0)
    return mean(pairs) if pairs else 0.0


# ---- §2: the loss -------------------------------------------------------------------------------


def surrogate(new: float, old: float, advantage: float, low: float, high: float) -> float:
    """-min(r A, clip(r, 1 - low, 1 + high) A) of one token."""
    ratio = math.exp(new - old)
    clipped = min(max(ratio, 1 - low), 1 + high)
    return -min(ratio * advantage, clipped * advantage)


def sequence_surrogate(new: Row, old: Row, advantage: float, low: float, high: float) -> float:
    """GSPO, arXiv 2507.18071, equations 5 and 7: -min(s A, clip(s) A), s the geometric mean of the
    tokens' ratios."""
    log_ratio = mean([a - b for a, b in zip(new, old, strict=True)])
    ratio = math.exp(log_ratio)
    return -min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


def cispo_term(new: float, old: float, advantage: float, high: float, held: float) -> float:
    """CISPO, arXiv 2506.13585, equations 4 and 5: -sg(min(r, 1 + high)) A log pi; the ratio is that
    of `held`, which stands still as `new` moves."""
    return -min(math.exp(held - old), 1 + high) * advantage * new


def kl(new: float, ref: float, estimator: str) -> float:
    if estimator == "k1":
        return new - ref
    if estimator == "k2":
        return 0.5 * (new - ref) ** 2
    return math.exp(ref - new) - (ref - new) - 1.0


def token_weight(aggregation: str, lengths: Sequence[int], row: int, max_tokens: int) -> float:
    """The weight of each real token of a row; `lengths` are those of the whole minibatch."""
    if aggregation == "dr_grpo":
        return 1.0 / (len(lengths) * max_tokens)
    if aggregation == "dapo":
        return 1.0 / sum(lengths)
    return 1.0 / (len(lengths) * lengths[row])


def importance_weights(
    old: Grid, sampled: Grid, mode: str, level: str, low: float, high: float
) -> list[list[float]]:
    """METHOD §2a: the weight of each token's policy term, over ragged rows."""
    out = []
    for ours, theirs in zip(old, sampled, strict=True):
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        if level == "sequence":
            gaps = [math.fsum(gaps)] * len(gaps)
        row = []
        for gap in gaps:
            ratio = math.exp(gap)
            if mode == "none":
                row.append(1.0)
            elif mode == "truncate":
                row.append(min(max(ratio, low), high))
            else:
                row.append(ratio if low <= ratio <= high else 0.0)
        out.append(row)
    return out


def full_loss(
    new: Grid,
    old: Grid,
    ref: Grid,
    advantage: Row,
    aggregation: str = "dr_grpo",
    clip: tuple[float, float] = (0.2, 0.2),
    kl_coef: float = 0.02,
    estimator: str = "k3",
    max_tokens: int = 8,
) -> float:
    """Surrogate plus KL penalty over ragged rows of per-token log-probabilities."""
    lengths = [len(row) for row in new]
    loss = 0.0
    for row, tokens in enumerate(new):
        for t, value in enumerate(tokens):
            token = surrogate(value, old[row][t], advantage[row], *clip)
            token += kl_coef * kl(value, ref[row][t], estimator)
            loss += token_weight(aggregation, lengths, row, max_tokens) * token
    return loss


def bigram_logprobs(logits: Grid, responses: Sequence[Sequence[int]]) -> list[list[float]]:
    """A policy in a table: logits [previous token][next token]; a response starts after 0."""
    table = [[math.log(p) for p in softmax(row)] for row in logits]
    return [[table[a][b] for a, b in zip([0, *r[:-1]], r, strict=True)] for r in responses]


def gradient(function: Callable[[list[float]], float], point: Row, step: float = 1e-3) -> Row:
    """Five-point finite differences, wrong by O(step^4)."""
    result = []
    for i in range(len(point)):

        def at(shift: float, i: int = i) -> float:
            return function([x + shift * (j == i) for j, x in enumerate(point)])

        inner, outer = at(step) - at(-step), at(2 * step) - at(-2 * step)
        result.append((8 * inner - outer) / (12 * step))
    return result
