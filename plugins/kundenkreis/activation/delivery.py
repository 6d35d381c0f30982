"""Sends the planned rows of one publication to one tool.

Order: attributes first (a person must exist before joining), then joining, then leaving, so that a
person whose address changed is never in no audience at all. Rows go in the tool's batch size; each
batch is recorded and committed before its request and settled after it. Suppressions are read again
just before sending and win over the plan.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, islice
from operator import attrgetter
from typing import Any

import orjson
import psycopg
from psycopg.rows import args_row
from psycopg.types.json import Jsonb

from kundenkreis.activation import jobs, ledger
from kundenkreis.activation.jobs import Patience
from kundenkreis.activation.ledger import Answer, Entries, NotSent, PlannedRow
from kundenkreis.activation.sending import Package, Sending
from kundenkreis.activation.subscribers import OpenTool
from kundenkreis.activation.suppressions import Suppressions
from kundenkreis.connections import Resolver
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import (
    AttributeType,
    Batch,
    Destination,
    JobLost,
    Operation,
    Outcome,
    Row,
)
from kundenkreis.errors import PlanOutdated, WarehouseError
from kundenkreis.failpoints import reach
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

LOCK_NAMESPACE = 7_202_612
"""Of the advisory lock per tool that deliveries, reconciliations and erasures hold."""
_LOCK_WAIT = "60s"
_OPERATIONS: tuple[Operation, ...] = ("upsert", "add", "remove")
_NEWEST_FOR_SECONDS = 0.1
"""A publication is not asked for again, less than what a request takes by itself."""
_FETCHED_ROWS = 1000
_OBJECTS_PER_COLLECTION = 1500
_M_ARENA_MAX = -8
"""Of malloc.h, for mallopt(3)."""

# What a delivery may send: the planned rows; or, of those that the size guard held, the ones of
# audiences whose very plan somebody approved. Nothing else ever releases a held row.
_PLANNED_ROWS = "plan_rows.status = 'planned'"
_APPROVED_ROWS = """
    plan_rows.status = 'held'
    and plan_rows.plan_row_id in (
        select held_rows.plan_row_id
        from activation.held_rows
        inner join activation.held_audiences using (publication_id, destination, audience)
        inner join activation.decisions
            using (publication_id, destination, audience, plan_hash)
        where
            publication_id = %(publication_id)s
            and destination = %(destination)s
            and decisions.decision = 'approve'
    )
"""

_PLANNED = """
select
    plan_rows.plan_row_id,
    plan_rows.audience,
    plan_rows.segment,
    plan_rows.customer_id,
    plan_rows.address,
    plan_rows.attributes,
    plan_rows.payload_hash,
    plan_rows.may_create,
    known_contacts.vendor_id,
    known_contacts.state
from activation.plan_rows
left join activation.known_contacts
    on
        known_contacts.destination = plan_rows.destination
        and known_contacts.address = plan_rows.address
where
    plan_rows.publication_id = %(publication_id)s
    and plan_rows.destination = %(destination)s
    and {may_go}
    and plan_rows.operation = %(operation)s
    and not exists (
        select 1
        from activation.ledger
        where
            ledger.publication_id = plan_rows.publication_id
            and ledger.plan_row_id = plan_rows.plan_row_id
            and ledger.state in ('confirmed', 'rejected', 'suppressed', 'skipped')
    )
"""

# Attributes are columns of customer_360, so that their type is the column's and nobody has to look
# at every value before the first request.
_ATTRIBUTE_TYPES = """
with names as (
    select distinct jsonb_array_elements_text(cast(changes.changed_fields as jsonb)) as attribute
    from (
        select distinct plan_rows.changed_fields
        from activation.plan_rows
        where
            plan_rows.publication_id = %(publication_id)s
            and plan_rows.destination = %(destination)s
            and {may_go}
            and plan_rows.operation = 'upsert'
    ) as changes
)
select
    names.attribute,
    case
        when pg_type.typcategory = 'N' then 'number'
        when pg_type.typname = 'date' then 'date'
        else 'text'
    end as attribute_type
