"""Creates the schemas and tables that dbt and dlt do not create. Safe to run at any time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import psycopg
from psycopg import sql

from kundenkreis.warehouse.connection import connect

# Any constant does; it only has to be the same for everybody who creates the schemas.
_SCHEMA_LOCK = 7_202_611_001


def ensure_schemas(dsn: str, *, again: bool = False) -> None:
    """Run every ``schema*.sql`` beside this file, in the order of their names, in one transaction.

    Nothing where the warehouse has had exactly these files before, which the comment of schema
    ``operations`` says: every task asks, and even a statement that finds nothing to do waits for
    whoever reads the table or view, with all readers after it waiting too. An advisory lock keeps
    two tasks from racing.

    Args:
        again: run the statements anyway, which are idempotent: for what somebody has dropped.
    """
    files = _files()
    version = _version_of(files)
    with connect(dsn, application_name="kundenkreis schema") as connection:
        if not again and _version(connection) == version:
            return
        connection.execute("select pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        connection.execute("set local client_min_messages = warning")
        for statements in files:
            connection.execute(statements.encode())
        connection.execute(
            sql.SQL("comment on schema operations is {}").format(sql.Literal(version))
        )


def state_other_than_current(connection: psycopg.Connection) -> str | None:
    """What the warehouse has instead of these files: ``nothing``, ``another version`` or None."""
    found = _version(connection)
    if found is None:
        return "nothing"
    return None if found == _version_of(_files()) else "another version"


def _files() -> list[str]:
    return [file.read_text() for file in sorted(Path(__file__).parent.glob("schema*.sql"))]


def _version_of(files: list[str]) -> str:
    return f"Kundenkreis {hashlib.sha256(''.join(files).encode()).hexdigest()}"


def _version(connection: psycopg.Connection) -> str | None:
    row = connection.execute(
        "select obj_description(to_regnamespace('operations')::oid, 'pg_namespace')"
    ).fetchone()
    return row[0] if row else None
