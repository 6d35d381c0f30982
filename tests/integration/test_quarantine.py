"""Rows that could not be used are kept, each once, however odd they are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from kundenkreis import night
from kundenkreis.settings import repository_root
from kundenkreis.warehouse.quarantine import Rejection, record_rejections

pytestmark = pytest.mark.integration


@pytest.fixture
def connection(module_warehouse_dsn: str) -> Iterator[psycopg.Connection]:
    """A session with an empty quarantine."""
    with psycopg.connect(module_warehouse_dsn) as session:
        session.execute("truncate quarantine.rejected_records")
        session.commit()
        yield session


def _rejection(payload: dict[Any, Any] | None = None, **changes: Any) -> Rejection:
    values: dict[str, Any] = {
        "source": "files",
        "table_name": "orders",
        "record_key": "orders.csv:17",
        "reason_code": "invalid_date",
        "reason": "ordered_at is no date",
        "payload": payload if payload is not None else {"ordered_at": "soon"},
    }
    return Rejection(**values | changes)


def _rows(connection: psycopg.Connection, columns: str) -> list[tuple[Any, ...]]:
    query = f"select {columns} from quarantine.rejected_records order by record_key, reason_code"
    return connection.execute(query.encode()).fetchall()


def test_a_row_is_kept_with_its_reason(connection: psycopg.Connection) -> None:
    assert record_rejections(connection, [_rejection()], "run-1") == 1
    columns = "source, table_name, record_key, reason_code, reason, payload, run_id"
    assert _rows(connection, columns) == [
        (
            *("files", "orders", "orders.csv:17", "invalid_date", "ordered_at is no date"),
            *({"ordered_at": "soon"}, "run-1"),
        )
    ]


def test_the_same_row_again_only_renews_its_run(connection: psycopg.Connection) -> None:
    record_rejections(connection, [_rejection()], "run-1")
    connection.execute(
        "update quarantine.rejected_records "
        "set first_rejected_at = '2026-01-01', last_rejected_at = '2026-01-01'"
    )
    again = [_rejection(reason="no date"), _rejection(reason="no date")]
    assert record_rejections(connection, again, "run-2") == 2
    assert _rows(
        connection, "run_id, reason, first_rejected_at::date, last_rejected_at > '2026-01-02'"
    ) == [("run-2", "no date", date(2026, 1, 1), True)]


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "shop"},
        {"table_name": "customers"},
        {"record_key": "orders.csv:18"},
        {"record_key": None},
        {"reason_code": "invalid_amount"},
        {"payload": {"ordered_at": "later"}},
    ],
)
def test_another_row_is_another_row(
    connection: psycopg.Connection, changes: dict[str, Any]
) -> None:
    record_rejections(connection, [_rejection(), _rejection(**changes)], "run-1")
    assert len(_rows(connection, "record_hash")) == 2


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("half \ud83d", "half ?"),
        ("Müller 😀 \\u0000", "Müller 😀 \\u0000"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (1.5, 1.5),
        (True, True),
        (None, None),
        (Decimal("12.3400"), "12.3400"),
        (date(2026, 1, 31), "2026-01-31"),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
        (b"\xe9clair", "\ufffdclair"),
        ([1, (2, float("inf"))], [1, [2, "inf"]]),
        ({1: "one", "two": {"\x00": 3}}, {"1": "one", "two": {"\ufffd": 3}}),
    ],
)
def test_every_value_is_kept(connection: psycopg.Connection, value: Any, kept: Any) -> None:
    record_rejections(connection, [_rejection({"value": value})], "run-1")
    assert _rows(connection, "payload -> 'value'") == [(kept,)]


def test_odd_keys_and_reasons_are_kept(connection: psycopg.Connection) -> None:
    odd = _rejection({1: "a", "b": 2, None: 3}, record_key="k\x00\ud83d", reason="r\x00")
    record_rejections(connection, [odd], "run-1")
    assert _rows(connection, "record_key, reason, payload") == [
        ("k\ufffd?", "r\ufffd", {"1": "a", "b": 2, "None": 3})
    ]


def test_many_rows_go_in_batches_and_in_the_callers_transaction(
    connection: psycopg.Connection,
) -> None:
    rows = (_rejection(record_key=str(number)) for number in range(2_500))
    assert record_rejections(connection, rows, "run-1") == 2_500
    assert _rows(connection, "1") == [(1,)] * 2_500
    connection.rollback()
    record_rejections(connection, [], "run-1")
    assert _rows(connection, "1") == []


def test_a_rejection_shows_no_row_in_a_log() -> None:
    assert "anna" not in repr(_rejection({"email": "anna@example.com"}))


def test_every_model_that_rejects_is_read() -> None:
    models = (repository_root() / "dbt_project/models").rglob("*_rejected.sql")
    assert {model.stem for model in models} == set(night.REJECTING_MODELS)


def test_what_the_models_of_a_colour_reject_is_kept(
    connection: psycopg.Connection, module_warehouse_dsn: str
) -> None:
    for schema in ("intermediate_blue", "intermediate_green"):
        connection.execute(f"create schema {schema}".encode())
        for model in night.REJECTING_MODELS:
            connection.execute(
                f"create table {schema}.{model} as select 'shop'::text as source,"
                f" 'orders'::text as table_name, '{schema}.{model}'::text as record_key,"
                " 'no_exchange_rate'::text as reason_code, 'There is no rate.'::text as reason,"
                """ '{"currency": "CHF"}'::text as payload""".encode()
            )
    connection.commit()
    run: Any = SimpleNamespace(dsn=module_warehouse_dsn, run_id="run-3")
    assert night._quarantine_rejected(run, "marts_green") == len(night.REJECTING_MODELS)
    assert _rows(connection, "record_key, payload ->> 'currency', run_id") == [
        (f"intermediate_green.{model}", "CHF", "run-3") for model in sorted(night.REJECTING_MODELS)
    ]
