"""Sends the planned rows of one publication to one tool.

Order: attributes first (a person must exist before joining), then joining, then leaving, so that a
person whose address changed is never in no audience at all. Rows go in the tool's batch size; each
batch is committed as intended before its request and settled after it. Suppressions are read again
just before sending and win over the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from kundenkreis.activation import ledger
from kundenkreis.activation.ledger import NotSent
from kundenkreis.activation.subscribers import OpenTool, refresh_states
from kundenkreis.connections import Resolver
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import (
    CONTACT_EXISTS,
    AttributeType,
    AttributeValue,
    Batch,
    Destination,
    Operation,
    Outcome,
    Row,
)
from kundenkreis.errors import KundenkreisError, PlanOutdated, VendorError, WarehouseError
from kundenkreis.failpoints import reach
from kundenkreis.http import understood
from kundenkreis.settings import Settings
from kundenkreis.warehouse import privacy
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.publish import live_schema

_LOCK_NAMESPACE = 7_202_612
_LOCK_WAIT = "60s"
_OPERATIONS: tuple[Operation, ...] = ("upsert", "add", "remove")

_PLANNED = """
select
    plan_rows.plan_row_id,
    plan_rows.audience,
    plan_rows.address,
    cast(plan_rows.attributes as jsonb) as attributes,
    plan_rows.may_create,
    subscriber_states.vendor_id,
    subscriber_states.state
from activation.plan_rows
left join activation.subscriber_states
    on
        subscriber_states.destination = plan_rows.destination
        and subscriber_states.address = plan_rows.address
where
    plan_rows.publication_id = %(publication_id)s
    and plan_rows.destination = %(destination)s
    and plan_rows.operation = %(operation)s
    and plan_rows.status = 'planned'
    and not exists (
        select 1
        from activation.ledger
        where
            ledger.plan_row_id = plan_rows.plan_row_id
            and ledger.state in ('confirmed', 'rejected', 'suppressed', 'skipped')
    )
