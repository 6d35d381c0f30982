"""Write-audit-publish: two colours of the marts, and one transaction that turns readers over.

The marts are built into the colour that nobody reads. `publish` then points the views of schema
``marts`` at it, copies the night's history rows and records the publication, all in one
transaction, so every statement of a reader sees one night or the other (design: Warehouse).
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
from psycopg import sql

from kundenkreis.errors import BuildBusy, PublicationRefused, Superseded, WarehouseError
from kundenkreis.failpoints import reach
from kundenkreis.warehouse import privacy
from kundenkreis.warehouse.connection import connect

BLUE, GREEN, BACKFILL = "marts_blue", "marts_green", "marts_backfill"
HISTORY_PREFIX = "history_"

_BUILD_LOCK = 7_202_611_002
_DBT_LOCK = 7_202_611_003

_LIVE_SCHEMA = """
select distinct target_schema.nspname
from pg_depend as dependency
inner join pg_rewrite as rule on rule.oid = dependency.objid
inner join pg_class as view on view.oid = rule.ev_class
inner join pg_namespace as view_schema on view_schema.oid = view.relnamespace
inner join pg_class as target on target.oid = dependency.refobjid
inner join pg_namespace as target_schema on target_schema.oid = target.relnamespace
where
    dependency.classid = 'pg_rewrite'::regclass
    and dependency.refclassid = 'pg_class'::regclass
    and view_schema.nspname = 'marts'
    and target_schema.nspname <> 'marts'
"""

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

# Views of anybody's that stand on views of `marts`.
_DEPENDENTS = """
select distinct format('%%I.%%I', view_schema.nspname, view.relname)
from pg_depend as dependency
inner join pg_rewrite as rule on rule.oid = dependency.objid
inner join pg_class as view on view.oid = rule.ev_class
inner join pg_namespace as view_schema on view_schema.oid = view.relnamespace
inner join pg_class as target on target.oid = dependency.refobjid
inner join pg_namespace as target_schema on target_schema.oid = target.relnamespace
where
    dependency.classid = 'pg_rewrite'::regclass
    and dependency.refclassid = 'pg_class'::regclass
    and target_schema.nspname = 'marts'
    and target.relname = any(%s)
    and view.oid <> target.oid
order by 1
"""

# A transaction that took its snapshot before the colour was built sees its new tables empty.
# Sessions of other users show here only to a superuser or a member of pg_read_all_stats.
_OLDER_SNAPSHOTS = """
select count(*)
from pg_stat_activity
where
    datname = current_database()
    and pid <> pg_backend_pid()
    and backend_type = 'client backend'
    and backend_xmin is not null
    and xact_start < %s
"""
_SNAPSHOT_WAIT_SECONDS = 60

Columns = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Publication:
    """One turn of the marts."""

    publication_id: int
    as_of_date: date
    schema_name: str


def intermediate_schema(marts_schema: str) -> str:
    """The schema of the tables that the marts of a colour stand upon."""
    return "intermediate_" + marts_schema.removeprefix("marts_")


def live_schema(connection: psycopg.Connection) -> str | None:
    """The colour the views of ``marts`` read; None before the first publication.

    Raises:
        WarehouseError: the views read more than one schema, so somebody changed them by hand.
    """
    schemas = [row[0] for row in connection.execute(_LIVE_SCHEMA)]
    if len(schemas) > 1:
        raise WarehouseError(
            "The views of schema marts read several schemas "
            f"({', '.join(sorted(schemas))}). Publish again with `kundenkreis run`."
        )
    return schemas[0] if schemas else None


def current_publication(connection: psycopg.Connection) -> Publication | None:
    """The newest publication; None before the first."""
    row = connection.execute(
        "select publication_id, as_of_date, schema_name from history.publications "
        "order by publication_id desc limit 1"
    ).fetchone()
    return Publication(*row) if row else None


def looks_back(published: Publication | None, as_of_date: date, is_backfill: bool) -> bool:
    """Whether a run fills history only: a backfill, or a date before the published one."""
    return is_backfill or (published is not None and as_of_date < published.as_of_date)


def begin_build(dsn: str, run_id: str, as_of_date: date, is_backfill: bool) -> str:
    """Choose the colour this run builds, and take the build lease.

    A later run takes the lease over; the tasks of the earlier run notice it (`require_lease`)
    and stop, so two runs never build or publish the same colour. A backfill takes it from nobody
    who is still at work: it disturbs no night, and days that are backfilled at once take turns.

    Returns:
        The schema to build: the colour that is not published, or ``marts_backfill`` where the run
        is a backfill or its date lies before the published one.

    Raises:
        BuildBusy: a backfill has to wait for another run.
    """
    with connect(dsn, application_name="kundenkreis transform") as connection:
        connection.execute("select pg_advisory_xact_lock(%s)", (_BUILD_LOCK,))
        published = current_publication(connection)
        backfill = looks_back(published, as_of_date, is_backfill)
        live = live_schema(connection)
        schema = BACKFILL if backfill else GREEN if live == BLUE else BLUE
        if backfill:
            _require_turn(connection, run_id)
        connection.execute(
            """
            insert into operations.build_lease (run_id, schema_name, as_of_date, is_backfill)
            values (%s, %s, %s, %s)
            on conflict (only_one) do update set
                run_id = excluded.run_id,
                schema_name = excluded.schema_name,
                as_of_date = excluded.as_of_date,
                is_backfill = excluded.is_backfill,
                taken_at = now(),
                renewed_at = now(),
                is_over = false
            """,
            (run_id, schema, as_of_date, backfill),
        )
    return schema


# Between two of a run's tasks lie seconds, or the pause before a retry. Who shows no sign of life
# for longer was killed.
_SILENCE_MINUTES = 15

_AT_WORK = """
select run_id, schema_name
from operations.build_lease
where
    run_id <> %(run_id)s
    and not is_over
    and (
        renewed_at > now() - make_interval(mins => %(silence)s)
        or exists (
            select 1 from pg_locks
            where
                locktype = 'advisory' and granted and objsubid = 1
                and database = (select oid from pg_database where datname = current_database())
                and (classid::bigint << 32) + objid::bigint = %(lock)s
        )
    )
