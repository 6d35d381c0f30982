"""The gates on the contract of marts and on what each reason rejects."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import psycopg
import pytest

from kundenkreis.quality.checkpoint import Outcome, run_checkpoint
from kundenkreis.quality.suites import contract, rejections
from kundenkreis.settings import QualityConfig, RejectedLimit
from kundenkreis.warehouse.contract import Declaration
from kundenkreis.warehouse.publish import GREEN
from kundenkreis.warehouse.quarantine import Rejection, record_rejections
from tests.integration import publishing as nights
from tests.integration.publishing import DAY, NEXT_DAY, ORDERS

pytestmark = pytest.mark.integration

BREAKING = "select 1::bigint as order_id, 10::double precision as revenue, 'EUR'::text as currency"


def _declaration(model: str, change: str, column: str | None, to: str | None) -> Declaration:
    return Declaration.model_validate(
        {
            "model": model,
            "change": change,
            "column": column,
            "to": to,
            "reason": "tested",
            "declared_on": date(2026, 3, 1),
        }
    )


def _reject(dsn: str, rows: int, code: str, by: str, table: str = "orders") -> None:
    found = (
        Rejection("woocommerce", table, str(n), code, "Wrong.", {"email": f"p{n}@mail.example"}, by)
        for n in range(rows)
    )
    with psycopg.connect(dsn) as connection:
        record_rejections(connection, found, "run-2")


@pytest.fixture(scope="module")
def warehouse_dsn(module_warehouse_dsn: str) -> str:
    """A night that would retype, remove and drop, and that rejected rows for several reasons."""
    dsn = module_warehouse_dsn
    with psycopg.connect(dsn) as connection:
        connection.execute("create schema intermediate_green")
        connection.execute(
            "create table intermediate_green.int_orders_unioned as "
            "select 'woocommerce'::text as source from generate_series(1, 200)"
        )
        connection.execute(
            "insert into operations.task_results values ('run-2', 'extract.woocommerce', %s, "
            "'success', %s, now())",
            (
                NEXT_DAY,
                json.dumps(
                    {
                        "source": "woocommerce",
                        "tables": {"orders": 380, "products": 9000},
                        "rejected": 60,
                    }
                ),
            ),
        )
    nights.night(
        dsn,
        "run-1",
        DAY,
        orders=ORDERS,
        customers="select 'x'::text as customer_id, 'de'::text as language",
        products="select 'A'::text as product_key",
    )
    nights.build(
        dsn, "run-2", NEXT_DAY, orders=BREAKING, customers="select 'x'::text as customer_id"
    )
    _reject(dsn, 22, "invalid_total", "extract")
    _reject(dsn, 19, "invalid_currency", "extract")
    _reject(dsn, 19, "invalid_date", "extract", "products")
    _reject(dsn, 25, "no_exchange_rate", "int_orders_rejected")
    return dsn


def _outcomes(
    dsn: str,
    folder: Path,
    declared: list[Declaration],
    stale: list[Declaration],
    limits: QualityConfig,
) -> dict[str, Outcome]:
    with psycopg.connect(dsn) as connection:
        suites = [
            contract.suite(GREEN, declared, stale),
            rejections.suite(
                "marts",
                [
                    *rejections.of_load(connection, "run-2"),
                    *rejections.of_models(connection, "run-2", GREEN),
                ],
                limits,
            ),
        ]
    result = run_checkpoint("marts", suites, dsn, folder / "docs")
    return {outcome.expectation_id: outcome for outcome in result.outcomes}


def test_undeclared_changes_and_reasons_above_their_limit_stop_the_night(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    stale = [_declaration("kpi_daily", "dropped", None, None)]
    other = [_declaration("orders", "retyped", "revenue", "text")]
    found = _outcomes(warehouse_dsn, tmp_path, other, stale, QualityConfig())
    assert {name for name, outcome in found.items() if outcome.stops} == {
        "marts.contract.declared",
        "marts.rejected.woocommerce.orders.invalid_total",  # 22 of 421
        "marts.rejected.woocommerce.orders.no_exchange_rate",  # 25 of 200
    }
    assert {name for name, outcome in found.items() if outcome.warns} == {
        "marts.contract.declarations_current"
    }
    with psycopg.connect(warehouse_dsn) as connection:
        changes = found["marts.contract.declared"].measure
        rates = found["marts.rejected.woocommerce.orders.no_exchange_rate"].measure
        old = found["marts.contract.declarations_current"].measure
        assert changes is not None
        assert rates is not None
        assert old is not None
        assert nights.rows(connection, changes) == [
            ("customers.language removed, orders.revenue retyped, products dropped",)
        ]
        assert nights.rows(connection, rates) == [("25 of 200 rows",)]
        assert nights.rows(connection, old) == [
            (
                "orders.revenue retyped to text, declared on 2026-03-01; "
                "kpi_daily dropped, declared on 2026-03-01",
            )
        ]


def test_what_was_declared_and_what_may_be_rejected_passes(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    declared = [
        _declaration("orders", "retyped", "revenue", "double precision"),
        _declaration("customers", "removed", "language", None),
        _declaration("products", "dropped", None, None),
    ]
    limits = QualityConfig(
        rejected_rows=RejectedLimit(max_percent="4", min_rows=1),
        rejected_rows_by_reason={"no_exchange_rate": RejectedLimit(max_percent="12.5")},
    )
    found = _outcomes(warehouse_dsn, tmp_path, declared, [], limits)
    assert {name for name, outcome in found.items() if not outcome.success} == {
        "marts.rejected.woocommerce.orders.invalid_total",
        "marts.rejected.woocommerce.orders.invalid_currency",
    }
