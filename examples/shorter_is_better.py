"""A judge of one's own: of two answers the one with fewer words is better.

python train.py evaluation.judge=none +evaluation.judges.shorter._target_=examples.shorter_is_better.ShorterIsBetter
"""  # noqa: E501

from collections.abc import Sequence

from gprl_lightning.core.batch import Prompt


class ShorterIsBetter:
    """Counts words; says nothing where an answer is empty."""

    def prefer(
        self, prompts: Sequence[Prompt], responses: Sequence[str], others: Sequence[str]
    ) -> list[float | None]:
        """Return 1 if the response is shorter, 0 if longer, 0.5 on a tie, None if one is empty."""
        return [_verdict(a, b) for a, b in zip(responses, others, strict=True)]

    def axes(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> dict[str, list[float]]:
        """Return each response's words, which are logged as ``eval/<name>/words``."""
        return {"words": [float(len(text.split())) for text in responses]}


def _verdict(response: str, other: str) -> float | None:
    ours, theirs = len(response.split()), len(other.split())
    if not ours or not theirs:
        return None
    return float(ours < theirs) + 0.5 * (ours == theirs)
