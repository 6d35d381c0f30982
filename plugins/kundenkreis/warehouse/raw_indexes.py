"""Indexes on the raw tables, so that a night finds what is new without reading all there is.

The incremental models ask which rows a load wrote, which rows a day has made due, and which row has
a key (`dbt_project/macros/incremental.sql`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psycopg import sql

from kundenkreis.warehouse.connection import connect

# Staging hands numbers out as text, so their index is on the text.
_ID = {"id": "cast(id as text)"}

LOOKUPS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "raw_files": {
        "customers": {column: column for column in ("loaded_at", "created_at", "customer_key")},
        "orders": {
            column: column for column in ("loaded_at", "ordered_at", "delivered_at", "order_key")
        },
        "order_lines": {
            column: column for column in ("loaded_at", "ordered_at", "delivered_at", "order_key")
        },
    },
    "raw_hubspot": {
        "contacts": {"load": "_dlt_load_id", "createdate": "createdate", **_ID},
    },
    "raw_woocommerce": {
        "customers": {"load": "_dlt_load_id", "created": "date_created_gmt", **_ID},
        "orders": {
            "load": "_dlt_load_id",
            "created": "date_created_gmt",
            "completed": "date_completed_gmt",
            **_ID,
        },
        "orders__line_items": {"parent": "_dlt_parent_id"},
        "refunds": {
            "load": "_dlt_load_id",
            "created": "date_created_gmt",
            "parent_id": "cast(parent_id as text)",
        },
    },
}
"""Per raw schema and table: a name and what the index of that name is on."""


def ensure_raw_indexes(dsn: str, schema: str, tables: Iterable[str]) -> None:
    """Create what is missing of the indexes of one source's raw tables, which must exist."""
    present = set(tables)
    with connect(dsn, application_name=f"kundenkreis {schema}") as connection:
        connection.execute("set local client_min_messages = warning")
        for table, indexes in LOOKUPS.get(schema, {}).items():
            for name, expression in indexes.items() if table in present else ():
                connection.execute(
                    sql.SQL("create index if not exists {} on {} (({}))").format(
                        sql.Identifier(f"{table}_{name}_lookup"),
                        sql.Identifier(schema, table),
                        sql.SQL(expression),
                    )
                )
