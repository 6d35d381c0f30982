"""Write-audit-publish: two colours of the marts, and one transaction that turns readers over.

The marts are built into the colour that nobody reads. `publish` then points the views of schema
``marts`` at it, copies the night's history rows and records the publication, all in one
transaction, so every statement of a reader sees one night or the other (design: Warehouse).
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from kundenkreis.errors import BuildBusy, PublicationRefused, Superseded, WarehouseError
from kundenkreis.failpoints import reach
from kundenkreis.warehouse import contract, privacy
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.contract import Change, Declaration
from kundenkreis.warehouse.history import HISTORY_PREFIX, columns_of, copy_history

BLUE, GREEN, BACKFILL = "marts_blue", "marts_green", "marts_backfill"

_BUILD_LOCK = 7_202_611_002
_DBT_LOCK = 7_202_611_003
PUBLISH_LOCK = 7_202_611_004

# Readers wait while the publisher waits for one view, and then until it has replaced all of them.
_LOCK_MILLISECONDS = 100
_VIEWS_SECONDS = 0.4

_Result = TypeVar("_Result")

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


@dataclass(frozen=True)
class Publication:
    """One turn of the marts.

    Attributes:
        restores: of a rollback, the publication that is shown again.
    """

    publication_id: int
    as_of_date: date
    schema_name: str
    restores: int | None = None


class _HeldTooLong(Exception):
    """The views could not all be locked quickly enough; nobody is to wait for the rest of them."""


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
        "select publication_id, as_of_date, schema_name, restores_publication_id "
        "from history.publications order by publication_id desc limit 1"
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
        connection.execute(
            "delete from operations.held_publications where schema_name = %s", (schema,)
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


@contextmanager
def between_builds(
    dsn: str, progress: Callable[[str], None], wait_seconds: float
) -> Iterator[None]:
    """Write to the colours while no run builds, checks or publishes one.

    A run that begins before the block ends waits with its first build.

    Args:
        wait_seconds: how long to wait for a run that is under way.

    Raises:
        BuildBusy: it is under way still.
    """
    deadline = time.monotonic() + wait_seconds
    keys = {"run_id": "", "silence": _SILENCE_MINUTES, "lock": _DBT_LOCK}
    with connect(dsn, application_name="kundenkreis erase", autocommit=True) as connection:
        told = False
        while True:
            with connection.transaction():
                # Nobody begins a build between this and the lock.
                connection.execute("select pg_advisory_xact_lock(%s)", (_BUILD_LOCK,))
                row = connection.execute(_AT_WORK, keys).fetchone()
                if row is None and connection.execute(
                    "select pg_try_advisory_lock(%s)", (_DBT_LOCK,)
                ).fetchone() == (True,):
                    break
            if time.monotonic() >= deadline:
                raise BuildBusy(
                    f"Run '{row[0]}' builds {row[1]}." if row else "dbt is building by hand."
                )
            if not told:
                progress(f"waits for run '{row[0]}' to publish" if row else "waits for a build")
                told = True
            time.sleep(min(2, max(0.05, deadline - time.monotonic())))
        yield


def _renew(connection: psycopg.Connection, run_id: str) -> None:
    """A sign of life; nothing where another run has taken over."""
    connection.execute(
        "update operations.build_lease set renewed_at = now(), is_over = false where run_id = %s",
        (run_id,),
    )


def mark_dirty(dsn: str, schema: str, reason: str) -> None:
    """Remember that a colour failed its gate; it is never published before it is built anew."""
    with connect(dsn) as connection:
        make_dirty(connection, schema, reason)


def make_dirty(connection: psycopg.Connection, schema: str, reason: str) -> None:
    """As `mark_dirty`, in the caller's transaction."""
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
    declared: Sequence[Declaration] = (),
) -> Publication:
    """Point the views of ``marts`` at a colour, with its history, in one transaction.

    Doing it again for the same run and colour changes nothing and returns the same publication,
    so a task that died after its commit can be repeated.

    The history is copied before any view is touched, so readers wait for the views alone. Every
    READ COMMITTED statement sees the one night or the other. Transactions whose snapshot is older
    than the build (REPEATABLE READ) would find the new tables empty, so they are waited for up to
    a minute.

    Args:
        wait_minutes: how long to wait for readers that hold the views.
        declared: changes of the contract that are meant; those published before permit nothing.

    Raises:
        PublicationRefused: the colour is dirty or would break the contract.
        WarehouseError: readers held on too long.
        Superseded: another run builds now.
    """
    begun = time.monotonic()
    deadline = begun + wait_minutes * 60
    _wait_for_older_snapshots(dsn, begun + min(wait_minutes * 60, _SNAPSHOT_WAIT_SECONDS))
    with connect(dsn, application_name="kundenkreis publish") as connection:
        take_turn(connection, deadline)
        existing = current_publication(connection)
        if existing and _is_ours(connection, existing, run_id, schema):
            return existing
        require_lease(connection, run_id, schema)
        _require_clean(connection, schema)
        permitted = contract.unspent(connection, declared)
        _require_contract(contract.changes(connection, schema), permitted)
        row = connection.execute(
            "insert into history.publications (as_of_date, dag_run_id, schema_name, gate_results) "
            "values (%s, %s, %s, %s) returning publication_id",
            (as_of_date, run_id, schema, json.dumps(dict(gate_results))),
        ).fetchone()
        assert row is not None  # noqa: S101 (insert ... returning always returns its row)
        publication = Publication(row[0], as_of_date, schema)
        copy_history(connection, schema, as_of_date, publication.publication_id)
        turn_over(
            connection,
            dsn,
            deadline,
            lambda: _publish_once(connection, run_id, publication, permitted),
        )
        connection.execute(
            "update history.publications set published_at = clock_timestamp() "
            "where publication_id = %s",
            (publication.publication_id,),
        )
        reach("publish.before_commit")
    reach("publish.after_commit")
    return publication


