"""What is usual: bounds that one bad night does not move, and that growth does not break."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kundenkreis.quality import limits
from kundenkreis.quality.bounds import Bounds, History, count_bounds, usual, weekday_bounds

CRITICAL = limits.CRITICAL_DEVIATIONS


def test_a_calm_history_allows_a_quiet_day_and_no_lost_one() -> None:
    found = count_bounds([500.0] * 14, CRITICAL)
    assert found.usual == pytest.approx(500)
    # Six times a quarter on a logarithmic scale.
    assert found.least == math.floor(501 * math.exp(-1.5) - 1) == 110
    assert found.most == math.ceil(501 * math.exp(1.5) - 1)


@given(st.lists(st.integers(400, 600), min_size=8, max_size=14), st.integers(0, 100_000))
def test_one_bad_night_moves_no_bound_far(history: list[int], bad: int) -> None:
    before = count_bounds([float(value) for value in history], CRITICAL)
    after = count_bounds([float(value) for value in [*history, bad]], CRITICAL)
    assert before.least is not None
    assert after.least is not None
    assert 0.7 * before.least <= after.least <= 1.4 * before.least


@pytest.mark.parametrize("orders", [0, 1, 2, 5, 10])
def test_a_shop_of_a_few_orders_has_no_lower_bound(orders: int) -> None:
    found = count_bounds([float(orders)] * 14, CRITICAL)
    assert found.least is None
    assert found.most is not None
    assert found.most >= 3


@given(
    st.integers(0, 10_000),
    st.floats(0.5, 2_000),
    st.floats(-0.1, 0.2),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_growing_shops_with_weekdays_of_their_own_are_never_stopped(
    seed: int, level: float, weekly_growth: float, sunday: float
) -> None:
    chance = random.Random(seed)

    def orders(week: int, weekday: int) -> float:
        mean = level * math.exp(weekly_growth * week) * (sunday if weekday == 6 else 1.0)
        return max(0.0, round(chance.gauss(mean, math.sqrt(mean))))

    for weekday in (2, 6):
        weeks = [orders(week, weekday) for week in range(15)]
        found = weekday_bounds(History(tuple(weeks[:0:-1]), ()), CRITICAL)
        assert found is not None
        assert found.least is None or weeks[-1] >= found.least


def test_while_a_weekday_is_young_there_is_no_lower_bound() -> None:
    assert weekday_bounds(History((30.0,) * 3, (30.0,) * 6), CRITICAL) is None
    young = weekday_bounds(History((30.0,) * 3, (30.0,) * 7), CRITICAL)
    assert young is not None
    assert (young.least, young.runs) == (None, 7)
    old = weekday_bounds(History((30.0,) * 4, (30.0,) * 14), CRITICAL)
    assert old is not None
    assert old.least is not None


def test_a_median_needs_some_values() -> None:
    assert usual([1.0, 2.0]) is None
    assert usual([1.0, 2.0, 300.0]) == 2.0
    assert usual([4.0], fewest=1) == 4.0


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        (Bounds(110, None, 500, 14), "at least 110 rows (usual: 500, of 14 runs)"),
        (Bounds(None, 0.35, 0.1, 3), "at most 0.35 rows (usual: 0.1, of 3 runs)"),
        (Bounds(4.0, 1234.5, 40, 5), "4 to 1,234 rows (usual: 40, of 5 runs)"),
        (Bounds(None, None, 40, 5), "any rows (usual: 40, of 5 runs)"),
    ],
)
def test_bounds_are_told_in_words(bounds: Bounds, words: str) -> None:
    assert bounds.in_words("rows") == words
