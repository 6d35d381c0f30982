"""The warehouse: whether it answers, its version, the bookkeeping's schema, roles and grants."""

from __future__ import annotations

import os
from collections.abc import Iterator

import psycopg

from kundenkreis.connections import Connection
from kundenkreis.doctor.findings import Finding, Patient, error, ok, or_ok, warning
from kundenkreis.errors import KundenkreisError
from kundenkreis.warehouse import embedded, roles, schema
from kundenkreis.warehouse.connection import connect, dsn_of, warehouse_dsn

SUBJECT = "warehouse"
OLDEST_POSTGRES = 14
_START = "kundenkreis warehouse start"
_MIGRATE = "kundenkreis warehouse migrate"
_ROLES = "kundenkreis warehouse roles"
_SHOWN = 5


def reach(of_airflow: Connection | None) -> tuple[str | None, list[Finding]]:
    """The warehouse's URI where it answers; else None and why not.

    Args:
        of_airflow: the connection that Airflow holds, used where the environment has none.
    """
    try:
        uses_airflow = of_airflow is not None and not os.environ.get("AIRFLOW_CONN_WAREHOUSE")
        dsn = dsn_of(of_airflow) if uses_airflow and of_airflow else warehouse_dsn()
        connect(dsn, application_name="kundenkreis doctor").close()
    except KundenkreisError as problem:
        own = os.environ.get("AIRFLOW_CONN_WAREHOUSE")
        fix = "correct AIRFLOW_CONN_WAREHOUSE (.env.example)" if own else _START
        return None, [error(SUBJECT, "connection 'warehouse'", str(problem), fix)]
    return dsn, []


def check(patient: Patient) -> Iterator[Finding]:
    """Version, schema and roles."""
    if patient.dsn is None:
        return
    with connect(patient.dsn, application_name="kundenkreis doctor") as connection:
        yield version(connection.info.server_version)
        yield _schema(connection)
        yield from _roles(connection, patient.dsn)


def version(server_version: int) -> Finding:
    """Whether this PostgreSQL is new enough.

    Args:
        server_version: as libpq tells it, 150004 for 15.4.
    """
    major, minor = divmod(server_version, 10_000)
    text = f"PostgreSQL {major}.{minor}"
    if major < OLDEST_POSTGRES:
        what = f"{text} is too old; {OLDEST_POSTGRES} is needed."
        return error(SUBJECT, "server", what, f"upgrade the server, or unset it and: {_START}")
    return ok(SUBJECT, "server", text)


def _schema(connection: psycopg.Connection) -> Finding:
    found = schema.state_other_than_current(connection)
    where = "schemas operations, history, activation, quality, quarantine"
    if found is None:
        return ok(SUBJECT, where, "up to date with this version")
    return warning(
        SUBJECT,
        where,
        f"The bookkeeping has {found}; the next night, or this command, brings it up to date.",
        _MIGRATE,
    )


def _roles(connection: psycopg.Connection, dsn: str) -> Iterator[Finding]:
    if not roles.in_use(connection):
        if embedded.serves(dsn):
            yield ok(SUBJECT, "roles", "not in use: the embedded server has one user")
        else:
            what = "Every task works with all rights of the login, and readers with those they got."
            yield warning(SUBJECT, "roles", what, _ROLES)
        return
    lacking = roles.lacking(connection)
    problems = [warning(SUBJECT, "roles", f"{text}.", _ROLES) for text in lacking[:_SHOWN]]
    if len(lacking) > _SHOWN:
        problems.append(
            warning(SUBJECT, "roles", f"And {len(lacking) - _SHOWN} more rights lack.", _ROLES)
        )
    yield from or_ok(problems, ok(SUBJECT, "roles", "every role has its rights"))