def wait_minutes() -> float:
    """How long to wait for readers: ``KUNDENKREIS_PUBLISH_WAIT_MINUTES``, else 10.

    Raises:
        WarehouseError: it is no number.
    """
    text = os.environ.get("KUNDENKREIS_PUBLISH_WAIT_MINUTES", "10")
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1
    if not 0 <= minutes < 24 * 60:
        raise WarehouseError(
            f"KUNDENKREIS_PUBLISH_WAIT_MINUTES is '{text}'; it must be minutes, such as 10."
        )
    return minutes


def take_turn(connection: psycopg.Connection, deadline: float) -> None:
    """Let one publisher at a time write history; the lock ends with the transaction.

    Raises:
        WarehouseError: another one did not end before the deadline.
    """
    left = max(1, round((deadline - time.monotonic()) * 1_000))
    connection.execute("select set_config('lock_timeout', %s, true)", (f"{left}ms",))
    try:
        connection.execute("select pg_advisory_xact_lock(%s)", (PUBLISH_LOCK,))
    except psycopg.errors.LockNotAvailable:
        raise WarehouseError(
            "Another publication, rollback or backfill has been writing for too long. Wait for it; "
            "pg_stat_activity shows its session by the name 'kundenkreis'. Then clear `publish`."
        ) from None


def turn_over(
    connection: psycopg.Connection, dsn: str, deadline: float, replace: Callable[[], _Result]
) -> _Result:
    """Replace the views, in a savepoint that is tried again while readers hold them.

    Args:
        connection: in the publishing transaction; what it wrote so far stays between attempts.
        replace: replaces all views; locks that it took are given back when it fails.

    Raises:
        WarehouseError: readers held on until the deadline; names their sessions.
    """
    milliseconds = _lock_milliseconds(connection)
    while True:
        try:
            with connection.transaction():
                connection.execute(
                    "select set_config('lock_timeout', %s, true)", (f"{milliseconds}ms",)
                )
                # Nobody chooses a colour between this and the commit.
                connection.execute("select pg_advisory_xact_lock(%s)", (_BUILD_LOCK,))
                return replace()
        except (
            psycopg.errors.LockNotAvailable,
            psycopg.errors.DeadlockDetected,
            _HeldTooLong,
        ):
            if time.monotonic() > deadline:
                raise WarehouseError(
                    "publish waited in vain for readers of schema marts. Sessions in the way: "
                    f"{_blocking_sessions(dsn)}. End them, then clear `publish`; how long it waits "
                    "is KUNDENKREIS_PUBLISH_WAIT_MINUTES."
                ) from None
            time.sleep(random.uniform(0.05, 0.4))  # noqa: S311 (jitter)


