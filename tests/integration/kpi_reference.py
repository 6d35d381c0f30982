"""The KPI marts computed again in plain Python, from orders, stays, customers and raw spend."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from statistics import median_low
from typing import Any

from tests.integration.dbt_support import query

Rows = dict[Any, Any]
_DAY = timedelta(days=1)


def assert_kpis_match(dsn: str, as_of: date, exchange_rates: dict[str, float]) -> None:
    """Compare every KPI mart of a built colour with its computation here.

    exchange_rates: reporting currency (EUR) per unit of another.
    """
    for name, actual, expected in (
        ("lifecycle_matrix_monthly", *_matrix(dsn, as_of)),
        ("lifecycle_transitions", *_cohort_months(dsn)),
        ("kpi_stage_conversion", *_conversion(dsn)),
        ("kpi_cohort_retention", *_retention(dsn, as_of)),
        ("kpi_acquisition_cost", *_acquisition_cost(dsn, as_of, exchange_rates)),
        ("kpi_daily growth", *_growth(dsn)),
        ("kpi_daily churn_alarm", *_alarms(dsn)),
    ):
        assert actual, f"{name}: nothing to compare"
        assert actual == expected, name
    assert True in _alarms(dsn)[0].values(), "no day with an alarm to compare"


def _month(day: date) -> date:
    return day.replace(day=1)


def _next_month(month: date) -> date:
    return _month(month + timedelta(days=31))


def _months(first: date, last: date) -> list[date]:
    found = [_month(first)]
    while found[-1] < _month(last):
        found.append(_next_month(found[-1]))
    return found


def _rounded(value: Fraction | Decimal | int) -> Decimal:
    exact = Fraction(value)
    quotient = Decimal(exact.numerator) / Decimal(exact.denominator)
    return quotient.quantize(Decimal("0.0001"), ROUND_HALF_UP)


def _stays(dsn: str) -> dict[str, list[tuple[str, date, date | None]]]:
    found = defaultdict(list)
    for customer, *stay in query(
        dsn, "select customer_id, stage, valid_from, valid_to from lifecycle_intervals order by 3"
    ):
        found[customer].append(tuple(stay))
    return found


def _stage_on(stays: list[tuple[str, date, date | None]], day: date) -> str:
    for stage, valid_from, valid_to in stays:
        if valid_from <= day and (valid_to is None or day < valid_to):
            return stage
    return "not_known"


def _matrix(dsn: str, as_of: date) -> tuple[Rows, Rows]:
    stays = _stays(dsn)
    first = min(stay[1] for of_customer in stays.values() for stay in of_customer)
    counts: Counter[Any] = Counter()
    for month in _months(first, as_of):
        last = min(_next_month(month) - _DAY, as_of)
        for of_customer in stays.values():
            before, after = _stage_on(of_customer, month - _DAY), _stage_on(of_customer, last)
            if after != "not_known":
                counts[month, last, before, after] += 1
    expected = {}
    for (month, last, before, after), customers in counts.items():
        everybody = sum(
            count for (m, _, stage, _), count in counts.items() if (m, stage) == (month, before)
        )
        share = _rounded(Fraction(customers, everybody))
        expected[month, last, before, after] = (customers, share)
    return _by_key(dsn, 4, "select * from lifecycle_matrix_monthly"), expected


def _cohort_months(dsn: str) -> tuple[Rows, Rows]:
    first_orders = dict(
        query(dsn, "select customer_id, min(order_date) from orders where is_counted group by 1")
    )
    transitions = query(
        dsn, "select customer_id, changed_on, cohort_month from lifecycle_transitions"
    )
    actual = {(customer, changed_on): month for customer, changed_on, month in transitions}
    return actual, {
        (customer, changed_on): first_orders.get(customer) and _month(first_orders[customer])
        for customer, changed_on in actual
    }


def _conversion(dsn: str) -> tuple[Rows, Rows]:
    entered: dict[Any, set[str]] = defaultdict(set)
    converted: dict[Any, list[int]] = defaultdict(list)
    ways: dict[str, set[str]] = defaultdict(set)
    for customer, stays in _stays(dsn).items():
        for number, (stage, valid_from, valid_to) in enumerate(stays):
            key = (_month(valid_from), stage)
            if customer in entered[key]:
                continue
            entered[key].add(customer)
            if valid_to is not None:
                after = stays[number + 1][0]
                ways[stage].add(after)
                converted[(*key, after)].append((valid_to - valid_from).days)
    expected = {}
    for (month, stage), customers in entered.items():
        for after in ways[stage]:
            days = converted[month, stage, after]
            rate = _rounded(Fraction(len(days), len(customers)))
            middle = median_low(days) if days else None
            expected[month, stage, after] = (len(customers), len(days), rate, middle)
    return _by_key(dsn, 3, "select * from kpi_stage_conversion"), expected


def _retention(dsn: str, as_of: date) -> tuple[Rows, Rows]:
    orders = query(
        dsn,
        "select customer_id, order_date, revenue_after_refunds from orders where is_counted"
        " order by order_date",
    )
    cohort: dict[str, date] = {}
    active: dict[Any, set[str]] = defaultdict(set)
    revenue: dict[Any, Decimal] = defaultdict(Decimal)
    for customer, ordered_on, amount in orders:
        cohort.setdefault(customer, _month(ordered_on))
        active[cohort[customer], _month(ordered_on)].add(customer)
        revenue[cohort[customer], _month(ordered_on)] += amount
    expected = {}
    for begun, customers in Counter(cohort.values()).items():
        so_far = Decimal(0)
        for since, month in enumerate(_months(begun, as_of)):
            so_far += revenue[begun, month]
            expected[begun, since] = (
                *(month, customers, len(active[begun, month])),
                _rounded(Fraction(len(active[begun, month]), customers)),
                *(revenue[begun, month], so_far, _rounded(Fraction(so_far) / customers)),
                _next_month(month) <= as_of + _DAY,
            )
    return _by_key(dsn, 2, "select * from kpi_cohort_retention"), expected


def _acquisition_cost(dsn: str, as_of: date, exchange_rates: dict[str, float]) -> tuple[Rows, Rows]:
    spend: dict[Any, Decimal] = defaultdict(Decimal)
    for source, spent_on, currency, amount in query(
        dsn, "select acquisition_source, spent_on, currency, amount from raw_files.spend"
    ):
        rate = {"EUR": 1, **exchange_rates}.get(currency)
        if rate and spent_on <= as_of:
            spend[_month(spent_on), source.lower()] += _rounded(
                Fraction(amount) * Fraction(str(rate))
            )
    won: dict[Any, list[Decimal]] = defaultdict(list)
    for source, first_order, total in query(
        dsn, "select acquisition_source, first_order_date, revenue_total from customer_360"
    ):
        if first_order and _month(first_order) >= min(spend)[0]:
            won[_month(first_order), (source or "unknown").lower()].append(total)
    expected = {}
    for key in spend.keys() | won.keys():
        cost, totals = spend.get(key, Decimal(0)), won.get(key, [])
        earned = sum(totals, Decimal(0))
        expected[key] = (
            *(cost, len(totals), _rounded(Fraction(cost) / len(totals)) if totals else None),
            *(earned, _rounded(Fraction(earned) / Fraction(cost)) if cost else None),
            _next_month(key[0]) <= as_of + _DAY,
        )
    return _by_key(dsn, 2, "select * from kpi_acquisition_cost"), expected


def _growth(dsn: str) -> tuple[Rows, Rows]:
    days = query(
        dsn,
        "select day, new_customers + reactivated_customers - churned_customers,"
        " net_customer_growth, net_customer_growth_30_days from kpi_daily order by day",
    )
    of_day = [row[1] for row in days]
    return (
        {day: (growth, growth_30_days) for day, _, growth, growth_30_days in days},
        {
            row[0]: (of_day[number], sum(of_day[max(0, number - 29) : number + 1]))
            for number, row in enumerate(days)
        },
    )


def _alarms(dsn: str) -> tuple[Rows, Rows]:
    days = query(dsn, "select day, churn_rate, churn_alarm from kpi_daily order by day")
    expected = {}
    for number, (day, rate, _) in enumerate(days):
        before = [row[1] for row in days[max(0, number - 90) : number]]
        comparable = len(before) == 90 and None not in before and sum(before) > 0
        mean = Fraction(sum(before)) / 90 if comparable else None
        expected[day] = mean is not None and rate is not None and rate > mean * Fraction(3, 2)
    return {day: alarm for day, _, alarm in days}, expected


def _by_key(dsn: str, width: int, statement: str) -> Rows:
    rows = query(dsn, statement)
    found = {row[:width]: row[width:] if len(row) > width + 1 else row[width] for row in rows}
    assert len(found) == len(rows), f"{statement}: a key occurs twice"
    return found