from names
left join pg_attribute
    on
        pg_attribute.attrelid = to_regclass('marts.customer_360')
        and pg_attribute.attname = names.attribute
        and not pg_attribute.attisdropped
left join pg_type on pg_type.oid = pg_attribute.atttypid
"""

# Whoever may leave a held audience leaves it with the planned rows; that is not its first sync.
_FIRST_SYNCED = """
update activation.audiences
set first_synced_publication_id = %(publication_id)s
where
    audiences.destination = %(destination)s
    and audiences.audience = any(%(audiences)s)
    and audiences.first_synced_publication_id is null
    and (
        %(held)s
        or not exists (
            select 1
            from activation.plan_rows
            where
                plan_rows.publication_id = %(publication_id)s
                and plan_rows.destination = audiences.destination
                and plan_rows.audience = audiences.audience
                and plan_rows.status = 'held'
        )
    )
"""

# Only what is not known is tried again, so that a row has one other state at most. Mostly all rows
# have one, which number and checksum tell, and then none has to be looked up by itself.
_OUTCOMES = """
with attempts as not materialized (
    select audience, operation, plan_row_id, state
    from activation.ledger
    where publication_id = %(publication_id)s and destination = %(destination)s
    union all
    select audience, operation, plan_row_id, state
    from activation.rows_under_way
    where publication_id = %(publication_id)s and destination = %(destination)s
),
planned as not materialized (
    select *
    from activation.plan_rows
    where publication_id = %(publication_id)s and destination = %(destination)s
),
known as materialized (
    select
        audience,
        operation,
        state,
        count(*) as rows,
        sum(hashtextextended(plan_row_id, 0)) as checksum
    from attempts
    where state <> 'unknown'
    group by audience, operation, state
),
compared as materialized (
    select
        expected.rows = found.rows and expected.checksum = found.checksum as are_all_known
    from
        (
            select count(*) as rows, sum(hashtextextended(plan_row_id, 0)) as checksum
            from planned
        ) as expected,
        (select sum(rows) as rows, sum(checksum) as checksum from known) as found
),
not_known as (
    select distinct plan_row_id from attempts where state = 'unknown'
)
select audience, operation, state, rows
from known
where (select are_all_known from compared)
union all
select
    coalesce(planned.audience, '') as audience,
    planned.operation,
    coalesce(
        last_attempts.state,
        case
            when not_known.plan_row_id is not null then 'unknown'
            when planned.status = 'planned' then 'intended'
            else planned.status
        end
    ) as state,
    count(*) as rows
from planned
left join attempts as last_attempts
    on last_attempts.plan_row_id = planned.plan_row_id and last_attempts.state <> 'unknown'
