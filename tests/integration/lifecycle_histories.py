"""Generated histories of persons and generated rules, around every boundary of the lifecycle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, timedelta
from fractions import Fraction

from hypothesis import strategies as st

from tests.integration.lifecycle_reference import Person, Rules, expected_gap

FIRST_DAY = date(2023, 1, 1)
AS_OF = date(2025, 12, 31)
HORIZON = AS_OF + timedelta(days=1000)

# At the boundary, the day before and the day after.
_BESIDE = (-1, 0, 1)


@st.composite
def persons(draw: st.DrawFn, rules: Rules) -> Person:
    """Histories up to `AS_OF`: short rhythms that clamp, long silences, and the rules' boundaries.

    A third of all gaps end right before, at or right after the day on which something would change.
    """
    known_on = draw(st.dates(FIRST_DAY, FIRST_DAY + timedelta(days=300)))
    signs: list[date] = []
    for _ in range(draw(st.integers(0, 4))):
        last = signs[-1] if signs else known_on
        signs.append(last + timedelta(days=_gap(draw, [rules.dormant_lead_days])))
    orders: list[date] = []
    interest = draw(st.sampled_from([known_on, *signs]))
    for _ in range(draw(st.sampled_from([1, 2, 4, 6, 8, 10, 14, 0]))):
        boundaries = _boundaries(orders, rules) if orders else [rules.dormant_lead_days]
        last = orders[-1] if orders else interest
        orders.append(last + timedelta(days=_gap(draw, boundaries)))
        orders = sorted({order for order in orders if order <= AS_OF})
    # Somebody may be listed long after the first order.
    listed_on = draw(st.one_of(st.just(known_on), st.dates(known_on, AS_OF)))
    return Person(listed_on, frozenset(sign for sign in signs if sign <= AS_OF), frozenset(orders))


def _gap(draw: st.DrawFn, boundaries: Sequence[int]) -> int:
    beside = [max(day + offset, 0) for day in boundaries for offset in _BESIDE]
    return draw(st.one_of(st.integers(0, 40), st.sampled_from(beside), st.integers(0, 800)))


def _boundaries(orders: Sequence[date], rules: Rules) -> list[int]:
    """Days after the last order on which a stage would change, or another order would count."""
    gap = expected_gap(orders, rules)
    entry_days = rules.new_customer_days if len(orders) == 1 else rules.reactivated_days
    boundaries = [
        entry_days,
        math.ceil(rules.at_risk_factor * gap),
        math.ceil(rules.churn_factor * gap),
    ]
    if len(orders) >= rules.loyalty_min_orders - 1:
        oldest = orders[1 - rules.loyalty_min_orders]
        left = rules.loyalty_window_days - (orders[-1] - oldest).days
        return [*boundaries, left, left] if left > 0 else boundaries
    return boundaries


# Also rules under which losing a customer comes before the end of the entry stage, or being at risk
# does not come at all.
_FACTORS = st.fractions(Fraction(1, 2), 5, max_denominator=4)
RULES = st.builds(
    Rules,
    gap_window_orders=st.integers(2, 5),
    default_gap_days=st.integers(1, 120),
    min_gap_days=st.integers(1, 30),
    max_gap_days=st.integers(30, 240),
    at_risk_factor=_FACTORS,
    churn_factor=_FACTORS,
    new_customer_days=st.integers(0, 90),
    reactivated_days=st.integers(0, 90),
    loyalty_min_orders=st.integers(2, 6),
    loyalty_window_days=st.integers(1, 400),
    retention_min_orders=st.integers(2, 4),
    dormant_lead_days=st.integers(1, 400),
)
