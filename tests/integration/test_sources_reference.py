"""The worked examples' own configuration lands the real data sets whole."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.settings import load_settings, repository_root
from kundenkreis.sources import extract

pytestmark = pytest.mark.integration


def land(example: str, dsn: str) -> dict[str, Any]:
    settings = load_settings(repository_root() / "examples" / example)
    day = date(2011, 12, 10)
    return extract("files", settings, _no_connection, dsn, "run", day, lambda _: None)


def _no_connection(connection_id: str) -> Any:
    raise AssertionError(f"files need no connection, but {connection_id} was asked for")


def row(dsn: str, sql: str) -> tuple[Any, ...]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(sql.encode()).fetchone()
    assert found is not None
    return found


def test_online_retail(warehouse_dsn: str, shared_data: Path) -> None:
    counts = json.loads((shared_data / "online_retail" / "reference.json").read_text())
    raw = counts["counts_by_rule"]["raw"]
    result = land("online_retail", warehouse_dsn)
    assert result == {
        "source": "files",
        "tables": {"order_lines": raw["rows"]},
        "rejected": 0,
    }
    landed = row(
        warehouse_dsn,
        "select count(*), count(distinct customer_key), count(distinct order_key), "
        "sum(line_amount), min(ordered_at)::text, max(ordered_at)::text, "
        "count(*) filter (where status = 'cancelled') "
        "from raw_files.order_lines where source_name = 'online_retail'",
    )
    assert landed == (
        raw["rows"],
        raw["customers"],
        raw["invoices"],
        Decimal(str(raw["revenue"])),
        f"{raw['first']}+00",
        f"{raw['last']}+00",
        counts["counts_by_rule"]["cancelled_rows"],
    )
    assert land("online_retail", warehouse_dsn)["tables"] == {"order_lines": 0}


def test_cdnow(warehouse_dsn: str, shared_data: Path) -> None:
    full = json.loads((shared_data / "cdnow" / "reference.json").read_text())["full"]
    result = land("cdnow", warehouse_dsn)
    assert result == {"source": "files", "tables": {"orders": full["rows"]}, "rejected": 0}
    landed = row(
        warehouse_dsn,
        "select count(*), count(distinct order_key), count(distinct customer_key), "
        "sum(total_amount), count(*) filter (where total_amount = 0), "
        "min(ordered_at)::date::text, max(ordered_at)::date::text from raw_files.orders",
    )
    assert landed == (
        full["rows"],
        full["rows"],
        full["customers"],
        Decimal(str(full["revenue"])),
        full["zero_amount_rows"],
        full["first_date"],
        full["last_date"],
    )