"""


def _require_turn(connection: psycopg.Connection, run_id: str) -> None:
    keys = {"run_id": run_id, "silence": _SILENCE_MINUTES, "lock": _DBT_LOCK}
    row = connection.execute(_AT_WORK, keys).fetchone()
    if row:
        raise BuildBusy(
            f"Run '{row[0]}' builds {row[1]}. A backfill waits until it is done, or has shown no "
            f"sign of life for {_SILENCE_MINUTES} minutes."
        )


def end_build(dsn: str, run_id: str) -> None:
    """A run needs no colour any more, so a backfill has not to wait for it."""
    with connect(dsn) as connection:
        connection.execute(
            "update operations.build_lease set is_over = true where run_id = %s", (run_id,)
        )


def require_lease(connection: psycopg.Connection, run_id: str, schema: str) -> None:
    """Stop a run that another run has overtaken.

    Raises:
        Superseded: names the run that holds the lease now.
    """
    row = connection.execute("select run_id, schema_name from operations.build_lease").fetchone()
    if row != (run_id, schema):
        holder = f"run '{row[0]}' builds {row[1]} now" if row else "no run holds the build"
        raise Superseded(
            f"Run '{run_id}' no longer builds {schema}: {holder}. Clear `transform` and "
            "downstream to build again, or leave it: the other run does the same work."
        )


@contextmanager
def building(dsn: str, run_id: str, schema: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the right to write with dbt, for as long as the block lasts.

    The lease says who may build, but a run that lost it may be in the middle of a build, and
    staging is the same for every colour. The lock ends with the session,
    so a run that died never holds it.

    Raises:
        Superseded: another run builds now.
    """
    with connect(dsn, application_name="kundenkreis build", autocommit=True) as connection:
        row = connection.execute("select pg_try_advisory_lock(%s)", (_DBT_LOCK,)).fetchone()
        if row != (True,):
            progress("waits for the build of another run to end")
            connection.execute("select pg_advisory_lock(%s)", (_DBT_LOCK,))
        require_lease(connection, run_id, schema)
        _renew(connection, run_id)
        yield
        _renew(connection, run_id)


def _renew(connection: psycopg.Connection, run_id: str) -> None:
    """A sign of life; nothing where another run has taken over."""
    connection.execute(
        "update operations.build_lease set renewed_at = now(), is_over = false where run_id = %s",
        (run_id,),
    )


def mark_dirty(dsn: str, schema: str, reason: str) -> None:
    """Remember that a colour failed its gate; it is never published before it is built anew."""
    with connect(dsn) as connection:
        connection.execute(
            "insert into operations.dirty_schemas (schema_name, reason) values (%s, %s) "
            "on conflict (schema_name) do update set reason = excluded.reason, since = now()",
            (schema, reason),
        )


