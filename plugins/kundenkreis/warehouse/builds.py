"""What a colour was built from, so that its next build only does what has changed since.

A build may stand upon the colour's last one when that one came to its end and was published,
nothing about rules, models or configuration is different, and not too much of the data is new.
Otherwise it is a full one. What it stands upon is the set of loads it has seen, not a time: a load
that ends while another night is being built is new to whoever has not seen it (design: Warehouse).

The record is unlogged, like most tables it speaks of: a crash of the server empties both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from kundenkreis.errors import WarehouseError
from kundenkreis.settings import repository_root
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.publish import BACKFILL

# Deleting and adding most rows costs more than building the tables afresh.
LARGEST_CHANGED_SHARE = 0.2

# The raw tables that the incremental models read, with the column that names a row's load.
RAW_TABLES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "files": (("orders", "loaded_at"), ("order_lines", "loaded_at"), ("customers", "loaded_at")),
    "hubspot": (("contacts", "_dlt_load_id"),),
    "woocommerce": (
        ("orders", "_dlt_load_id"),
        ("refunds", "_dlt_load_id"),
        ("customers", "_dlt_load_id"),
    ),
}

# What differs from night to night without a difference to what is already built.
_VARIABLES_OF_THE_NIGHT = {
    "as_of_date",
    "built_as_of_date",
    "enabled_destinations",
    "marts_schema",
    "new_loads",
    "publication_id",
    "run_id",
    "segments",
}


Variables = dict[str, Any]


@dataclass(frozen=True)
class Build:
    """A build that begins.

    Attributes:
        schema: the marts schema that is built.
        as_of_date: the day that is computed.
        fingerprint: of rules, models and configuration.
        built_as_of_date: the day of the colour's build that this one stands upon; None for a full
            build.
        full_because: why it is a full one; None otherwise.
        loads: the loads there were when it began, as (source, load id).
        new_loads: those that the build it stands upon has not seen, by source.
    """

    schema: str
    as_of_date: date
    fingerprint: str
    built_as_of_date: date | None
    full_because: str | None
    loads: tuple[tuple[str, str], ...] = field(repr=False)
    new_loads: Mapping[str, list[str]]

    def variables(self) -> Variables:
        """The dbt variables that tell the models what they may stand upon."""
        return _variables(self.built_as_of_date, self.new_loads)


def fingerprint(variables: Mapping[str, Any]) -> str:
    """A text that differs where the same raw rows would give other tables.

    Args:
        variables: the dbt variables of the night.
    """
    rules = {key: value for key, value in variables.items() if key not in _VARIABLES_OF_THE_NIGHT}
    digest = hashlib.sha256(json.dumps(rules, sort_keys=True, default=str).encode())
    project = repository_root() / "dbt_project"
    files = [project / "dbt_project.yml"]
    for folder in ("macros", "models", "seeds"):
        files += sorted(path for path in (project / folder).rglob("*") if path.is_file())
    for path in files:
        if path.suffix in {".sql", ".csv"} or path.name == "dbt_project.yml":
            digest.update(path.relative_to(project).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def begin(
    dsn: str,
    schema: str,
    as_of_date: date,
    fingerprint: str,
    sources: Iterable[str],
    *,
    largest_changed_share: float = LARGEST_CHANGED_SHARE,
) -> Build:
    """Decide what a build of this colour may stand upon, and forget the colour's last build.

    Forgetting first means that a build that dies leaves a colour whose next build is a full one.

    Args:
        fingerprint: as from `fingerprint`.
        sources: the sources of sources.yml; their raw tables exist.
        largest_changed_share: where more of a raw table is new, the build is a full one.
    """
    with connect(dsn, application_name="kundenkreis transform") as connection:
        rows = _rows_by_load(connection, sources)
        built = connection.execute(
            "select as_of_date, fingerprint, run_id from operations.build_state "
            "where schema_name = %s",
            (schema,),
        ).fetchone()
        seen = set(
            connection.execute(
                "select source, load_id from operations.built_loads where schema_name = %s",
                (schema,),
            )
        )
        reason = (
            _why_not(connection, schema, as_of_date, fingerprint, built)
            if built
            else "this schema holds no complete build"
        )
        reason = reason or _too_much_changed(rows, seen, largest_changed_share)
        connection.execute("delete from operations.build_state where schema_name = %s", (schema,))
    return Build(
        schema=schema,
        as_of_date=as_of_date,
        fingerprint=fingerprint,
        built_as_of_date=None if reason or built is None else built[0],
        full_because=reason,
        loads=tuple(sorted(rows)),
        new_loads=_by_source(rows.keys() - seen),
    )


def drop_what_is_no_model(dsn: str, schema: str) -> list[str]:
    """Drop what a marts schema that nobody reads holds of models that are gone.

    dbt leaves the last table of a removed model where it is, and it would be published for ever.
    Never with what somebody built on it.

    Returns:
        The names of what was dropped.

    Raises:
        WarehouseError: something outside stands on it; names it.
    """
    folder = repository_root() / "dbt_project" / "models" / "marts"
    models = [path.stem for path in folder.rglob("*.sql")]
    with connect(dsn, application_name="kundenkreis transform") as connection:
        gone = connection.execute(
            """
            select relation.relname, relation.relkind = 'v'
            from pg_class as relation
            inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
            where
                namespace.nspname = %s
                and relation.relkind in ('r', 'v', 'p')
                and relation.relname <> all(%s)
            order by relation.relkind = 'v' desc, relation.relname
            """,
            (schema, models),
        ).fetchall()
        for name, is_view in gone:
            kind = sql.SQL("view" if is_view else "table")
            try:
                connection.execute(sql.SQL("drop {} {}").format(kind, sql.Identifier(schema, name)))
            except psycopg.errors.DependentObjectsStillExist as error:
                raise WarehouseError(
                    f"{schema}.{name} belongs to no model any more, but something stands on it: "
                    f"{error.diag.message_detail}. Let it read schema marts, or drop it."
                ) from None
    return [name for name, _ in gone]


def complete(dsn: str, build: Build, run_id: str) -> None:
    """Remember that the colour holds this build."""
    with connect(dsn, application_name="kundenkreis transform") as connection:
        connection.execute(
            """
            insert into operations.build_state
                (schema_name, as_of_date, built_as_of_date, new_loads, fingerprint, run_id)
            values (%s, %s, %s, %s, %s, %s)
            on conflict (schema_name) do update set
                as_of_date = excluded.as_of_date,
                built_as_of_date = excluded.built_as_of_date,
                new_loads = excluded.new_loads,
                fingerprint = excluded.fingerprint,
                run_id = excluded.run_id
            """,
            (
                build.schema,
                build.as_of_date,
                build.built_as_of_date,
                json.dumps(dict(build.new_loads)),
                build.fingerprint,
                run_id,
            ),
        )
        connection.execute(
            "delete from operations.built_loads where schema_name = %s", (build.schema,)
        )
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "copy operations.built_loads (schema_name, source, load_id) from stdin"
            ) as copy,
        ):
            for source, load_id in build.loads:
                copy.write_row((build.schema, source, load_id))


def variables_of(dsn: str, schema: str) -> Variables:
    """`Build.variables` of the build that a colour holds."""
    with connect(dsn) as connection:
        row = connection.execute(
            "select built_as_of_date, new_loads from operations.build_state where schema_name = %s",
            (schema,),
        ).fetchone()
    return _variables(*row) if row else _variables(None, {})


def _variables(built_as_of_date: date | None, new_loads: Mapping[str, list[str]]) -> Variables:
    if built_as_of_date is None:
        return {"built_as_of_date": None, "new_loads": {}}
    return {"built_as_of_date": built_as_of_date.isoformat(), "new_loads": dict(new_loads)}


def _by_source(loads: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for source, load_id in sorted(loads):
        found.setdefault(source, []).append(load_id)
    return found


def _why_not(
    connection: psycopg.Connection,
    schema: str,
    as_of_date: date,
    fingerprint: str,
    built: tuple[Any, ...],
) -> str | None:
    built_as_of, built_fingerprint, run_id = built
    dirty = connection.execute(
        "select reason from operations.dirty_schemas where schema_name = %s", (schema,)
    ).fetchone()
    published = connection.execute(
        "select 1 from history.publications where dag_run_id = %s and schema_name = %s",
        (run_id, schema),
    ).fetchone()
    if schema == BACKFILL:
        return "a backfill is built in full"
    if dirty:
        return str(dirty[0])
    if not published:
        return "the last build of this schema was not published"
    if built_fingerprint != fingerprint:
        return "models or configuration have changed"
    if as_of_date < built_as_of:
        return f"the last build of this schema computed {built_as_of}"
    return None


Rows = dict[tuple[str, str], dict[str, int]]


def _rows_by_load(connection: psycopg.Connection, sources: Iterable[str]) -> Rows:
    """How many rows each load left in each table, by (source, load id)."""
    found: Rows = {}
    for source in sources:
        for table, column in RAW_TABLES.get(source, ()):
            query = sql.SQL(
                "select {column}::text, count(*) from {table} "
                "where {column} is not null group by {column}"
            ).format(column=sql.Identifier(column), table=sql.Identifier(f"raw_{source}", table))
            for load_id, rows in connection.execute(query):
                found.setdefault((source, load_id), {})[f"{source}.{table}"] = rows
    return found


def _too_much_changed(
    rows: Rows, seen: set[tuple[str, str]], largest_changed_share: float
) -> str | None:
    total: dict[str, int] = {}
    new: dict[str, int] = {}
    for load, tables in rows.items():
        for table, count in tables.items():
            total[table] = total.get(table, 0) + count
            new[table] = new.get(table, 0) + (0 if load in seen else count)
    for table, count in sorted(total.items()):
        if new[table] > largest_changed_share * count:
            return f"{new[table]:,} of {count:,} rows of raw_{table} are new"
    return None