left join not_known on not_known.plan_row_id = planned.plan_row_id
where (select are_all_known from compared) is not true
group by 1, 2, 3
"""


@dataclass
class _Delivery:
    """One delivery under way: what every step needs."""

    entries: Entries
    tool: Destination
    reader: psycopg.Connection
    recorder: psycopg.Connection
    writer: psycopg.Connection
    progress: Callable[[str], None]
    suppressions: Suppressions
    patience: Patience
    held: bool = False
    audience_ids: dict[str, str] = field(default_factory=dict)
    sent: int = 0

    @property
    def destination(self) -> str:
        return self.entries.destination

    @property
    def publication_id(self) -> int:
        return self.entries.publication_id

    @property
    def keys(self) -> dict[str, Any]:
        return {"publication_id": self.publication_id, "destination": self.destination}

    @property
    def may_go(self) -> str:
        """SQL over plan_rows: what this delivery may send."""
        return _APPROVED_ROWS if self.held else _PLANNED_ROWS


def deliver(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    publication_id: int,
    progress: Callable[[str], None],
    *,
    held: bool = False,
    open_tool: OpenTool = open_destination,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Send what the plan of a publication still has open for one tool.

    Jobs of earlier deliveries that the tool was still working on are asked for first, of whatever
    publication they are.

    Returns ``{"destination", "sent", "confirmed", "rejected", "unknown", "suppressed", "skipped",
    "held", "calls", "audiences": {name: {"add": {state: rows}, "remove": {state: rows}}}}``; the
    counts are those of the whole plan, ``sent`` and ``calls`` those of this call. ``under_way``
    rows, where there are any, are with the tool, which has not said yet what became of them.

    Args:
        held: send what the size guard held and somebody approved, and nothing else.
        sleep, monotonic: replaced by tests.

    Raises:
        PlanOutdated: a newer publication exists, or this one has no plan.
        VendorError, CredentialError: the tool cannot be reached. What was sent is settled, what
            is uncertain is recorded as unknown, and calling again goes on from there.
        WarehouseError: another delivery to the same tool is under way.
    """
    tool_settings = settings.destinations[destination]
    _share_memory_between_threads()
    with (
        _not_collecting_what_stays(),
        closing(open_tool(destination, tool_settings, resolve)) as tool,
        connect(dsn, application_name=f"kundenkreis plan {destination}") as reader,
        connect(dsn, application_name=f"kundenkreis record {destination}") as recorder,
        connect(dsn, application_name=f"kundenkreis deliver {destination}") as writer,
    ):
        entries = Entries(publication_id, run_id, destination)
        patience = Patience(tool_settings.max_job_minutes, sleep, monotonic)
        with Suppressions(
            entries, tool, tool_settings, resolve, dsn, writer, progress, monotonic
        ) as suppressions:
            job = _Delivery(
                entries, tool, reader, recorder, writer, progress, suppressions, patience, held
            )
            _lock(writer, destination)
            _require_current(writer, publication_id)
            sync_run_id = _begin(job)
            try:
                _settle_open_jobs(job)
                if _has_open_rows(job):
                    _prepare(job)
                    reach("deliver.after_states")
                    _send_everything(job)
                reach("deliver.before_end")
            except Exception:
                with suppress(psycopg.Error):  # where the warehouse is what failed
                    _end(job, sync_run_id, "failed")
                raise
            return _end(job, sync_run_id, "done")


def _share_memory_between_threads() -> None:
    """Have glibc allocate from two arenas; where there is no glibc, nothing happens.

    By default each of a delivery's threads gets an arena, which keeps what another thread frees.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


@contextmanager
def _not_collecting_what_stays() -> Iterator[None]:
    """Keep the garbage collector from what was there before: modules, classes, settings.

    Every few rows of a delivery make it look through all of that again, for a third of the
    processor's time. It must not be rare either: answers hang together in circles and pile up.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_OBJECTS_PER_COLLECTION)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _lock(writer: psycopg.Connection, destination: str) -> None:
    """One delivery per tool at a time. A killed process's lock goes with its connection."""
    try:
        writer.execute(f"set lock_timeout = '{_LOCK_WAIT}'")
        writer.execute("select pg_advisory_lock(%s, hashtext(%s))", (LOCK_NAMESPACE, destination))
        writer.execute("set lock_timeout = 0")
        writer.commit()
    except psycopg.errors.LockNotAvailable:
        raise WarehouseError(
            f"{destination} has been in use for {_LOCK_WAIT}: by another delivery, its "
            "reconciliation or an erasure. Wait for it; pg_stat_activity shows it as "
            "'kundenkreis deliver', 'kundenkreis reconcile' or 'kundenkreis erase'."
        ) from None


def require_plannable(connection: psycopg.Connection, publication_id: int) -> None:
    """Raise unless a plan for this publication may be made and sent.

    Raises:
        PlanOutdated: a newer publication exists, or this one is a rollback.
    """
    newest = _newest_publication(connection)
    if newest != publication_id:
        raise PlanOutdated(
            f"The plan of publication {publication_id} is outdated: the newest publication is "
            f"{newest}. Plan again, then deliver."
        )
    if restores := _restored_by(connection, publication_id):
        # Its marts were built before the withdrawals that the sources have told of since.
        raise PlanOutdated(
            f"Publication {publication_id} is a rollback to publication {restores}: nothing is "
            "planned or sent for it. The next night plans anew, from marts that know who withdrew."
        )