def _lock_milliseconds(connection: psycopg.Connection) -> int:
    """Below deadlock_timeout, readers and publisher never wait for each other long enough for the
    server to end one of them; the publisher gives up first and tries again."""
    row = connection.execute(
        "select setting::integer from pg_settings where name = 'deadlock_timeout'"
    ).fetchone()
    return max(1, min(_LOCK_MILLISECONDS, row[0] // 2 if row else _LOCK_MILLISECONDS))


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
        take_turn(connection, time.monotonic() + _SNAPSHOT_WAIT_SECONDS)
        require_lease(connection, run_id, schema)
        copy_history(connection, schema, as_of_date, None)


def _is_ours(
    connection: psycopg.Connection, existing: Publication, run_id: str, schema: str
) -> bool:
    row = connection.execute(
        "select dag_run_id from history.publications where publication_id = %s",
        (existing.publication_id,),
    ).fetchone()
    same_run = row is not None and row[0] == run_id and existing.schema_name == schema
    return same_run and existing.restores is None and live_schema(connection) == schema


def _publish_once(
    connection: psycopg.Connection,
    run_id: str,
    publication: Publication,
    permitted: Sequence[Declaration],
) -> None:
    schema = publication.schema_name
    # Again, because readers may have been waited for meanwhile.
    require_lease(connection, run_id, schema)
    _require_clean(connection, schema)
    found = contract.changes(connection, schema)
    _require_contract(found, permitted)
    meant = [change for change in found if any(item.permits(change) for item in permitted)]
    built = columns_of(connection, schema)
    tables = {name: cols for name, cols in built.items() if not name.startswith(HISTORY_PREFIX)}
    views = columns_of(connection, "marts")
    for name in drop_changed_views(connection, meant):
        del views[name]
    masked = privacy.masked_columns(connection, schema, tables)
    replace_views(
        connection,
        {
            name: view_statement(name, views.get(name, {}), table, schema, masked.get(name, {}))
            for name, table in tables.items()
        },
    )
    contract.spend(connection, meant, permitted, publication.publication_id)
    hold(connection, schema, publication.publication_id)


def hold(connection: psycopg.Connection, schema: str, publication_id: int) -> None:
    """Remember whose tables a colour holds, until a run begins to build it anew."""
    connection.execute(
        "insert into operations.held_publications (schema_name, publication_id) values (%s, %s) "
        "on conflict (schema_name) do update set publication_id = excluded.publication_id",
        (schema, publication_id),
    )


def replace_views(connection: psycopg.Connection, statements: Mapping[str, sql.Composed]) -> None:
    """Run the statement of every view; gives up when that takes long, as readers wait meanwhile."""
    begun = time.monotonic()
    # A reader that joins views in another order than they are replaced here makes both wait for
    # each other. Under steady load one fixed order may never get through; a new one each time does.
    for name in random.sample(sorted(statements), len(statements)):
        connection.execute(statements[name])
        if time.monotonic() - begun > _VIEWS_SECONDS:
            raise _HeldTooLong


def _require_contract(found: Sequence[Change], permitted: Sequence[Declaration]) -> None:
    if breaking := contract.undeclared(found, permitted):
        raise PublicationRefused(contract.refusal(breaking))


def _require_clean(connection: psycopg.Connection, schema: str) -> None:
    if reason := why_dirty(connection, schema):
        raise PublicationRefused(
            f"{schema} must not be published: {reason}. Clear `transform` and downstream to "
            "build it anew."
        )


def why_dirty(connection: psycopg.Connection, schema: str) -> str | None:
    """Why a colour must not be shown; None where it may."""
    row = connection.execute(
        "select reason from operations.dirty_schemas where schema_name = %s", (schema,)
    ).fetchone()
    return row[0] if row else None


def drop_changed_views(connection: psycopg.Connection, changes: Sequence[Change]) -> list[str]:
    """Drop the views that cannot be replaced in place; never what somebody built on them.

    Returns:
        Their names.

    Raises:
        PublicationRefused: something stands on one of them.
    """
    changed = sorted({change.model for change in changes})
    dependents = [row[0] for row in connection.execute(_DEPENDENTS, (changed,))]
    if dependents:
        raise PublicationRefused(
            f"The contract of marts.{', marts.'.join(changed)} changes, but other views stand on "
            f"it: {', '.join(dependents)}. Drop or change them, then clear `publish`; nothing is "
            "dropped for you."
        )
    for name in changed:
        try:
            connection.execute(sql.SQL("drop view marts.{}").format(sql.Identifier(name)))
        except psycopg.errors.DependentObjectsStillExist as error:
            raise PublicationRefused(
                f"The contract of marts.{name} changes, but something stands on it: "
                f"{error.diag.message_detail}. Drop or change it, then clear `publish`; nothing "
                "is dropped for you."
            ) from None
    return changed


def view_statement(
    name: str,
    existing: Mapping[str, str],
    table: Mapping[str, str],
    schema: str,
    masked: Mapping[str, sql.Composable],
) -> sql.Composed:
    """The statement that points a view at a colour.

    Existing columns keep their places; new ones go last, as `create or replace view` asks. What the
    colour does not have (after a rollback) is null, of its type.

    Args:
        existing: the columns of the view with their types; empty where it is created.
        table: the columns of the colour's table; empty where it has none.
        masked: how its personal columns are selected, as `privacy.masked_columns`.
    """
    columns = [
        masked.get(column, sql.Identifier(column))
        if column in table
        else sql.SQL("cast(null as {}) as {}").format(sql.SQL(data_type), sql.Identifier(column))
        for column, data_type in {**existing, **table}.items()
    ]
    source = (
        sql.SQL("from {}.{}").format(sql.Identifier(schema), sql.Identifier(name))
        if table
        else sql.SQL("where false")
    )
    return sql.SQL("create or replace view marts.{} as select {} {}").format(
        sql.Identifier(name), sql.SQL(", ").join(columns), source
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
