"""How to reach the warehouse: ``AIRFLOW_CONN_WAREHOUSE`` or the embedded server."""

from __future__ import annotations

import os
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from kundenkreis.connections import Connection, bracketed, connection_from_environment
from kundenkreis.errors import WarehouseError
from kundenkreis.redaction import first_lines
from kundenkreis.warehouse import embedded

CONNECTION_ID = "warehouse"


def warehouse_dsn() -> str:
    """The warehouse's libpq URI. The embedded server must be running already.

    Raises:
        WarehouseError: there is neither a connection nor an embedded server.
    """
    if os.environ.get("AIRFLOW_CONN_WAREHOUSE"):
        return dsn_of(connection_from_environment(CONNECTION_ID))
    server = embedded.default_server()
    if not server.port:
        raise WarehouseError(
            "There is no warehouse yet. Run `kundenkreis warehouse start` for the embedded one, "
            "or set AIRFLOW_CONN_WAREHOUSE to your own PostgreSQL."
        )
    return server.dsn()


def dsn_of(connection: Connection) -> str:
    """Turn a connection into a libpq URI."""
    login = quote(connection.login, safe="")
    password = quote(connection.password, safe="")
    host = bracketed(connection.host or "127.0.0.1")
    database = quote(connection.path or "warehouse", safe="")
    options = "&".join(f"{key}={quote(value, safe='')}" for key, value in connection.extra.items())
    return f"postgresql://{login}:{password}@{host}:{connection.port or 5432}/{database}" + (
        f"?{options}" if options else ""
    )


def connect(
    dsn: str | None = None,
    *,
    application_name: str = "kundenkreis",
    autocommit: bool = False,
) -> psycopg.Connection:
    """Open a session on the warehouse.

    Raises:
        WarehouseError: it cannot be reached; the message names host, port and database.
    """
    dsn = dsn or warehouse_dsn()
    try:
        return psycopg.connect(
            dsn, application_name=application_name, autocommit=autocommit, connect_timeout=15
        )
    except psycopg.OperationalError as error:
        raise WarehouseError(_unreachable(dsn, error)) from None
    except psycopg.ProgrammingError as error:
        raise WarehouseError(
            f"AIRFLOW_CONN_WAREHOUSE cannot be used: {first_lines(str(error))}. "
            "Its extra may hold libpq parameters only, for example sslmode."
        ) from None


def with_option(dsn: str, option: str) -> str:
    """Add a server option to a libpq URI; psycopg, dlt, dbt and Great Expectations pass it on."""
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    query["options"] = f"{query.get('options', '')} {option}".strip()
    return urlunsplit(parts._replace(query=urlencode(query, quote_via=quote)))


def dbt_environment(dsn: str) -> dict[str, str]:
    """The environment variables that dbt_project/profiles.yml reads, and libpq's for the rest."""
    parts = conninfo_to_dict(dsn)
    # By the environment and not by the profile: dbt would parse anew where the role differs.
    options = {"PGOPTIONS": str(parts["options"])} if parts.get("options") else {}
    return {
        **options,
        "KUNDENKREIS_DBT_HOST": str(parts.get("host") or "127.0.0.1"),
        "KUNDENKREIS_DBT_PORT": str(parts.get("port") or 5432),
        "KUNDENKREIS_DBT_USER": str(parts.get("user") or ""),
        "KUNDENKREIS_DBT_PASSWORD": str(parts.get("password") or ""),
        "KUNDENKREIS_DBT_DBNAME": str(parts.get("dbname") or "warehouse"),
        "KUNDENKREIS_DBT_SSLMODE": str(parts.get("sslmode") or "prefer"),
    }


def _unreachable(dsn: str, error: psycopg.OperationalError) -> str:
    parts = conninfo_to_dict(dsn)
    where = f"{parts.get('host')}:{parts.get('port')}/{parts.get('dbname')}"
    reason = first_lines(str(error), 1).rpartition(" failed: ")[2] or "no answer"
    return (
        f"The warehouse at {where} cannot be reached: {reason}. Start the embedded one with "
        "`kundenkreis warehouse start`, or check AIRFLOW_CONN_WAREHOUSE."
    )