def _require_current(writer: psycopg.Connection, publication_id: int) -> None:
    """Raise unless the plan belongs to the newest publication and exists."""
    require_plannable(writer, publication_id)
    planned = writer.execute("select to_regclass('activation.plan_rows')").fetchone()
    if planned is None or planned[0] is None:
        raise PlanOutdated(
            f"Publication {publication_id} has no plan: activation.plan_rows does not exist. "
            "Run the plan step first."
        )


def _restored_by(writer: psycopg.Connection, publication_id: int) -> int | None:
    row = writer.execute(
        "select restores_publication_id from history.publications where publication_id = %s",
        (publication_id,),
    ).fetchone()
    return row[0] if row else None


def _newest_publication(connection: psycopg.Connection) -> int | None:
    row = connection.execute("select max(publication_id) from history.publications").fetchone()
    return row[0] if row else None


def _begin(job: _Delivery) -> int:
    interrupted = ledger.doubt_interrupted(job.writer, job.destination)
    if interrupted:
        job.progress(f"{job.destination}: {interrupted:,} interrupted rows are repeated")
    row = job.writer.execute(
        "insert into activation.sync_runs (run_id, publication_id, destination, state)"
        " values (%s, %s, %s, 'running') returning sync_run_id",
        (job.entries.run_id, job.publication_id, job.destination),
    ).fetchone()
    job.writer.commit()
    return int(row[0]) if row else 0


def _settle_open_jobs(job: _Delivery) -> None:
    """Ask for the jobs that an earlier delivery left with the tool, and settle their rows."""
    for left in jobs.submitted(job.writer, job.destination):
        job.writer.commit()
        job.progress(f"{job.destination}: asks for job {left.job_id}, which was under way")
        outcomes: list[Outcome] | str
        try:
            outcomes = jobs.outcomes_of(job.tool, left.job_id, left.batch, job.patience)
        except JobLost:
            outcomes = "job_lost"
        reach("deliver.before_settle")
        keys = [row.key for row in left.batch.rows]
        ledger.settle(job.writer, [Answer(left.batch_id, keys, outcomes)])
        job.writer.commit()


def _end(job: _Delivery, sync_run_id: int, state: str) -> dict[str, Any]:
    job.writer.rollback()
    summary = _summary(job)
    job.writer.execute(
        "update activation.sync_runs set state = %s, summary = %s, finished_at = clock_timestamp()"
        " where sync_run_id = %s",
        (state, Jsonb(summary), sync_run_id),
    )
    job.writer.commit()
    return summary


def _has_open_rows(job: _Delivery) -> bool:
    """Whether anything is left to send; if not, the tool need not be asked anything."""
    for operation in _OPERATIONS:
        planned = _PLANNED.format(may_go=job.may_go)
        found = job.writer.execute(planned + " limit 1", {**job.keys, "operation": operation})
        if found.fetchone():
            return True
    return False


def _prepare(job: _Delivery) -> None:
    """Read the suppressions and, beside that, make sure of attributes and audiences.

    Raises:
        VendorError, CredentialError: the tool cannot be read, or an audience or attribute is
            missing and cannot be made.
    """
    with ThreadPoolExecutor(1) as beside:
        ensuring = beside.submit(_ensure_places, job)
        job.suppressions.read()
        audiences = ensuring.result()
    for name, known_id, vendor_id in audiences:
        job.audience_ids[name] = vendor_id
        if vendor_id != known_id:
            _adopt_audience(job, name, vendor_id)


def _ensure_places(job: _Delivery) -> list[tuple[str, str | None, str]]:
    """Makes sure of attributes and audiences; name, known and found id of each audience.

    Reads over the connection that records: the other one is busy with the suppressions, and it
    alone writes until those are read.
    """
    _ensure_attributes(job)
    return _ensure_audiences(job)


