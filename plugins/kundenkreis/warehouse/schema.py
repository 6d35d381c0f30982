"""Creates the schemas and tables that dbt and dlt do not create. Safe to run at any time."""

from __future__ import annotations

from pathlib import Path

from kundenkreis.warehouse.connection import connect

# Any constant does; it only has to be the same for everybody who creates the schemas.
_SCHEMA_LOCK = 7_202_611_001


def ensure_schemas(dsn: str) -> None:
    """Run every ``schema*.sql`` beside this file, in the order of their names, in one transaction.

    The statements are idempotent, and an advisory lock keeps two tasks from racing.
    """
    with connect(dsn, application_name="kundenkreis schema") as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        connection.execute("set local client_min_messages = warning")
        for file in sorted(Path(__file__).parent.glob("schema*.sql")):
            connection.execute(file.read_text().encode())
