"""RFM over the real order files of two shops, against independently computed figures.

The figures are in ``reference.json`` and ``rfm_per_customer*.csv.gz`` beside the data. The rows are
copied into the raw tables directly, so what is tested here is the dbt project alone.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.integration.dbt_support import build, copy_rows, create_raw_tables, query

pytestmark = pytest.mark.integration

_LINE_COLUMNS = [
    "source_name",
    "order_key",
    "line_number",
    "customer_key",
    "ordered_at",
    "status",
    "currency",
    "product_key",
    "product_name",
    "quantity",
    "unit_price",
    "line_amount",
]
_ORDER_COLUMNS = [
    "source_name",
    "order_key",
    "customer_key",
    "ordered_at",
    "status",
    "currency",
    "total_amount",
]


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _scores(dsn: str, source: str) -> dict[str, tuple[Any, ...]]:
    return {
        row[0]: row[1:]
        for row in query(
            dsn,
            """
            select source_id, recency_days, frequency, monetary, r_score, f_score, m_score
            from customer_rfm inner join customer_source_ids using (customer_id)
            where source = %s
            """,
            source,
        )
    }


def _expected_scores(file: Path, key: str) -> dict[str, tuple[Any, ...]]:
    return {
        row[key]: (
            int(row["recency"]),
            int(row["frequency"]),
            Decimal(row["monetary"]).quantize(Decimal("0.001")),
            *(int(row[score]) for score in "RFM"),
        )
        for row in _rows(file)
    }


def _rounded(scores: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    # The reference figures are sums of floats; all amounts have at most three decimals.
    return {
        customer: (recency, frequency, monetary.quantize(Decimal("0.001")), *points)
        for customer, (recency, frequency, monetary, *points) in scores.items()
    }


def _cut_points(dsn: str) -> dict[str, list[float]]:
    return {
        dimension: [float(cutoff) for cutoff in cutoffs]
        for dimension, cutoffs in query(
            dsn,
            "select dimension, array_agg(cutoff order by quantile) from history_rfm_cutoffs"
            " where method = 'quantiles' group by dimension",
        )
    }


def test_online_retail_rule_c(warehouse_dsn: str, shared_data: Path) -> None:
    folder = shared_data / "online_retail"
    reference = json.loads((folder / "reference.json").read_text())
    create_raw_tables(warehouse_dsn, "files")
    copy_rows(
        warehouse_dsn,
        "raw_files.order_lines",
        _LINE_COLUMNS,
        (
            (
                "online_retail",
                row["InvoiceNo"],
                number,
                row["CustomerID"] or None,
                f"{row['InvoiceDate']}+00",
                "cancelled" if row["InvoiceNo"].startswith("C") else "completed",
                "GBP",
                row["StockCode"],
                row["Description"] or None,
                row["Quantity"],
                row["UnitPrice"],
                Decimal(row["Quantity"]) * Decimal(row["UnitPrice"]),
            )
            for number, row in enumerate(_rows(folder / "online_retail.csv.gz"), 1)
        ),
    )

    build(
        warehouse_dsn,
        "2011-12-10",
        enabled_sources=["files"],
        business_timezone="UTC",
        reporting_currency="GBP",
        refund_policy="gross",
    )

    rule_c = reference["counts_by_rule"]["C_B_qty_and_price_positive"]
    assert query(
        warehouse_dsn,
        "select count(*), count(distinct customer_id), sum(revenue_before_refunds) from orders"
        " where is_counted",
    ) == [(rule_c["invoices"], rule_c["customers"], Decimal(str(rule_c["revenue"])))]
    assert query(warehouse_dsn, "select count(*) from order_lines") == [(541_909,)]
    assert _cut_points(warehouse_dsn) == reference["rfm"]["quintiles_disc"]["cut_points"]
    assert _rounded(_scores(warehouse_dsn, "online_retail")) == _expected_scores(
        folder / "rfm_per_customer.csv.gz", "CustomerID"
    )


def test_cdnow_each_row_is_an_order(warehouse_dsn: str, shared_data: Path) -> None:
    folder = shared_data / "cdnow"
    reference = json.loads((folder / "reference.json").read_text())["full"]
    create_raw_tables(warehouse_dsn, "files")
    copy_rows(
        warehouse_dsn,
        "raw_files.orders",
        _ORDER_COLUMNS,
        (
            (
                "cdnow",
                number,
                row["customer_id"],
                f"{row['date']} 00:00+00",
                "completed",
                "USD",
                row["amount"],
            )
            for number, row in enumerate(_rows(folder / "cdnow_master.csv.gz"), 1)
        ),
    )

    build(
        warehouse_dsn,
        "1998-06-30",
        enabled_sources=["files"],
        business_timezone="UTC",
        reporting_currency="USD",
        refund_policy="gross",
        zero_value_orders="count",
    )

    scores = _scores(warehouse_dsn, "cdnow")
    assert len(scores) == reference["customers"]
    assert sum(score[1] for score in scores.values()) == reference["rows"]
    assert sum(score[2] for score in scores.values()) == Decimal(str(reference["revenue"]))
    assert (
        _cut_points(warehouse_dsn)
        == reference["rfm_frequency_rows"]["quintiles_disc"]["cut_points"]
    )
    assert _rounded(scores) == _expected_scores(
        folder / "rfm_per_customer_full.csv.gz", "customer_id"
    )
