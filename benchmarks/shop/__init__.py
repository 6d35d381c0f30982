"""A shop of any size, generated inside PostgreSQL; the same every time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg

from kundenkreis.sources.base import Column, ensure_declared
from kundenkreis.sources.config import Entity
from kundenkreis.sources.files import declared_columns
from kundenkreis.warehouse.raw_indexes import ensure_raw_indexes

LAST_DAY = date(2026, 10, 31)
"""The as-of day of the first night; the shop's history is the three years up to it."""

_FOLDER = Path(__file__).parent
_LOADS = """
create table if not exists raw_files._dlt_loads (
    load_id varchar not null,
    schema_name varchar,
    status bigint not null,
    inserted_at timestamptz not null,
    schema_version_hash varchar
)
"""


def create_tables(dsn: str) -> None:
    """Create the empty raw tables, as the source `files` declares them, and dlt's list of loads."""
    columns = {"_dlt_load_id": Column("text"), "_dlt_id": Column("text")}
    tables = {entity.value: {**declared_columns(entity), **columns} for entity in Entity}
    ensure_declared(dsn, "raw_files", tables)
    with psycopg.connect(dsn) as connection:
        connection.execute(_LOADS)
    ensure_raw_indexes(dsn, "raw_files", tables)


def create_history(dsn: str, customers: int) -> None:
    """Create the raw tables and fill them with three years of orders.

    Args:
        dsn: a warehouse that holds no raw tables yet.
        customers: persons, of whom one in twenty never orders.
    """
    create_tables(dsn)
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute((_FOLDER / "functions.sql").read_text().encode())
        _load(connection, "history.sql", LAST_DAY, {"customers": customers, "last_day": LAST_DAY})
    _vacuum(dsn)


def add_night(dsn: str, customers: int, night: int) -> date:
    """Change the raw tables as one more day does.

    Args:
        customers: as in `create_history`.
        night: 1 for the day after the history, then 2, and so on.

    Returns:
        The day.
    """
    day = LAST_DAY + timedelta(days=night)
    with psycopg.connect(dsn, cursor_factory=psycopg.ClientCursor) as connection:
        _load(connection, "night.sql", day, {"customers": customers, "night": night, "day": day})
    _vacuum(dsn)
    return day


def _load(
    connection: psycopg.Connection[Any], file: str, day: date, parameters: dict[str, Any]
) -> None:
    """Run one file as one load of dlt: its rows name the load, the load is entered when done."""
    loaded_at = datetime.combine(day + timedelta(days=1), time(1), UTC)
    load_id = f"{loaded_at.timestamp():.6f}"
    connection.execute(
        (_FOLDER / file).read_text().encode(),
        {**parameters, "load_id": load_id, "loaded_at": loaded_at},
    )
    connection.execute(
        "insert into raw_files._dlt_loads (load_id, schema_name, status, inserted_at)"
        " values (%s, 'files', 0, %s)",
        (load_id, loaded_at),
    )


def _vacuum(dsn: str) -> None:
    """Leave no cleaning of what was generated to the night that is measured."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("vacuum (analyze) raw_files.customers, raw_files.orders")
        connection.execute("vacuum (analyze) raw_files.consent_events")
        connection.execute("checkpoint")
