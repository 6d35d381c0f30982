"""The night of examples/online_retail over the whole file, against independent computations."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from tests.reference import real_shops
from tests.reference.real_shops import RealShop
from tests.rfm_scores import assert_scores_follow_values

pytestmark = [pytest.mark.integration, pytest.mark.night]


@pytest.fixture(scope="module")
def shop(module_warehouse_dsn: str, shared_data: Path, airflow_metadata: None) -> RealShop:
    """The shop after its night."""
    return real_shops.night("online_retail", date(2011, 12, 10), module_warehouse_dsn, shared_data)


def test_every_line_is_landed(shop: RealShop) -> None:
    counts = shop.reference["counts_by_rule"]
    raw = counts["raw"]
    assert shop.rows(
        "select count(*), count(distinct customer_key), count(distinct order_key), "
        "sum(line_amount), count(*) filter (where status = 'cancelled') "
        "from raw_files.order_lines",
    ) == [
        (
            raw["rows"],
            raw["customers"],
            raw["invoices"],
            Decimal(str(raw["revenue"])),
            counts["cancelled_rows"],
        )
    ]
    assert shop.rows("select count(*) from quarantine.rejected_records") == [(0,)]


def test_rule_c_decides_what_counts(shop: RealShop) -> None:
    rule_c = shop.reference["counts_by_rule"]["C_B_qty_and_price_positive"]
    assert shop.rows(
        "select count(*), count(distinct customer_id), sum(revenue_before_refunds) "
        "from marts.orders where is_counted and customer_id is not null",
    ) == [(rule_c["invoices"], rule_c["customers"], Decimal(str(rule_c["revenue"])))]


def test_rfm_of_every_customer(shop: RealShop) -> None:
    expected = shop.reference["rfm"]["quintiles_disc"]
    scores = shop.scores()
    assert shop.cut_points() == expected["cut_points"]
    real_shops.assert_same(
        scores, real_shops.expected_scores(shop.folder / "rfm_per_customer.csv.gz", "CustomerID")
    )
    assert real_shops.grid_of(scores).items() <= expected.items()
    assert_scores_follow_values(scores.values())


def test_lifecycle_of_every_customer(shop: RealShop) -> None:
    orders = real_shops.online_retail_orders(shop.folder)
    rule_c = shop.reference["counts_by_rule"]["C_B_qty_and_price_positive"]
    assert sum(order.is_counted for order in orders) == rule_c["invoices"]
    real_shops.assert_lifecycle_is_that_of(shop, real_shops.persons(orders))
