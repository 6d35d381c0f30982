"""The night of examples/cdnow over the whole file, against independent computations."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kundenkreis.predictions import bgnbd, gamma_gamma
from tests.reference import real_shops
from tests.reference.real_shops import FileOrder, RealShop
from tests.rfm_scores import assert_scores_follow_values

pytestmark = [pytest.mark.integration, pytest.mark.night]

HOLDOUT_DAYS = 90


@pytest.fixture(scope="module")
def shop(module_warehouse_dsn: str, shared_data: Path, airflow_metadata: None) -> RealShop:
    """The shop after its night."""
    return real_shops.night("cdnow", date(1998, 6, 30), module_warehouse_dsn, shared_data)


@pytest.fixture(scope="module")
def orders(shared_data: Path) -> list[FileOrder]:
    """The file, in plain Python."""
    return real_shops.cdnow_orders(shared_data / "cdnow")


def test_each_row_is_an_order(shop: RealShop) -> None:
    full = shop.reference["full"]
    assert shop.rows(
        "select count(*), count(distinct order_key), count(distinct customer_key), "
        "sum(total_amount), count(*) filter (where total_amount = 0) from raw_files.orders",
    ) == [
        (
            full["rows"],
            full["rows"],
            full["customers"],
            Decimal(str(full["revenue"])),
            full["zero_amount_rows"],
        )
    ]
    assert shop.rows(
        "select count(*), count(distinct customer_id), sum(revenue_before_refunds) "
        "from marts.orders where is_counted",
    ) == [(full["rows"], full["customers"], Decimal(str(full["revenue"])))]


def test_rfm_of_every_customer(shop: RealShop) -> None:
    expected = shop.reference["full"]["rfm_frequency_rows"]["quintiles_disc"]
    scores = shop.scores()
    assert shop.cut_points() == expected["cut_points"]
    file = shop.folder / "rfm_per_customer_full.csv.gz"
    real_shops.assert_same(scores, real_shops.expected_scores(file, "customer_id"))
    assert real_shops.grid_of(scores).items() <= expected.items()
    assert_scores_follow_values(scores.values())


def test_lifecycle_of_every_customer(shop: RealShop, orders: list[FileOrder]) -> None:
    known = real_shops.persons(orders)
    assert (
        sum(len(person.orders) for person in known.values())
        == (shop.reference["full"]["customer_days"])
    )
    real_shops.assert_lifecycle_is_that_of(shop, known)


# Value: the whole way through the warehouse, against the plain functions on counts from the file.


@dataclass(frozen=True)
class _History:
    """x, t_x, T and m_x of one buyer at the end of a day, in days and dollars."""

    repeat_order_days: int
    days_to_last_order: int
    days_observed: int
    mean_repeat_order_value: float


def _histories(orders: list[FileOrder], end: date) -> dict[str, _History]:
    days: dict[str, dict[date, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for order in orders:
        if order.day <= end:
            days[order.customer][order.day] += order.value
    return {customer: _history(values, end) for customer, values in days.items()}


def _history(values: dict[date, Decimal], end: date) -> _History:
    first, *later = sorted(values)
    mean = sum(values[day] for day in later) / len(later) if later else 0
    return _History(
        len(later), (max(values) - first).days, (end - first).days, float(round(mean, 10))
    )


def _arrays(histories: dict[str, _History]) -> np.ndarray:
    return np.array([astuple(history) for history in histories.values()], dtype=float).T


def _counted(table: np.ndarray) -> bgnbd.OrderCounts:
    groups, customers = np.unique(table[:3], axis=1, return_counts=True)
    return bgnbd.OrderCounts(*groups, customers.astype(float))


def _fitted(
    table: np.ndarray,
) -> tuple[bgnbd.Parameters, float, gamma_gamma.Parameters, float]:
    orders, orders_fit = bgnbd.fit(_counted(table))
    x, _, _, m_x = table
    paid = (x > 0) & (m_x > 0)
    value, value_fit = gamma_gamma.fit(
        gamma_gamma.OrderValues(x[paid], m_x[paid], np.ones(int(paid.sum())))
    )
    assert orders is not None
    assert value is not None
    return orders, orders_fit.log_likelihood, value, value_fit.log_likelihood


def test_value_of_every_customer(shop: RealShop, orders: list[FileOrder]) -> None:
    histories = _histories(orders, shop.as_of)
    table = _arrays(histories)
    fitted, orders_likelihood, value, value_likelihood = _fitted(table)
    assert shop.rows(
        "select orders_outcome, order_value_outcome, buyers, repeat_buyers "
        "from history.value_parameters"
    ) == [("fitted", "fitted", len(histories), int((table[0] > 0).sum()))]
    (parameters,) = shop.rows(
        "select orders_r, orders_alpha_days, orders_a, orders_b, orders_log_likelihood, "
        "order_value_p, order_value_q, order_value_v, order_value_log_likelihood "
        "from history.value_parameters"
    )
    np.testing.assert_allclose(
        parameters,
        [*astuple(fitted), orders_likelihood, *astuple(value), value_likelihood],
        rtol=1e-6,
    )

    worth = gamma_gamma.expected_order_value(value, table[0], table[3])
    wait = np.ceil(bgnbd.median_time_to_next_order(fitted, table[0], table[2]))
    expected: dict[str, tuple[np.ndarray, float]] = {
        "p_alive": (bgnbd.probability_alive(fitted, *table[:3]), 0),
        "expected_order_value": (worth, 1e-4),  # four decimals are stored
        "days_to_next_order": (np.clip(wait, 1, 36_500), 0),
    }
    for days in (90, 365):
        expected[f"expected_orders_{days}d"] = (bgnbd.expected_orders(fitted, days, *table[:3]), 0)
        expected[f"clv_{days}d"] = (expected[f"expected_orders_{days}d"][0] * worth, 1e-4)
    found = _published_values(shop)
    assert list(found) == sorted(histories)
    order = np.argsort(list(histories))
    got = np.array(list(found.values()), dtype=float).T
    for name, figures in zip(_VALUES, got, strict=True):
        wanted, rounding = expected[name]
        np.testing.assert_allclose(
            figures, wanted[order], rtol=1e-6, atol=rounding + 1e-12, err_msg=name
        )


_VALUES = [
    "p_alive",
    "expected_orders_90d",
    "expected_orders_365d",
    "expected_order_value",
    "clv_90d",
    "clv_365d",
    "days_to_next_order",
]


def _published_values(shop: RealShop) -> dict[str, tuple[Any, ...]]:
    return {
        customer: tuple(figures)
        for customer, *figures in shop.rows(
            f"select source_id, {', '.join(_VALUES[:-1])}, "
            "expected_next_order_date - as_of_date as days_to_next_order "
            "from marts.customer_value inner join marts.customer_source_ids using (customer_id) "
            "where source_record_type = 'customer' order by source_id"
        )
    }


def test_the_fit_is_measured_by_days_that_it_has_not_seen(
    shop: RealShop, orders: list[FileOrder]
) -> None:
    known = _arrays(_histories(orders, shop.as_of - timedelta(days=HOLDOUT_DAYS)))
    buyers_then = {
        order.customer for order in orders if order.day <= shop.as_of - timedelta(days=HOLDOUT_DAYS)
    }
    since = {
        (order.customer, order.day)
        for order in orders
        if order.day > shop.as_of - timedelta(days=HOLDOUT_DAYS) and order.customer in buyers_then
    }
    fitted, _, _, _ = _fitted(known)
    expected = bgnbd.expected_orders(fitted, HOLDOUT_DAYS, *known[:3]).sum()
    ((days, customers, order_days, expected_order_days),) = shop.rows(
        "select holdout_days, holdout_customers, holdout_orders, holdout_orders_expected "
        "from history.value_parameters"
    )
    assert (days, customers, order_days) == (HOLDOUT_DAYS, len(buyers_then), len(since))
    assert expected_order_days == pytest.approx(expected, rel=1e-6)
