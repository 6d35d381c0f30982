"""The lifecycle of one person, written twice from the rules and not from the SQL.

`stays` asks "which stage holds on this day?" of every day and knows nothing of intervals: those
come out by comparing neighbouring days. Slow and plain on purpose. `schedule` asks it only of days
on which something can change, quickly enough for every customer of a real shop.
``tests/unit/test_lifecycle_reference.py`` compares the two on generated histories.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
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
Step = tuple[str, date]


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


# The same, evaluated only where something can change.


def schedule(person: Person, rules: Rules) -> list[Step]:
    """The stages (stage, from) that are entered one after another if nothing more happens."""
    steps: list[Step] = []
    orders = sorted(person.orders)
    for stage, day in (*_before_orders(person, orders, rules), *_after_orders(orders, rules)):
        if not steps or steps[-1][0] != stage:
            steps.append((stage, day))
    return steps


def stays_until(last_day: date, steps: Sequence[Step]) -> list[Stay]:
    """The stays (stage, from, to) that a schedule holds up to the last day, as `stays` does."""
    happened = [step for step in steps if step[1] <= last_day]
    ends = [*(day for _, day in happened), None][1:]
    return [(stage, day, end) for (stage, day), end in zip(happened, ends, strict=True)]


def _before_orders(person: Person, orders: Sequence[date], rules: Rules) -> Iterator[Step]:
    end = orders[0] if orders else date.max
    news = sorted(day for day in {person.first_day, *person.signs} if day < end)
    for day, following in pairwise([*news, end]):
        # The first day is the only one that need not be a sign, and none comes before it.
        yield ("acquisition" if day in person.signs else "reach"), day
        if following - day > timedelta(days=rules.dormant_lead_days):
            yield "dormant_lead", day + timedelta(days=rules.dormant_lead_days)


def _after_orders(orders: Sequence[date], rules: Rules) -> Iterator[Step]:
    gaps = [(later - earlier).days for earlier, later in pairwise(orders)]
    churned_after = 0
    for number, order in enumerate(orders):
        is_reactivated = number > 0 and gaps[number - 1] >= churned_after
        gap = _median_gap(gaps[max(number - rules.gap_window_orders, 0) : number], rules)
        at_risk_after = math.ceil(rules.at_risk_factor * gap)
        churned_after = math.ceil(rules.churn_factor * gap)
        entry_days = _entry_days(number, is_reactivated, rules)
        for since in sorted({0, entry_days, at_risk_after, churned_after}):
            if number < len(gaps) and since >= gaps[number]:
                break
            if since >= churned_after:
                stage = "churned"
            elif since >= at_risk_after:
                stage = "at_risk"
            elif since < entry_days:
                stage = "reactivated" if is_reactivated else "conversion"
            else:
                stage = _base_stage(orders, number, rules)
            yield stage, order + timedelta(days=since)


def _median_gap(gaps: Sequence[int], rules: Rules) -> Fraction:
    usual = Fraction(statistics.median(gaps)) if len(gaps) > 1 else Fraction(rules.default_gap_days)
    return sorted([Fraction(rules.min_gap_days), usual, Fraction(rules.max_gap_days)])[1]


def _entry_days(number: int, is_reactivated: bool, rules: Rules) -> int:
    if number == 0:
        return rules.new_customer_days
    return rules.reactivated_days if is_reactivated else 0


def _base_stage(orders: Sequence[date], number: int, rules: Rules) -> str:
    oldest = number + 1 - rules.loyalty_min_orders
    if oldest >= 0 and (orders[number] - orders[oldest]).days < rules.loyalty_window_days:
        return "loyalty"
    return "retention" if number + 1 >= rules.retention_min_orders else "development"
