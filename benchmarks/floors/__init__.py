"""The same results by hand-written SQL, and the proof that they are the same."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psycopg
from psycopg import sql

TABLES = {
    "lifecycle": ("lifecycle_intervals", "lifecycle_projections", "lifecycle_transitions"),
    "rfm": ("int_rfm_cutoffs", "customer_rfm"),
    "customer_360": ("customer_360",),
}
"""What each file writes into schema ``floor``, named as the models whose result it is."""

_FOLDER = Path(__file__).parent


class FloorDiffers(Exception):
    """A floor gives another result than the model; a comparison of their times means nothing."""


@dataclass(frozen=True)
class Comparison:
    """A floor's table that holds what the model's table holds.

    Attributes:
        missing_columns: columns of the model that the floor does not make, which makes it cheaper.
    """

    table: str
    rows: int
    missing_columns: tuple[str, ...]


def run(dsn: str, names: Iterable[str], as_of_date: date, schemas: Mapping[str, str]) -> float:
    """Run floors as one script in one session.

    Args:
        names: keys of `TABLES`.
        schemas: where the models that the floors read stand.

    Returns:
        Seconds.
    """
    path = sorted({*schemas.values(), "predictions"})
    with psycopg.connect(
        dsn, autocommit=True, cursor_factory=psycopg.ClientCursor, application_name="floor"
    ) as connection:
        connection.execute("drop schema if exists floor cascade; create schema floor")
        connection.execute(
            sql.SQL("set search_path to {}").format(sql.SQL(", ").join(map(sql.Identifier, path)))
        )
        begun = time.perf_counter()
        for name in names:
            for statement in _statements(name):
                connection.execute(statement.encode(), {"as_of_date": as_of_date})
        return time.perf_counter() - begun


def compare(dsn: str, names: Iterable[str], schemas: Mapping[str, str]) -> list[Comparison]:
    """Compare each floor's tables with the models', by row counts and checksums of whole rows.

    Raises:
        FloorDiffers: names the table and both counts.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        return [
            _compare(connection, table, schemas[table]) for name in names for table in TABLES[name]
        ]


def _statements(name: str) -> list[str]:
    # One statement per call, so that each commits what it made, as a script in psql would.
    text = (_FOLDER / f"{name}.sql").read_text()
    return [statement for statement in text.split(";\n") if statement.strip()]


def _compare(connection: psycopg.Connection, table: str, schema: str) -> Comparison:
    floor, model = _columns(connection, "floor", table), _columns(connection, schema, table)
    strangers = [column for column in floor if column not in model]
    if strangers:
        raise FloorDiffers(f"{table}: the model has no column {', '.join(strangers)}")
    ours, theirs = (
        _checksum(connection, sql.Identifier(place, table), floor) for place in (schema, "floor")
    )
    if ours != theirs:
        raise FloorDiffers(f"{table}: rows and checksum are {ours}, those of the floor {theirs}")
    missing = tuple(column for column in model if column not in floor)
    return Comparison(table, ours[0], missing)


def _columns(connection: psycopg.Connection, schema: str, table: str) -> list[str]:
    rows = connection.execute(
        "select column_name from information_schema.columns"
        " where table_schema = %s and table_name = %s order by ordinal_position",
        (schema, table),
    )
    return [row[0] for row in rows]


def _checksum(
    connection: psycopg.Connection, relation: sql.Identifier, columns: list[str]
) -> tuple[int, int]:
    row = connection.execute(
        sql.SQL(
            "select count(*), coalesce(sum(hashtextextended(row({})::text, 0)::numeric), 0)::text"
            " from {}"
        ).format(sql.SQL(", ").join(map(sql.Identifier, columns)), relation)
    ).fetchone()
    assert row is not None
    return row[0], int(row[1])