def clear_dirty(dsn: str, schema: str) -> None:
    """A colour was built anew."""
    with connect(dsn) as connection:
        connection.execute("delete from operations.dirty_schemas where schema_name = %s", (schema,))


def publish(
    dsn: str,
    run_id: str,
    as_of_date: date,
    schema: str,
    gate_results: Mapping[str, Any],
    *,
    wait_minutes: float = 10,
    allow_contract_change: bool = False,
) -> Publication:
    """Point the views of ``marts`` at a colour, with its history, in one transaction.

    Doing it again for the same run and colour changes nothing and returns the same publication,
    so a task that died after its commit can be repeated.

    Every READ COMMITTED statement sees the one night or the other. Transactions whose snapshot is
    older than the build (REPEATABLE READ) would find the new tables empty, so they are waited for
    up to a minute.

    Args:
        wait_minutes: how long to wait for readers that hold the views.
        allow_contract_change: permit columns of ``marts`` to be dropped, retyped or reordered.

    Raises:
        PublicationRefused: the colour is dirty or would break the contract.
        WarehouseError: readers held on too long.
        Superseded: another run builds now.
    """
    begun = time.monotonic()
    deadline = begun + wait_minutes * 60
    _wait_for_older_snapshots(dsn, begun + min(wait_minutes * 60, _SNAPSHOT_WAIT_SECONDS))
    while True:
        try:
            with connect(dsn, application_name="kundenkreis publish") as connection:
                existing = current_publication(connection)
                if existing and _is_ours(connection, existing, run_id, schema):
                    return existing
                publication = _publish_once(
                    connection, run_id, as_of_date, schema, gate_results, allow_contract_change
                )
            reach("publish.after_commit")
            return publication
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() > deadline:
                raise WarehouseError(
                    f"publish waited {wait_minutes:g} minutes for readers of schema marts. "
                    f"Sessions in the way: {_blocking_sessions(dsn)}. End them, then clear "
                    "`publish`."
                ) from None
            time.sleep(random.uniform(0.05, 0.4))  # noqa: S311 (jitter)


def _wait_for_older_snapshots(dsn: str, deadline: float) -> None:
    with connect(dsn, application_name="kundenkreis publish", autocommit=True) as connection:
        row = connection.execute("select clock_timestamp()").fetchone()
        while time.monotonic() < deadline:
            waiting = connection.execute(_OLDER_SNAPSHOTS, row).fetchone()
            if waiting == (0,):
                return
            time.sleep(0.1)


def write_history(dsn: str, run_id: str, as_of_date: date, schema: str) -> None:
    """Write a backfilled night's history rows without publishing anything."""
    with connect(dsn, application_name="kundenkreis history") as connection:
        require_lease(connection, run_id, schema)
        _copy_history(connection, schema, as_of_date, None)


def _is_ours(
    connection: psycopg.Connection, existing: Publication, run_id: str, schema: str
) -> bool:
    row = connection.execute(
        "select dag_run_id from history.publications where publication_id = %s",
        (existing.publication_id,),
    ).fetchone()
    same_run = row is not None and row[0] == run_id and existing.schema_name == schema
    return same_run and live_schema(connection) == schema


def _publish_once(
    connection: psycopg.Connection,
    run_id: str,
    as_of_date: date,
    schema: str,
    gate_results: Mapping[str, Any],
    allow_contract_change: bool,
) -> Publication:
    # Below deadlock_timeout: readers and publisher never wait for each other long enough to
    # deadlock; the whole transaction is retried instead.
    connection.execute("set local lock_timeout = '100ms'")
    # Nobody chooses a colour between this look at the lease and the commit.
    connection.execute("select pg_advisory_xact_lock(%s)", (_BUILD_LOCK,))
    require_lease(connection, run_id, schema)
    _require_clean(connection, schema)
    built = _columns(connection, schema)
    tables = {name: cols for name, cols in built.items() if not name.startswith(HISTORY_PREFIX)}
    views = _columns(connection, "marts")
    breaking = _contract_changes(views, tables)
    if breaking and not allow_contract_change:
        raise PublicationRefused(
            "Publishing would break what readers of schema marts rely on: "
            + "; ".join(breaking)
            + ". If it is meant, run once with KUNDENKREIS_ALLOW_CONTRACT_CHANGE=1."
        )
    for name in _drop_changed_views(connection, views, tables):
        del views[name]
    # A reader that joins views in another order than they are replaced here makes both wait for
    # each other. Under steady load one fixed order may never get through; a new one each time does.
    masked = privacy.masked_columns(connection, schema, tables)
    for name in random.sample(sorted(tables), len(tables)):
        columns = _ordered(tables[name], views.get(name, {}))
        connection.execute(_view(name, columns, schema, masked.get(name, {})))
    row = connection.execute(
        "insert into history.publications (as_of_date, dag_run_id, schema_name, gate_results) "
        "values (%s, %s, %s, %s) returning publication_id",
        (as_of_date, run_id, schema, json.dumps(dict(gate_results))),
    ).fetchone()
    assert row is not None  # noqa: S101 (insert ... returning always returns its row)
    publication = Publication(row[0], as_of_date, schema)
    _copy_history(connection, schema, as_of_date, publication.publication_id)
    reach("publish.before_commit")
    return publication


