"""The copy of what is held about one person (GDPR, Article 15), from raw rows to the ledger.

Finds rows by the same rules as the erasure, so what is not in the copy is what an erasure would not
find either.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from kundenkreis.errors import DataError
from kundenkreis.privacy.person import Person, find_person
from kundenkreis.privacy.places import COLOURS, Step, steps_of, warehouse_places
from kundenkreis.warehouse import SEES_PERSONAL_DATA
from kundenkreis.warehouse.publish import live_schema

PURPOSES = {
    "raw": "What the source sent, kept so that the customer tables can be computed again.",
    "quarantine": "A row that could not be used, kept until somebody has worked it off.",
    "intermediate": "A step between what the sources sent and the customer tables.",
    "marts": "The customer tables: analysis of orders, lifecycle and consent, and selection of "
    "recipients.",
    "history": "What earlier nights knew: changes of stage and segment, and the customer number.",
    "operations": "What a rollback would restore.",
    "activation": "What was planned for, sent to and read from the email tools, as proof of what "
    "was done.",
}
"""Why each kind of schema holds persons."""

_MAY_SEE = """
select coalesce(pg_has_role(to_regrole(%s)::oid, 'usage'), false) or not exists (
    select 1 from pg_namespace
    where (nspname like 'raw\\_%%' or nspname in ('quarantine', 'activation', 'history'))
        and not has_schema_privilege(oid, 'usage')
)
"""
_MAY_READ = """
select format('%%I.%%I', schemaname, tablename) from pg_tables
where schemaname = any(%s) and not has_table_privilege(
    format('%%I.%%I', schemaname, tablename), 'select'
)
order by 1 limit 1
"""


def export_person(connection: psycopg.Connection, subject: str) -> dict[str, Any]:
    """Everything that is held about a person.

    Of the two colours of the customer tables only the one that readers see: the other one holds the
    same of the night before, until the next night.

    Args:
        subject: a customer id or an address.

    Returns:
        ``{"exported_at", "customer_ids", "addresses", "source_records", "places": {schema:
        {"purpose", "tables": {table: [row]}}}}``, ready for `json.dumps`.

    Raises:
        DataError: there is no such person, or this login may not see personal data.
    """
    _require_sight(connection)
    live = live_schema(connection)
    person = find_person(connection, subject)
    places: dict[str, Any] = {}
    for place in warehouse_places(connection):
        if place in COLOURS and place != live:
            continue
        for step in steps_of(connection, place, person):
            if not step.of_others:
                _add(places, step, _rows(connection, step))
    _add_rows_under_way(connection, person, places)
    if live is not None:
        _add_views(connection, live, person, places)
    if not any(held["tables"] for held in places.values()):
        raise DataError("Nothing is held about this person.")
    return {
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "customer_ids": sorted(person.customers),
        "addresses": sorted(person.addresses),
        "source_records": [
            {"source": source, "type": kind, "id": key}
            for source, kind, key in sorted(person.records)
        ],
        "places": places,
    }


def write_private(file: Path, copy: dict[str, Any]) -> None:
    """Write a copy to a new file that only its owner may read.

    Raises:
        DataError: the file is there already, or cannot be written.
    """
    text = json.dumps(copy, indent=2, ensure_ascii=False, default=str)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise DataError(f"{file} is there already; name another file, or remove it.") from None
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror}.") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "\n")


def _require_sight(connection: psycopg.Connection) -> None:
    row = connection.execute(_MAY_SEE, (SEES_PERSONAL_DATA,)).fetchone()
    schemas = [
        name
        for (name,) in connection.execute(
            "select nspname from pg_namespace where nspname like 'raw\\_%' or nspname like "
            "'marts\\_%' or nspname like 'intermediate\\_%' or nspname in "
            "('quarantine', 'activation', 'history')"
        )
    ]
    hidden = [
        name
        for name in schemas
        if connection.execute("select has_schema_privilege(%s, 'usage')", (name,)).fetchone()
        != (True,)
    ]
    unreadable = None if hidden else connection.execute(_MAY_READ, (schemas,)).fetchone()
    if row != (True,) or hidden or unreadable:
        where = f"schema {hidden[0]}" if hidden else (unreadable or ["personal data"])[0]
        raise DataError(
            f"This login may not see {where}, so its copy would not be whole, and whoever may not "
            "see personal data may not export it. Use the login that owns the warehouse."
        )


def _rows(connection: psycopg.Connection, step: Step) -> list[Any]:
    query = sql.SQL("select to_jsonb(t) from {} as t where {}").format(
        sql.Identifier(step.schema, step.table), step.where
    )
    return [row[0] for row in connection.execute(query, step.parameters)]


def _add(places: dict[str, Any], step: Step, rows: list[Any]) -> None:
    if not rows:
        return
    kind = step.schema.partition("_")[0]
    held = places.setdefault(step.schema, {"purpose": PURPOSES[kind], "tables": {}})
    known = held["tables"].setdefault(step.table, [])
    # One row may be found by its key and by its address.
    known += [row for row in rows if row not in known]


def _add_rows_under_way(
    connection: psycopg.Connection, person: Person, places: dict[str, Any]
) -> None:
    """The person's rows of batches under way, each of which holds those of others as well."""
    step = Step(
        "activation",
        "rows_under_way",
        sql.SQL("t.customer_id = any(%(customers)s) or t.address = any(%(addresses)s)"),
        {"customers": sorted(person.customers), "addresses": sorted(person.addresses)},
    )
    _add(places, step, _rows(connection, step))


def _add_views(
    connection: psycopg.Connection, live: str, person: Person, places: dict[str, Any]
) -> None:
    """Stays and stages, which the colour shows as views of intermediate tables."""
    views = connection.execute(
        "select viewname from pg_views where schemaname = %s order by 1", (live,)
    ).fetchall()
    for (view,) in views:
        columns = {
            name
            for (name,) in connection.execute(
                "select column_name from information_schema.columns "
                "where table_schema = %s and table_name = %s",
                (live, view),
            )
        }
        if "customer_id" not in columns:
            continue
        step = Step(
            live,
            view,
            sql.SQL("customer_id = any(%(customers)s)"),
            {"customers": sorted(person.customers)},
        )
        _add(places, step, _rows(connection, step))
