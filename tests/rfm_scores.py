"""What must hold of RFM scores in every shop, whatever their cut points."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from statistics import mean

DIMENSIONS = ("recency", "frequency", "monetary")

# Of one buyer: recency_days, frequency, monetary, r_score, f_score, m_score.
Scored = tuple[int, int, Decimal, int, int, int]


def assert_scores_follow_values(buyers: Iterable[Scored]) -> None:
    """Equal values score equally, a better value never worse, and so the mean rises by score."""
    buyers = list(buyers)
    for position, dimension in enumerate(DIMENSIONS):
        score_of: dict[Decimal, int] = {}
        values_of: dict[int, list[Decimal]] = defaultdict(list)
        for buyer in buyers:
            value, score = Decimal(str(buyer[position])), int(buyer[position + 3])
            # The fewer days since the last order, the better.
            value = -value if dimension == "recency" else value
            assert score_of.setdefault(value, score) == score, f"{dimension} {value}: two scores"
            values_of[score].append(value)
        assert set(values_of) <= {1, 2, 3, 4, 5}, dimension
        assert len(values_of) >= 3, f"{dimension}: too few scores to prove anything"
        by_value = [score for _, score in sorted(score_of.items())]
        assert by_value == sorted(by_value), f"{dimension}: a better value scores worse"
        means = [mean(values) for _, values in sorted(values_of.items())]
        assert all(worse < better for worse, better in pairwise(means)), (
            f"{dimension}: the mean does not rise with the score: {means}"
        )
