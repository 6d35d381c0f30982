"""Whole nights over the real order files of two shops, against independently computed figures.

The figures stand in ``reference.json`` and ``rfm_per_customer*.csv.gz`` beside the data. The nights
are those of `examples/`: the same command, the same DAG, a fresh warehouse.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytestmark = [pytest.mark.integration, pytest.mark.night]


def _night(example: str, as_of: date, dsn: str, data: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "kundenkreis", "run", "--as-of", as_of.isoformat()],
        env={
            **os.environ,
            "KUNDENKREIS_CONFIG": f"examples/{example}",
            "KUNDENKREIS_DATA": str(data),
            "AIRFLOW_CONN_WAREHOUSE": dsn,
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr


def _query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def _cut_points(dsn: str) -> dict[str, list[float]]:
    return {
        dimension: [float(cutoff) for cutoff in cutoffs]
        for dimension, cutoffs in _query(
            dsn,
            "select dimension, array_agg(cutoff order by quantile) from history.rfm_cutoffs "
            "where method = 'quantiles' group by dimension",
        )
    }


def _scores(dsn: str) -> dict[str, tuple[Any, ...]]:
    # The reference figures are sums of floats; all amounts have at most three decimals.
    return {
        customer: (recency, frequency, monetary.quantize(Decimal("0.001")), *points)
        for customer, recency, frequency, monetary, *points in _query(
            dsn,
            "select source_id, recency_days, frequency, monetary, r_score, f_score, m_score "
            "from marts.customer_rfm inner join marts.customer_source_ids using (customer_id) "
            "where source_record_type = 'customer'",
        )
    }


def _expected_scores(file: Path, key: str) -> dict[str, tuple[Any, ...]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        return {
            row[key]: (
                int(row["recency"]),
                int(row["frequency"]),
                Decimal(row["monetary"]).quantize(Decimal("0.001")),
                *(int(row[score]) for score in "RFM"),
            )
            for row in csv.DictReader(stream)
        }


def test_online_retail_rule_c(warehouse_dsn: str, shared_data: Path) -> None:
    folder = shared_data / "online_retail"
    reference = json.loads((folder / "reference.json").read_text())
    raw = reference["counts_by_rule"]["raw"]
    rule_c = reference["counts_by_rule"]["C_B_qty_and_price_positive"]

    _night("online_retail", date(2011, 12, 10), warehouse_dsn, shared_data)

    assert _query(
        warehouse_dsn,
        "select count(*), count(distinct customer_key), count(distinct order_key), "
        "sum(line_amount), count(*) filter (where status = 'cancelled') "
        "from raw_files.order_lines",
    ) == [
        (
            raw["rows"],
            raw["customers"],
            raw["invoices"],
            Decimal(str(raw["revenue"])),
            reference["counts_by_rule"]["cancelled_rows"],
        )
    ]
    assert _query(warehouse_dsn, "select count(*) from quarantine.rejected_records") == [(0,)]
    assert _query(
        warehouse_dsn,
        "select count(*), count(distinct customer_id), sum(revenue_before_refunds) "
        "from marts.orders where is_counted and customer_id is not null",
    ) == [(rule_c["invoices"], rule_c["customers"], Decimal(str(rule_c["revenue"])))]
    assert _cut_points(warehouse_dsn) == reference["rfm"]["quintiles_disc"]["cut_points"]
    assert _scores(warehouse_dsn) == _expected_scores(
        folder / "rfm_per_customer.csv.gz", "CustomerID"
    )


def test_cdnow_each_row_is_an_order(warehouse_dsn: str, shared_data: Path) -> None:
    folder = shared_data / "cdnow"
    reference = json.loads((folder / "reference.json").read_text())["full"]

    _night("cdnow", date(1998, 6, 30), warehouse_dsn, shared_data)

    assert _query(
        warehouse_dsn,
        "select count(*), count(distinct order_key), count(distinct customer_key), "
        "sum(total_amount), count(*) filter (where total_amount = 0) from raw_files.orders",
    ) == [
        (
            reference["rows"],
            reference["rows"],
            reference["customers"],
            Decimal(str(reference["revenue"])),
            reference["zero_amount_rows"],
        )
    ]
    scores = _scores(warehouse_dsn)
    assert len(scores) == reference["customers"]
    assert sum(score[1] for score in scores.values()) == reference["rows"]
    assert sum(score[2] for score in scores.values()) == Decimal(str(reference["revenue"]))
    cut_points = reference["rfm_frequency_rows"]["quintiles_disc"]["cut_points"]
    assert _cut_points(warehouse_dsn) == cut_points
    assert scores == _expected_scores(folder / "rfm_per_customer_full.csv.gz", "customer_id")
