"""API sources when the warehouse, not the vendor, is the trouble."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from pydantic import Field

from kundenkreis.errors import WarehouseError
from kundenkreis.sources.base import (
    BigInt,
    Cursor,
    OptionalMoney,
    OptionalText,
    Record,
    Run,
    Table,
    load_tables,
    summary,
)

pytestmark = pytest.mark.integration


class Line(Record):
    """A nested record."""

    name: OptionalText = None


class Order(Record):
    """A record with everything optional but its id."""

    id: BigInt
    email: OptionalText = None
    total: OptionalMoney = None
    version: BigInt = 0
    lines: list[Line] = Field(default_factory=list)


ORDERS = Table("orders", Order, newest="version")


def load(dsn: str, *pages: list[Any]) -> Any:
    run = Run("shop", dsn, "run", date(2026, 1, 1))

    def read(cursor: Cursor) -> Iterator[list[Any]]:
        cursor["runs"] = cursor.get("runs", 0) + 1
        yield from pages

    return summary(run, load_tables(run, [(ORDERS, read)]))


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def test_all_declared_tables_and_columns_exist_without_a_single_record(warehouse_dsn: str) -> None:
    assert load(warehouse_dsn, []) == {"source": "shop", "tables": {"orders": 0}, "rejected": 0}
    columns = query(
        warehouse_dsn,
        "select table_name, column_name, data_type from information_schema.columns "
        "where table_schema = 'raw_shop' and table_name in ('orders', 'orders__lines') "
        "and column_name not in ('_dlt_id', '_dlt_root_id', '_dlt_load_id')",
    )
    assert set(columns) == {
        ("orders", "id", "bigint"),
        ("orders", "email", "character varying"),
        ("orders", "total", "numeric"),
        ("orders", "version", "bigint"),
        ("orders__lines", "name", "character varying"),
        ("orders__lines", "_dlt_parent_id", "character varying"),
        ("orders__lines", "_dlt_list_idx", "bigint"),
    }
    # And the first record that fills a nested table finds it in a usable form.
    load(warehouse_dsn, [{"id": 1, "lines": [{"name": "cup"}, {"name": "cup"}]}])
    assert query(warehouse_dsn, "select count(*) from raw_shop.orders__lines") == [(2,)]


def test_the_newest_version_wins_and_its_lines_replace_the_others(warehouse_dsn: str) -> None:
    load(
        warehouse_dsn,
        [{"id": 1, "version": 2, "total": "2", "lines": [{"name": "new"}]}],
        [{"id": 1, "version": 1, "total": "1", "lines": [{"name": "old"}, {"name": "older"}]}],
    )
    assert query(warehouse_dsn, "select total from raw_shop.orders") == [(2,)]
    assert query(warehouse_dsn, "select name from raw_shop.orders__lines") == [("new",)]
    load(warehouse_dsn, [{"id": 1, "version": 3, "lines": []}])
    assert query(warehouse_dsn, "select total from raw_shop.orders") == [(None,)]
    assert query(warehouse_dsn, "select count(*) from raw_shop.orders__lines") == [(0,)]


def test_a_refusing_warehouse_is_one_error_without_values_and_the_next_run_goes_on(
    warehouse_dsn: str,
) -> None:
    load(warehouse_dsn, [{"id": 1, "email": "anna@example.org"}])
    with psycopg.connect(warehouse_dsn, autocommit=True) as connection:
        connection.execute(
            "alter table raw_shop.orders add constraint no_anna check (email not like 'anna%') "
            "not valid"
        )
    with pytest.raises(WarehouseError, match="Loading raw_shop") as caught:
        load(warehouse_dsn, [{"id": 2, "email": "anna2@example.org"}])
    assert "SQLSTATE 23514" in str(caught.value)
    assert "anna2" not in str(caught.value)
    assert caught.value.__cause__ is None
    with psycopg.connect(warehouse_dsn, autocommit=True) as connection:
        connection.execute("alter table raw_shop.orders drop constraint no_anna")
    load(warehouse_dsn, [{"id": 2, "email": "anna2@example.org"}])
    assert query(warehouse_dsn, "select id from raw_shop.orders order by id") == [(1,), (2,)]


def test_an_unreachable_warehouse_is_named() -> None:
    with pytest.raises(WarehouseError, match=r"127\.0\.0\.1:9"):
        load("postgresql://nobody:secret@127.0.0.1:9/none", [])


def test_a_fault_of_our_own_is_not_blamed_on_the_warehouse(warehouse_dsn: str) -> None:
    def broken(_: Cursor) -> Iterator[list[Any]]:
        raise ZeroDivisionError
        yield []

    run = Run("shop", warehouse_dsn, "run", date(2026, 1, 1))
    with pytest.raises(ZeroDivisionError):
        load_tables(run, [(ORDERS, broken)])
