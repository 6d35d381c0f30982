"""What each night knew: copied in the publish transaction, taken back by a rollback.

History rows are built beside the marts, in tables named ``history_<table>``. A night's rows are
replaced by its as-of date, so a failed night writes none and a repeated one doubles none (design:
Warehouse).
"""

from __future__ import annotations

from datetime import date

import psycopg
from psycopg import sql

from kundenkreis.errors import PublicationRefused

HISTORY_PREFIX = "history_"

Columns = dict[str, dict[str, str]]

_COLUMNS = """
select relation.relname, attribute.attname, format_type(attribute.atttypid, attribute.atttypmod)
from pg_attribute as attribute
inner join pg_class as relation on relation.oid = attribute.attrelid
inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
where
    namespace.nspname = %s
    and relation.relkind in ('r', 'v', 'p')
    and attribute.attnum > 0
    and not attribute.attisdropped
order by relation.relname, attribute.attnum
"""


def columns_of(connection: psycopg.Connection, schema: str) -> Columns:
    """Per table or view of a schema, its columns with their types, in their order."""
    found: Columns = {}
    for relation, column, data_type in connection.execute(_COLUMNS, (schema,)):
        found.setdefault(relation, {})[column] = data_type
    return found


def copy_history(
    connection: psycopg.Connection, schema: str, as_of_date: date, publication_id: int | None
) -> None:
    """Replace the night's rows in ``history`` by those that were built beside the marts.

    Args:
        publication_id: None for a backfill, which publishes nothing.

    Raises:
        PublicationRefused: the warehouse lacks a table.
    """
    targets = columns_of(connection, "history")
    for name, columns in columns_of(connection, schema).items():
        if not name.startswith(HISTORY_PREFIX):
            continue
        target = name.removeprefix(HISTORY_PREFIX)
        if target not in targets:
            raise PublicationRefused(
                f"{schema}.{name} has no table history.{target} to go to. "
                "Run `kundenkreis warehouse migrate`."
            )
        shared = [column for column in columns if column in targets[target]]
        if target == "customer_ids":
            if publication_id is not None:
                _remember_customer_ids(connection, schema, publication_id)
            _merge_customer_ids(connection, schema, shared)
        elif target == "identity_changes":
            _add_identity_changes(connection, schema, shared, publication_id)
        else:
            _replace_night(
                connection,
                schema,
                target,
                shared,
                as_of_date,
                publication_id if "publication_id" in targets[target] else None,
            )


def take_back(
    connection: psycopg.Connection, publication_id: int, as_of_date: date
) -> dict[str, int]:
    """Remove what a publication wrote; what it changed becomes what it was.

    Returns:
        Rows per table that were removed or changed back.
    """
    counts = {}
    for table, columns in columns_of(connection, "history").items():
        if table in ("publications", "customer_ids") or "as_of_date" not in columns:
            continue
        own = sql.SQL("as_of_date = {}").format(sql.Literal(as_of_date))
        if "publication_id" in columns:
            # A backfill of the same day since then has rows of its own.
            own = sql.SQL("{} and publication_id = {}").format(own, sql.Literal(publication_id))
        removed = connection.execute(
            sql.SQL("delete from history.{} where {}").format(sql.Identifier(table), own)
        )
        counts[table] = removed.rowcount
    counts["customer_ids"] = _restore_customer_ids(connection, publication_id)
    return {table: count for table, count in counts.items() if count}


def _replace_night(
    connection: psycopg.Connection,
    schema: str,
    target: str,
    columns: list[str],
    as_of_date: date,
    publication_id: int | None,
) -> None:
    connection.execute(
        sql.SQL("delete from history.{} where as_of_date = %s").format(sql.Identifier(target)),
        (as_of_date,),
    )
    names = [sql.Identifier(column) for column in columns if column != "publication_id"]
    values: list[sql.Composable] = list(names)
    if publication_id is not None:
        names = [*names, sql.Identifier("publication_id")]
        values = [*values, sql.Literal(publication_id)]
    connection.execute(
        sql.SQL("insert into history.{} ({}) select {} from {}.{}").format(
            sql.Identifier(target),
            sql.SQL(", ").join(names),
            sql.SQL(", ").join(values),
            sql.Identifier(schema),
            sql.Identifier(HISTORY_PREFIX + target),
        )
    )


def _remember_customer_ids(
    connection: psycopg.Connection, schema: str, publication_id: int
) -> None:
    """Keep what a rollback of this publication would have to restore."""
    connection.execute("delete from operations.customer_ids_before")
    connection.execute(
        sql.SQL(
            "insert into operations.customer_ids_before "
            "(publication_id, source, source_record_type, source_id, customer_id) "
            "select {}, built.source, built.source_record_type, built.source_id, known.customer_id "
            "from {}.{} as built "
            "left join history.customer_ids as known "
            "using (source, source_record_type, source_id) "
            "where known.customer_id is distinct from built.customer_id"
        ).format(
            sql.Literal(publication_id),
            sql.Identifier(schema),
            sql.Identifier(HISTORY_PREFIX + "customer_ids"),
        )
    )


def _restore_customer_ids(connection: psycopg.Connection, publication_id: int) -> int:
    before = "from operations.customer_ids_before as before where before.publication_id = %s"
    same = (
        "customer_ids.source = before.source "
        "and customer_ids.source_record_type = before.source_record_type "
        "and customer_ids.source_id = before.source_id"
    )
    moved = connection.execute(
        f"update history.customer_ids set customer_id = before.customer_id {before} "
        f"and before.customer_id is not null and {same}".encode(),
        (publication_id,),
    )
    assigned = connection.execute(
        "delete from history.customer_ids using operations.customer_ids_before as before "
        f"where before.publication_id = %s and before.customer_id is null and {same}".encode(),
        (publication_id,),
    )
    connection.execute("delete from operations.customer_ids_before")
    return moved.rowcount + assigned.rowcount


def _merge_customer_ids(connection: psycopg.Connection, schema: str, columns: list[str]) -> None:
    """Customer ids are assigned once: rows are added, and moved only when customers merged."""
    connection.execute(
        sql.SQL(
            "insert into history.customer_ids ({columns}) select {columns} from {schema}.{table} "
            "on conflict (source, source_record_type, source_id) do update "
            "set customer_id = excluded.customer_id "
            "where customer_ids.customer_id <> excluded.customer_id"
        ).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            schema=sql.Identifier(schema),
            table=sql.Identifier(HISTORY_PREFIX + "customer_ids"),
        )
    )


def _add_identity_changes(
    connection: psycopg.Connection, schema: str, columns: list[str], publication_id: int | None
) -> None:
    """Who was merged stays merged when the night is repeated, so its rows are only added to."""
    connection.execute(
        sql.SQL(
            "insert into history.identity_changes ({columns}, publication_id) "
            "select {columns}, {publication_id} from {schema}.{table} "
            "on conflict (as_of_date, customer_id, other_customer_id) do nothing"
        ).format(
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            publication_id=sql.Literal(publication_id),
            schema=sql.Identifier(schema),
            table=sql.Identifier(HISTORY_PREFIX + "identity_changes"),
        )
    )
