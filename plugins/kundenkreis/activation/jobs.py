"""Batches that a tool works on by itself: asks for their outcome until it is there.

The job's id is recorded with the batch before the first question, so whatever happens to this
process the next delivery to the tool asks on, with the batch as it was submitted (design:
Activation).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import cast

import psycopg
from psycopg.rows import class_row

from kundenkreis.destinations.base import (
    AsyncDestination,
    AttributeValue,
    Batch,
    Destination,
    JobLost,
    Operation,
    Outcome,
    Row,
)
from kundenkreis.errors import VendorError
from kundenkreis.failpoints import reach
from kundenkreis.http import understood

_FIRST_WAITS = (1.0, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
_LONGEST_WAIT = 60.0

_SUBMITTED = """
select
    rows_under_way.batch_id,
    rows_under_way.vendor_job_id as job_id,
    rows_under_way.plan_row_id,
    rows_under_way.operation,
    rows_under_way.address,
    rows_under_way.attributes,
    known_contacts.vendor_id,
    audiences.vendor_id as audience_id
from activation.rows_under_way
left join activation.known_contacts
    on
        known_contacts.destination = rows_under_way.destination
        and known_contacts.address = rows_under_way.address
left join activation.audiences
    on
        audiences.destination = rows_under_way.destination
        and audiences.audience = rows_under_way.audience
where rows_under_way.destination = %s and rows_under_way.state = 'sent'
order by rows_under_way.batch_id, rows_under_way.position
"""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a job; the clock can be replaced, so that tests take no time."""

    minutes: float
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class _SubmittedRow:
    """A row that a job holds."""

    batch_id: int
    job_id: str
    plan_row_id: str
    operation: Operation
    address: str
    attributes: dict[str, AttributeValue]
    vendor_id: str | None
    audience_id: str | None


@dataclass(frozen=True)
class OpenJob:
    """A job whose outcome is not known yet, with its batch as it was submitted and recorded."""

    job_id: str
    batch: Batch
    batch_id: int


def submitted(connection: psycopg.Connection, destination: str) -> list[OpenJob]:
    """The jobs of a tool whose outcome is not known yet, in the order of their submission.

    They are few: what one delivery had under way when it ended.
    """
    with connection.cursor(row_factory=class_row(_SubmittedRow)) as cursor:
        found = cursor.execute(_SUBMITTED, (destination,)).fetchall()
    batches: dict[int, list[_SubmittedRow]] = {}
    for row in found:
        batches.setdefault(row.batch_id, []).append(row)
    return [OpenJob(rows[0].job_id, _batch(rows), batch_id) for batch_id, rows in batches.items()]


def outcomes_of(tool: Destination, job_id: str, batch: Batch, patience: Patience) -> list[Outcome]:
    """Ask with growing waits until the job is done.

    Raises:
        JobLost: the vendor no longer knows the job.
        VendorError: the tool fails, or the job takes longer than the patience lasts. The rows
            stay submitted; the next delivery asks on.
    """
    if not tool.capabilities.async_jobs:
        raise JobLost(f"{tool.name}: this version does not know how to ask for job {job_id}.")
    asked = cast(AsyncDestination, tool)
    deadline = patience.monotonic() + 60 * patience.minutes
    for wait in _waits():
        reach("deliver.before_poll")
        with understood(tool.name, f"asking for a job of {batch.operation}"):
            outcomes = asked.poll(job_id, batch)
        reach("deliver.after_poll")
        if outcomes is not None:
            return outcomes
        left = deadline - patience.monotonic()
        if left <= 0:
            break
        patience.sleep(min(wait, left))
    raise VendorError(
        f"{tool.name}: job {job_id} ({len(batch.rows):,} rows) is still running after "
        f"{patience.minutes:g} minutes (max_job_minutes of destinations.yml). Nothing is lost: the "
        "job's id is kept, and the next delivery asks for its outcome first. Run the delivery "
        "again later, or raise the limit."
    )


def _waits() -> Iterator[float]:
    """Seconds between questions: short at first, because most jobs are small."""
    return chain(_FIRST_WAITS, repeat(_LONGEST_WAIT))


def _batch(rows: list[_SubmittedRow]) -> Batch:
    first = rows[0]
    return Batch(
        first.operation,
        tuple(
            Row(
                key=row.plan_row_id,
                address=row.address,
                vendor_id=row.vendor_id,
                may_create=row.operation == "upsert" and row.vendor_id is None,
                attributes=row.attributes,
            )
            for row in rows
        ),
        first.audience_id,
    )