def _require_clean(connection: psycopg.Connection, schema: str) -> None:
    row = connection.execute(
        "select reason from operations.dirty_schemas where schema_name = %s", (schema,)
    ).fetchone()
    if row:
        raise PublicationRefused(
            f"{schema} must not be published: {row[0]}. Clear `transform` and downstream to "
            "build it anew."
        )


def _columns(connection: psycopg.Connection, schema: str) -> Columns:
    found: Columns = {}
    for relation, column, data_type in connection.execute(_COLUMNS, (schema,)):
        found.setdefault(relation, {})[column] = data_type
    return found


def _contract_changes(views: Columns, tables: Columns) -> list[str]:
    """What the views have and the new tables would take away. Additions break nobody."""
    changes = []
    for name, columns in views.items():
        if name not in tables:
            changes.append(f"{name} is gone")
            continue
        for column, data_type in columns.items():
            new_type = tables[name].get(column)
            if new_type is None:
                changes.append(f"{name}.{column} is gone")
            elif new_type != data_type:
                changes.append(f"{name}.{column} is {new_type}, was {data_type}")
    return changes


def _drop_changed_views(
    connection: psycopg.Connection, views: Columns, tables: Columns
) -> list[str]:
    """Drop the views that cannot be replaced in place; never what somebody built on them."""
    changed = [name for name in views if _contract_changes({name: views[name]}, tables)]
    dependents = [row[0] for row in connection.execute(_DEPENDENTS, (changed,))]
    if dependents:
        raise PublicationRefused(
            f"The contract of marts.{', marts.'.join(changed)} changes, but other views stand on "
            f"it: {', '.join(dependents)}. Drop or change them, then clear `publish`; nothing is "
            "dropped for you."
        )
    for name in changed:
        connection.execute(sql.SQL("drop view marts.{}").format(sql.Identifier(name)))
    return changed


def _ordered(columns: Mapping[str, str], existing: Mapping[str, str]) -> list[str]:
    """Existing columns keep their places; new ones go last, as `create or replace view` asks."""
    return [*existing, *(name for name in columns if name not in existing)]


def _view(
    name: str, columns: list[str], schema: str, masked: Mapping[str, sql.Composable]
) -> sql.Composed:
    selected = [masked.get(column, sql.Identifier(column)) for column in columns]
    return sql.SQL("create or replace view marts.{} as select {} from {}.{}").format(
        sql.Identifier(name),
        sql.SQL(", ").join(selected),
        sql.Identifier(schema),
        sql.Identifier(name),
    )


def _copy_history(
    connection: psycopg.Connection, schema: str, as_of_date: date, publication_id: int | None
) -> None:
    """Replace the night's rows in ``history`` by those that were built beside the marts."""
    targets = _columns(connection, "history")
    for name, columns in _columns(connection, schema).items():
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


def _blocking_sessions(dsn: str) -> str:
    with connect(dsn) as connection:
        rows = connection.execute(
            """
            select distinct
                activity.pid,
                activity.usename,
                activity.application_name,
                activity.state
            from pg_locks as held
            inner join pg_class as relation on relation.oid = held.relation
            inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
            inner join pg_stat_activity as activity on activity.pid = held.pid
            where
                namespace.nspname = 'marts'
                and held.database = (select oid from pg_database where datname = current_database())
                and held.granted
                and held.pid <> pg_backend_pid()
            """
        ).fetchall()
    return ", ".join(f"pid {pid} ({user}, {name}, {state})" for pid, user, name, state in rows) or (
        "none any more"
    )