def _send_everything(job: _Delivery) -> None:
    for operation in _OPERATIONS:
        found_to_exist = _send_operation(job, operation)
        reach("deliver.between_operations")
        _require_current(job.writer, job.publication_id)
        job.writer.commit()
        if found_to_exist:
            # Contacts we took for new (a create whose answer was lost, or somebody was faster):
            # only their true state says whether they may join audiences now.
            job.suppressions.read()
    job.writer.execute(
        _FIRST_SYNCED, {**job.keys, "audiences": list(job.audience_ids), "held": job.held}
    )
    job.writer.commit()


def _ensure_attributes(job: _Delivery) -> None:
    rows = job.recorder.execute(_ATTRIBUTE_TYPES.format(may_go=job.may_go), job.keys).fetchall()
    job.recorder.commit()
    types: dict[str, AttributeType] = dict(rows)
    if types:
        job.tool.ensure_attributes(types)


def _ensure_audiences(job: _Delivery) -> list[tuple[str, str | None, str]]:
    """Find or create the audience of every planned row."""
    rows = job.recorder.execute(
        "select distinct plan_rows.audience, audiences.vendor_id from activation.plan_rows"
        " left join activation.audiences"
        " on audiences.destination = plan_rows.destination"
        " and audiences.audience = plan_rows.audience"
        " where plan_rows.publication_id = %(publication_id)s"
        " and plan_rows.destination = %(destination)s"
        f" and {job.may_go} and plan_rows.audience is not null order by 1",
        job.keys,
    ).fetchall()
    job.recorder.commit()
    found: list[tuple[str, str | None, str]] = []
    for name, known_id in rows:
        reach("deliver.before_audience")
        audience = job.tool.ensure_audience(name, known_id)
        reach("deliver.after_audience")
        found.append((name, known_id, audience.vendor_id))
    return found


def _adopt_audience(job: _Delivery, name: str, vendor_id: str) -> None:
    """Remember a new id. Whoever we had delivered to the old one is not in the new one."""
    job.writer.execute(
        "insert into activation.audiences as known (destination, audience, vendor_id)"
        " values (%s, %s, %s)"
        " on conflict (destination, audience) do update set vendor_id = excluded.vendor_id",
        (job.destination, name, vendor_id),
    )
    job.writer.execute(
        "update activation.delivered_state set is_member = false, in_doubt = false"
        " where destination = %s and audience = %s",
        (job.destination, name),
    )
    # At once: the tool's list exists now, whatever happens next.
    job.writer.commit()


def _send_operation(job: _Delivery, operation: Operation) -> bool:
    """Send all rows of one operation; returns whether contacts taken for new were there already.

    Raises:
        VendorError, CredentialError: the first of what failed; everything begun is settled.
    """

    asked_at, is_newest = -math.inf, False

    def may_begin() -> bool:
        nonlocal asked_at, is_newest
        job.suppressions.keep_fresh()
        # A plan that was overtaken while it is sent may hold what should no longer happen. The
        # reader is asked, because the writer may be settling.
        if (now := job.patience.monotonic()) - asked_at >= _NEWEST_FOR_SECONDS:
            asked_at, is_newest = now, _newest_publication(job.reader) == job.publication_id
        return is_newest

    def rejudge(package: Package) -> list[NotSent]:
        if operation == "remove" or package.judged_by == job.suppressions.readings:
            return []
        refusals = (_refusal(row, operation, job.suppressions) for row in package.attempted)
        return [refusal for refusal in refusals if refusal is not None]

    def progress(rows: int) -> None:
        job.progress(f"{job.destination}: {operation} {job.sent + rows:,} rows sent")

    sending = Sending(
        job.tool, job.entries, job.recorder, job.writer, job.patience, may_begin, rejudge, progress
    )
    try:
        sending.send(_packages(job, operation))
    finally:
        job.sent += sending.sent
    job.reader.rollback()
    if sending.failures:
        raise sending.failures[0]
    return sending.found_to_exist


