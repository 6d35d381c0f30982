"""What is usual: bounds that one bad night does not move, and that growth does not break."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kundenkreis.quality import limits
from kundenkreis.quality.bounds import (
    CRITICAL,
    Bounds,
    History,
    Tolerance,
    count_bounds,
    usual,
    weekday_bounds,
)


def test_a_calm_history_allows_a_quiet_day_and_no_lost_one() -> None:
    found = count_bounds([500.0] * 14, CRITICAL)
    assert found.usual == pytest.approx(500)
    # 22 % of 500 are 111; once in ten thousand such days there are fewer than 74.
    assert found.least == 74
    # At least 500 times e to the power of 1.5, and chance.
    assert found.most is not None
    assert 2_244 < found.most < 2_600


@pytest.mark.parametrize(
    ("usual_rows", "least"), [(10, None), (20, None), (39, None), (45, 1), (100, 7), (10_000, 2054)]
)
def test_the_lower_bound_of_shops_of_all_sizes(usual_rows: int, least: int | None) -> None:
    assert count_bounds([float(usual_rows)] * 14, CRITICAL).least == least


@given(st.floats(0, 3_000), st.sampled_from([0.01, 0.0001]))
def test_quantiles_are_those_of_scipy(mean: float, chance: float) -> None:
    from scipy.stats import poisson

    tolerance = Tolerance(0, chance)
    found = count_bounds([mean], tolerance).least or 0
    exact = int(poisson.ppf(chance, mean)) if mean > 0 else 0
    assert abs(found - exact) <= (0 if mean < 400 else 3)


@given(st.lists(st.integers(460, 540), min_size=8, max_size=14), st.integers(0, 100_000))
def test_one_bad_night_moves_no_bound_of_a_calm_shop_far(history: list[int], bad: int) -> None:
    before = count_bounds([float(value) for value in history], CRITICAL)
    after = count_bounds([float(value) for value in [*history, bad]], CRITICAL)
    assert before.least is not None
    assert after.least is not None
    assert 0.75 * before.least <= after.least <= 1.3 * before.least


# Half of the nights on either side: the median jumps from between them to one of them, the MAD from
# half their distance to the whole.
@example([400, 400, 400, 400, 490, 490, 490, 490], 0)
@given(st.lists(st.integers(400, 600), min_size=8, max_size=14), st.integers(0, 100_000))
def test_however_bad_a_night_only_the_good_ones_say_how_far(history: list[int], bad: int) -> None:
    after = count_bounds([float(value) for value in [*history, bad]], CRITICAL)
    fewest, most = float(min(history)), float(max(history))
    # No deviation is larger than one of all good nights, and none smaller than is always allowed.
    widest = max(1.4826 * math.log((most + 1) / (fewest + 1)) / limits.LEAST_DEVIATION, 1)
    lowest = count_bounds([fewest], Tolerance(CRITICAL.deviations * widest, CRITICAL.chance))
    highest = count_bounds([most], CRITICAL)
    assert (lowest.least or 0) <= (after.least or 0) <= (highest.least or 0)
    assert after.most is not None
    assert fewest <= after.usual + 0.5
    assert after.usual - 0.5 <= most


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
    old = weekday_bounds(History((60.0,) * 4, (60.0,) * 14), CRITICAL)
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