order by plan_rows.audience, plan_rows.plan_row_id
"""

# A withdrawal in any tool that the marts could not know blocks the whole person, at all addresses:
# one read after `transform` began, or dated after the as-of day, which the marts leave out. Where
# that day ends depends on the business time zone; 14 hours early is its end in all of them.
_WITHDRAWN_SINCE = """
with publication as (
    select
        coalesce(task_results.started_at, publications.published_at) as built_at,
        cast(publications.as_of_date + 1 as timestamp) at time zone 'UTC' - interval '14 hours'
            as as_of_end
    from history.publications
    left join operations.task_results
        on
            task_results.run_id = publications.dag_run_id
            and task_results.task_id = 'transform'
    where publications.publication_id = %(publication_id)s
),
withdrawn as (
    select subscriber_states.address
    from activation.subscriber_states
    cross join publication
    where
        subscriber_states.state in ('unsubscribed', 'complained', 'blocklisted')
        and (
            subscriber_states.observed_at > publication.built_at
            or subscriber_states.state_changed_at >= publication.as_of_end
        )
)
select withdrawn.address from withdrawn
union
select other.address
from withdrawn
inner join marts.contactability as own on own.address = withdrawn.address
inner join marts.contactability as other on other.customer_id = own.customer_id
where other.address is not null
"""

_ATTRIBUTE_TYPES = r"""
select
    entries.attribute,
    bool_and(jsonb_typeof(entries.value) = 'number') as is_number,
    bool_and(entries.value #>> '{}' ~ '^\d{4}-\d{2}-\d{2}$') as is_date
from activation.plan_rows
cross join lateral jsonb_each(cast(plan_rows.attributes as jsonb)) as entries (attribute, value)
where
    plan_rows.publication_id = %(publication_id)s
    and plan_rows.destination = %(destination)s
    and plan_rows.operation = 'upsert'
    and plan_rows.status = 'planned'
    and jsonb_typeof(entries.value) <> 'null'
group by entries.attribute
"""

_OUTCOMES = """
select
    coalesce(plan_rows.audience, '') as audience,
    plan_rows.operation,
    case when plan_rows.status = 'planned' then coalesce(last_attempt.state, 'intended')
        else plan_rows.status end as state,
    count(*) as rows
from activation.plan_rows
left join lateral (
    select ledger.state
    from activation.ledger
    where ledger.plan_row_id = plan_rows.plan_row_id
    order by ledger.attempt_id desc
    limit 1
) as last_attempt on true
where
    plan_rows.publication_id = %(publication_id)s
    and plan_rows.destination = %(destination)s
group by 1, 2, 3
"""


@dataclass(frozen=True)
class _PlannedRow:
    """A row of the plan with what its tool says about the contact."""

    plan_row_id: str
    audience: str | None
    address: str
    attributes: dict[str, AttributeValue]
    may_create: bool
    vendor_id: str | None
    state: str | None


@dataclass
class _Delivery:
    """One delivery under way: what every step needs."""

    destination: str
    publication_id: int
    run_id: str
    tool: Destination
    reader: psycopg.Connection
    writer: psycopg.Connection
    progress: Callable[[str], None]
    tool_settings: Any
    resolve: Resolver
    withdrawn: frozenset[str] = frozenset()
    audience_ids: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    found_to_exist: bool = False

    @property
    def keys(self) -> dict[str, Any]:
        return {"publication_id": self.publication_id, "destination": self.destination}


@dataclass(frozen=True)
class _Package:
    """Rows that are intended and settled together; some need no call."""

    batch: Batch
    done_already: tuple[Outcome, ...]
    not_sent: tuple[NotSent, ...]

    @property
    def attempted(self) -> list[str]:
        return [row.key for row in self.batch.rows] + [o.key for o in self.done_already]


def deliver(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    publication_id: int,
    progress: Callable[[str], None],
    *,
    open_tool: OpenTool = open_destination,
) -> dict[str, Any]:
    """Send what the plan of a publication still has open for one tool.

    Returns ``{"destination", "sent", "confirmed", "rejected", "unknown", "suppressed", "skipped",
    "held", "calls", "audiences": {name: {"add": {state: rows}, "remove": {state: rows}}}}``; the
    counts are those of the whole plan, ``sent`` and ``calls`` those of this call.

    Raises:
        PlanOutdated: a newer publication exists, or this one has no plan.
        VendorError, CredentialError: the tool cannot be reached. What was sent is settled, what
            is uncertain is recorded as unknown, and calling again goes on from there.
        WarehouseError: another delivery to the same tool is under way.
    """
    tool_settings = settings.destinations[destination]
    with (
        closing(open_tool(destination, tool_settings, resolve)) as tool,
        connect(dsn, application_name=f"kundenkreis plan {destination}") as reader,
        connect(dsn, application_name=f"kundenkreis deliver {destination}") as writer,
    ):
        job = _Delivery(
            destination,
            publication_id,
            run_id,
            tool,
            reader,
            writer,
            progress,
            tool_settings,
            resolve,
        )
        _lock(writer, destination)
        _require_current(writer, publication_id)
        sync_run_id = _begin(job)
        try:
            if _has_open_rows(job):
                _refresh_states(job)
                _send_everything(job)
        except Exception:
            with suppress(psycopg.Error):  # where the warehouse is what failed
                _end(job, sync_run_id, "failed")
            raise
        return _end(job, sync_run_id, "done")


def _lock(writer: psycopg.Connection, destination: str) -> None:
    """One delivery per tool at a time. A killed process's lock goes with its connection."""
    try:
        writer.execute(f"set lock_timeout = '{_LOCK_WAIT}'")
        writer.execute("select pg_advisory_lock(%s, hashtext(%s))", (_LOCK_NAMESPACE, destination))
        writer.execute("set lock_timeout = 0")
        writer.commit()
    except psycopg.errors.LockNotAvailable:
        raise WarehouseError(
            f"Another delivery to {destination} has been under way for {_LOCK_WAIT}. Wait for it; "
            "pg_stat_activity shows it as 'kundenkreis deliver'."
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


def _newest_publication(writer: psycopg.Connection) -> int | None:
    row = writer.execute("select max(publication_id) from history.publications").fetchone()
    return row[0] if row else None


def _begin(job: _Delivery) -> int:
    abandoned = ledger.abandon_open_attempts(job.writer, job.destination)
    if abandoned:
        job.progress(f"{job.destination}: {abandoned:,} interrupted rows are repeated")
    row = job.writer.execute(
        "insert into activation.sync_runs (run_id, publication_id, destination, state)"
        " values (%s, %s, %s, 'running') returning sync_run_id",
        (job.run_id, job.publication_id, job.destination),
    ).fetchone()
    job.writer.commit()
    return int(row[0]) if row else 0


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
        found = job.writer.execute(_PLANNED + " limit 1", {**job.keys, "operation": operation})
        if found.fetchone():
            return True
    return False


def _refresh_states(job: _Delivery) -> None:
    refresh_states(
        job.destination,
        job.tool_settings,
        job.tool,
        job.writer,
        job.run_id,
        job.progress,
        job.resolve,
    )
    live = live_schema(job.writer)
    if live is not None:  # a masked address would match none that withdrew
        privacy.require_unmasked(job.writer, live)
    withdrawn = job.writer.execute(_WITHDRAWN_SINCE, job.keys).fetchall()
    job.withdrawn = frozenset(row[0] for row in withdrawn)
    job.writer.commit()


def _send_everything(job: _Delivery) -> None:
    _ensure_attributes(job)
    _ensure_audiences(job)
    for operation in _OPERATIONS:
        _send_operation(job, operation)
        _require_current(job.writer, job.publication_id)
        job.writer.commit()
        if job.found_to_exist:
            # Contacts we took for new (a create whose answer was lost, or somebody was faster):
            # only their true state says whether they may join audiences now.
            _refresh_states(job)
            job.found_to_exist = False
    job.writer.execute(
        "update activation.audiences set first_synced_publication_id = %s"
        " where destination = %s and audience = any(%s) and first_synced_publication_id is null",
        (job.publication_id, job.destination, list(job.audience_ids)),
    )
    job.writer.commit()


def _ensure_attributes(job: _Delivery) -> None:
    rows = job.writer.execute(_ATTRIBUTE_TYPES, job.keys).fetchall()
    job.writer.commit()
    types: dict[str, AttributeType] = {
        name: "number" if is_number else "date" if is_date else "text"
        for name, is_number, is_date in rows
    }
    if types:
        job.tool.ensure_attributes(types)


def _ensure_audiences(job: _Delivery) -> None:
    """Find or create the audience of every planned row and remember its id in the tool."""
    rows = job.writer.execute(
        "select distinct plan_rows.audience, audiences.vendor_id from activation.plan_rows"
        " left join activation.audiences using (destination, audience)"
        " where publication_id = %(publication_id)s and destination = %(destination)s"
        " and status = 'planned' and audience is not null order by 1",
        job.keys,
    ).fetchall()
    for name, known_id in rows:
        audience = job.tool.ensure_audience(name, known_id)
        job.audience_ids[name] = audience.vendor_id
        if audience.vendor_id != known_id:
            _adopt_audience(job, name, audience.vendor_id)
    job.writer.commit()


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


def _send_operation(job: _Delivery, operation: Operation) -> None:
    """Send all rows of one operation, several batches at a time where the tool takes that."""
    limit = job.tool.capabilities.parallel_batches
    under_way: dict[Future[list[Outcome]], _Package] = {}
    failures: list[VendorError] = []
    with ThreadPoolExecutor(max_workers=limit) as pool:
        for package in _packages(job, operation):
            # A plan that was overtaken while it is sent may hold what should no longer happen.
            if failures or _newest_publication(job.writer) != job.publication_id:
                break
            _intend(job, package)
            under_way[pool.submit(_call, job.tool, package.batch)] = package
            if len(under_way) >= limit:
                failures += _settle_finished(job, operation, under_way)
        while under_way:
            failures += _settle_finished(job, operation, under_way)
    job.reader.rollback()
    if failures:
        raise failures[0]


def _intend(job: _Delivery, package: _Package) -> None:
    reach("deliver.before_intended")
    ledger.record_not_sent(job.writer, job.run_id, package.not_sent)
    ledger.intend(job.writer, job.run_id, package.attempted)
    job.writer.commit()
    reach("deliver.before_request")


def _call(tool: Destination, batch: Batch) -> list[Outcome]:
    if not batch.rows:
        return []
    with understood(tool.name, batch.operation):
        return tool.deliver(batch)


def _settle_finished(
    job: _Delivery, operation: Operation, under_way: dict[Future[list[Outcome]], _Package]
) -> list[VendorError]:
    """Settle the batches that are through. Errors are returned: the others are settled first."""
    finished, _ = wait(under_way, return_when=FIRST_COMPLETED)
    failures: list[VendorError] = []
    for future in finished:
        package = under_way.pop(future)
        try:
            outcomes = future.result()
        except KundenkreisError as error:
            ledger.settle(job.writer, job.run_id, package.done_already)
            ledger.mark_unknown(
                job.writer, [row.key for row in package.batch.rows], type(error).__name__
            )
            job.writer.commit()
            failures.append(cast(VendorError, error))
            continue
        reach("deliver.after_request")
        job.sent += len(package.batch.rows)
        job.found_to_exist |= any(outcome.reason_code == CONTACT_EXISTS for outcome in outcomes)
        reach("deliver.before_settle")
        ledger.settle(job.writer, job.run_id, [*outcomes, *package.done_already])
        job.writer.commit()
        reach("deliver.after_settle")
        job.progress(f"{job.destination}: {operation} {job.sent:,} rows sent")
    return failures


def _packages(job: _Delivery, operation: Operation) -> Iterator[_Package]:
    """The planned rows of an operation, judged once more and cut into the tool's batch size."""
    size = job.tool.capabilities.batch_size[operation]
    # A server-side cursor: a plan may be larger than memory. It sees the state from before this
    # operation, which is right, because the rows of one operation do not depend on each other.
    with job.reader.cursor(
        name=f"planned_{operation}", row_factory=class_row(_PlannedRow)
    ) as cursor:
        cursor.itersize = 2000
        cursor.execute(_PLANNED, {**job.keys, "operation": operation})
        collected: list[_PlannedRow] = []
        for row in cursor:
            if collected and (row.audience != collected[0].audience or len(collected) >= size):
                yield _package(job, operation, collected)
                collected = []
            collected.append(row)
        if collected:
            yield _package(job, operation, collected)


def _package(job: _Delivery, operation: Operation, planned: Sequence[_PlannedRow]) -> _Package:
    rows: list[Row] = []
    done: list[Outcome] = []
    not_sent: list[NotSent] = []
    for row in planned:
        verdict = _verdict(row, operation, job.withdrawn)
        if isinstance(verdict, NotSent):
            not_sent.append(verdict)
        elif isinstance(verdict, Outcome):
            done.append(verdict)
        else:
            rows.append(verdict)
    audience = planned[0].audience
    batch = Batch(operation, tuple(rows), job.audience_ids.get(audience) if audience else None)
    return _Package(batch, tuple(done), tuple(not_sent))


def _verdict(
    row: _PlannedRow, operation: Operation, withdrawn: frozenset[str]
) -> Row | Outcome | NotSent:
    """Whether a planned row may still go, by what the tools said a moment ago."""
    ready = Row(
        key=row.plan_row_id,
        address=row.address,
        vendor_id=row.vendor_id,
        may_create=bool(row.may_create) and row.state is None,
        attributes=row.attributes,
    )
    if operation == "remove":
        # Leaving is allowed to everybody; who is gone from the tool has left already.
        gone = row.vendor_id is None
        return Outcome(row.plan_row_id, "confirmed", "already_gone") if gone else ready
    if row.address in withdrawn:
        return NotSent(row.plan_row_id, "suppressed", "withdrawn_since_plan")
    if row.state is not None and row.state != "subscribed":
        return NotSent(row.plan_row_id, "suppressed", f"tool_{row.state}")
    if row.vendor_id is None and not (operation == "upsert" and ready.may_create):
        return NotSent(row.plan_row_id, "skipped", "not_in_tool")
    return ready


def _summary(job: _Delivery) -> dict[str, Any]:
    states = ("confirmed", "rejected", "unknown", "suppressed", "skipped", "held")
    totals: dict[str, Any] = dict.fromkeys(states, 0)
    audiences: dict[str, dict[str, dict[str, int]]] = {}
    for audience, operation, state, rows in job.writer.execute(_OUTCOMES, job.keys).fetchall():
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
