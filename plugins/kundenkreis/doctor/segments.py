"""Segments that have nobody for want of data: a column they require is empty for everybody."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import sql

from kundenkreis.doctor.findings import Finding, Patient, ok, or_ok, warning
from kundenkreis.quality.filled_by import filled_by
from kundenkreis.warehouse.connection import connect

SUBJECT = "segments"


def check(patient: Patient) -> Iterator[Finding]:
    """Compare what segments require with what is published."""
    if patient.settings is None:
        return
    where = patient.settings.folder / "segments.yml"
    off = sorted(set(patient.settings.segments) - set(patient.settings.active_segments))
    if off:
        yield ok(SUBJECT, str(where), f"switched off (enabled: false): {', '.join(off)}")
    if patient.dsn is None:
        return
    required = {key: one.requires for key, one in patient.settings.active_segments.items()}
    wanted = sorted({column for columns in required.values() for column in columns})
    with connect(patient.dsn, application_name="kundenkreis doctor") as connection:
        empty = _empty(connection, wanted)
    if empty is None:
        yield ok(SUBJECT, "marts.customer_360", "nothing is published yet")
        return
    problems = [
        _lacking(key, [column for column in columns if column in empty], empty)
        for key, columns in sorted(required.items())
        if set(columns) & set(empty)
    ]
    yield from or_ok(problems, ok(SUBJECT, str(where), "every required column is filled"))


def _lacking(key: str, columns: list[str], empty: dict[str, str]) -> Finding:
    reasons = "; ".join(f"{column} {empty[column]}" for column in columns)
    return warning(
        SUBJECT,
        f"segment {key}",
        f"It has no members until {'this is' if len(columns) == 1 else 'these are'} filled: "
        f"{reasons}.",
        f"let a source deliver it, or in segments.yml under {key}:  enabled: false",
    )


def _empty(connection: psycopg.Connection, columns: list[str]) -> dict[str, str] | None:
    """Columns that hold nothing for anybody, with why; None where nothing is published."""
    rows = connection.execute(
        "select column_name from information_schema.columns "
        "where table_schema = 'marts' and table_name = 'customer_360'"
    ).fetchall()
    there = {name for (name,) in rows}
    if not there:
        return None
    found = {column: "is no column of customer_360" for column in columns if column not in there}
    for column in columns:
        if column in there and not _is_filled(connection, column):
            found[column] = f"is empty for everybody ({filled_by(column)})"
    return found


def _is_filled(connection: psycopg.Connection, column: str) -> bool:
    row = connection.execute(
        sql.SQL("select exists (select from marts.customer_360 where {} is not null)").format(
            sql.Identifier(column)
        )
    ).fetchone()
    return row == (True,)
