"""The lifecycle of one person, day by day, written from the rules and not from the SQL.

Every function here asks "which stage holds on this day?" and knows nothing of intervals: those come
out by comparing neighbouring days. Slow and plain on purpose.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise


@dataclass(frozen=True)
class Rules:
    """The dbt variables of the lifecycle; all in days or order days."""

    gap_window_orders: int = 5
    default_gap_days: int = 60
    min_gap_days: int = 14
    max_gap_days: int = 180
    at_risk_factor: Fraction = Fraction(2)
    churn_factor: Fraction = Fraction(4)
    new_customer_days: int = 30
    reactivated_days: int = 30
    loyalty_min_orders: int = 5
    loyalty_window_days: int = 365
    retention_min_orders: int = 3
    dormant_lead_days: int = 365


@dataclass(frozen=True)
class Person:
    """What is known of one person: the first day, days with a sign of interest, order days."""

    known_on: date
    signs: frozenset[date]
    orders: frozenset[date]

    @property
    def first_day(self) -> date:
        """The day the person is known from."""
        return min({self.known_on, *self.signs, *self.orders})


Stay = tuple[str, date, date | None]


def expected_gap(order_days: Sequence[date], rules: Rules) -> Fraction:
    """The expected gap after the last of these order days (rising), in days."""
    gaps = [(later - earlier).days for earlier, later in pairwise(order_days)]
    window = gaps[-rules.gap_window_orders :]
    gap = (
        Fraction(statistics.median([Fraction(gap) for gap in window]))
        if len(window) >= 2
        else Fraction(rules.default_gap_days)
    )
    return min(max(gap, Fraction(rules.min_gap_days)), Fraction(rules.max_gap_days))


def stage_on(day: date, person: Person, rules: Rules) -> str:
    """The stage that holds on a day on which the person is known."""
    orders = sorted(order for order in person.orders if order <= day)
    if orders:
        return _stage_of_buyer(day, orders, rules)
    signs = [sign for sign in person.signs if sign <= day]
    last_news = max(signs, default=person.first_day)
    if (day - last_news).days >= rules.dormant_lead_days:
        return "dormant_lead"
    return "acquisition" if signs else "reach"


def _stage_of_buyer(day: date, orders: Sequence[date], rules: Rules) -> str:
    since_last = (day - orders[-1]).days
    gap = expected_gap(orders, rules)
    if since_last >= math.ceil(rules.churn_factor * gap):
        return "churned"
    if since_last >= math.ceil(rules.at_risk_factor * gap):
        return "at_risk"
    if len(orders) == 1 and since_last < rules.new_customer_days:
        return "conversion"
    if len(orders) > 1 and since_last < rules.reactivated_days:
        gap_before = expected_gap(orders[:-1], rules)
        if (orders[-1] - orders[-2]).days >= math.ceil(rules.churn_factor * gap_before):
            return "reactivated"
    window_begins = orders[-1] - timedelta(days=rules.loyalty_window_days)
    if sum(order > window_begins for order in orders) >= rules.loyalty_min_orders:
        return "loyalty"
    return "retention" if len(orders) >= rules.retention_min_orders else "development"


def stays(person: Person, last_day: date, rules: Rules) -> list[Stay]:
    """The stays (stage, from, to) up to the last day; the last one is open (to is None)."""
    result: list[Stay] = []
    day = person.first_day
    while day <= last_day:
        stage = stage_on(day, person, rules)
        if not result or result[-1][0] != stage:
            if result:
                result[-1] = (result[-1][0], result[-1][1], day)
            result.append((stage, day, None))
        day += timedelta(days=1)
    return result