def _packages(job: _Delivery, operation: Operation) -> Iterator[Package]:
    """The planned rows of an operation, judged once more and cut into the tool's batch size."""
    size = job.tool.capabilities.batch_size[operation]
    # A server-side cursor: a plan may be larger than memory. It sees the state from before this
    # operation, which is right, because the rows of one operation do not depend on each other.
    # The ledger grows while it is read. A plan made while it was empty, with a nested loop, would
    # look through all that has come since for every row.
    job.reader.execute("set local enable_nestloop = off")
    with job.reader.cursor(name=f"planned_{operation}", row_factory=args_row(PlannedRow)) as cursor:
        # Attributes belong to no audience, so that nothing has to be sorted before the first row.
        order = "" if operation == "upsert" else ' order by plan_rows.audience collate "C"'
        planned = _PLANNED.format(may_go=job.may_go)
        cursor.execute(planned + order, {**job.keys, "operation": operation})
        fetched = iter(partial(cursor.fetchmany, _FETCHED_ROWS), [])
        for _, of_audience in groupby(chain.from_iterable(fetched), attrgetter("audience")):
            while batch := list(islice(of_audience, size)):
                yield _package(job, operation, batch)


def _package(job: _Delivery, operation: Operation, planned: Sequence[PlannedRow]) -> Package:
    judged_by = job.suppressions.readings  # before judging: it may be read again meanwhile
    attempted: list[PlannedRow] = []
    left: list[PlannedRow] = []
    not_sent: list[NotSent] = []
    for row in planned:
        refusal = None if operation == "remove" else _refusal(row, operation, job.suppressions)
        if refusal is not None:
            not_sent.append(refusal)
        elif operation == "remove" and row.vendor_id is None:
            left.append(row)  # who is gone from the tool has left already
        else:
            attempted.append(row)
    audience = planned[0].audience
    batch = Batch(operation, _rows(attempted), job.audience_ids.get(audience) if audience else None)
    return Package(batch, tuple(attempted), tuple(left), tuple(not_sent), judged_by)


def _rows(planned: Sequence[PlannedRow]) -> tuple[Row, ...]:
    # Parsed as one list, because each call of the parser costs as much as a row does.
    attributes = orjson.loads(f"[{','.join([row.attributes for row in planned])}]")
    return tuple(
        Row(
            row.plan_row_id,
            row.address,
            row.vendor_id,
            bool(row.may_create) and row.state is None,
            values,
        )
        for row, values in zip(planned, attributes, strict=True)
    )


def _refusal(row: PlannedRow, operation: Operation, suppressions: Suppressions) -> NotSent | None:
    """Why a row that was planned may not go after all, by what the tools said last.

    Leaving is allowed to everybody.
    """
    if row.address in suppressions.withdrawn:
        return NotSent(row, "suppressed", "withdrawn_since_plan")
    state = suppressions.states.get(row.address, row.state)
    if state is not None and state != "subscribed":
        return NotSent(row, "suppressed", f"tool_{state}")
    creates = operation == "upsert" and row.may_create and row.state is None
    if row.vendor_id is None and not creates:
        return NotSent(row, "skipped", "not_in_tool")
    return None


def _summary(job: _Delivery) -> dict[str, Any]:
    states = ("confirmed", "rejected", "unknown", "suppressed", "skipped", "held")
    totals: dict[str, Any] = dict.fromkeys(states, 0)
    audiences: dict[str, dict[str, dict[str, int]]] = {}
    for audience, operation, found, rows in job.writer.execute(_OUTCOMES, job.keys).fetchall():
        state = "under_way" if found == "sent" else found
        totals[state] = totals.get(state, 0) + rows
        if audience:
            audiences.setdefault(audience, {}).setdefault(operation, {})[state] = rows
    return {
        "destination": job.destination,
        "sent": job.sent,
        **totals,
        "calls": job.tool.calls,
        "audiences": audiences,
    }
