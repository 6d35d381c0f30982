"""The ledger, what it adds up to, and the batches whose outcome it does not have yet.

A batch is recorded as one row, ``activation.batches_under_way``, before its request. When its
outcome is known, one statement deletes that row, writes an attempt for each of its rows and carries
them to ``delivered_state``. While a batch is under way, a plan takes its rows as in doubt, for it
reads ``activation.effective_state``, and a plan repeats what is in doubt; so a crash at any point
costs a repeat, never a loss (design: Activation).

Columns go as binary arrays, because that is by far the cheapest way to hand them over, and the
statement that settles a batch reads them where they were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from operator import methodcaller
from struct import Struct
from typing import Literal, NamedTuple

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from kundenkreis.destinations.base import Operation, Outcome
from kundenkreis.failpoints import reach

_RECORD = """
insert into activation.batches_under_way (
    publication_id, run_id, destination, audience, operation, plan_row_ids, segments, customer_ids,
    addresses, attributes, payload_hashes, are_creations
)
values (
    %(publication_id)s, %(run_id)s, %(destination)s, %(audience)s, %(operation)s, %(plan_row_ids)b,
    %(segments)b, %(customer_ids)b, %(addresses)b, %(attributes)b, %(payload_hashes)b,
    %(are_creations)b
)
returning batch_id
"""

# A row that an erasure has emptied of its person is an attempt like any other, and nobody's state.
# A refusal says nothing about an attempt before it, so that its doubt stays. The gaps between
# retries grow in publications: 1, 2, 4, 8 ... and start again with a new payload. What a confirmed
# row clears gets to the update of a known one by way of ``pending_attributes``.
_ATTEMPTS = """
with answers as materialized (
    select
        given.*,
        set_config(
            'synchronous_commit',
            case when %(wait_for_disk)s then current_setting('synchronous_commit') else 'off' end,
            true
        )
    from unnest(
        %(batch_ids)b::bigint[], %(firsts)b::bigint[], %(lasts)b::bigint[],
        %(sent_ats)b::timestamptz[], %(usual_states)b::text[], %(usual_codes)b::text[]
    ) as given (batch_id, first, last, sent_at, usual_state, usual_code)
),
batches as (
    delete from activation.batches_under_way
    where batch_id = any(%(batch_ids)b::bigint[])
    returning *
),
attempts as materialized (
    select
        batches.publication_id,
        batches.run_id,
        batches.destination,
        batches.audience,
        batches.operation,
        batches.vendor_job_id,
        batches.intended_at,
        coalesce(batches.sent_at, answers.sent_at) as sent_at,
        case when planned.is_creation then batches.intended_at end as creation_attempted_at,
        planned.plan_row_id,
        planned.segment,
        planned.customer_id,
        planned.address,
        cast(coalesce(planned.attributes, '{}') as jsonb) as attributes,
        coalesce(strpos(planned.attributes, 'null') > 0, false) as may_clear,
        planned.payload_hash,
        coalesce(planned.state, answers.usual_state) as state,
        coalesce(planned.reason_code, answers.usual_code) as reason_code,
        planned.reason,
        planned.created_id
    from answers
    inner join batches on answers.batch_id = batches.batch_id
    cross join lateral unnest(
        batches.plan_row_ids, batches.segments, batches.customer_ids, batches.addresses,
        batches.attributes, batches.payload_hashes, batches.are_creations,
        (%(states)b::text[])[answers.first:answers.last],
        (%(codes)b::text[])[answers.first:answers.last],
        (%(reasons)b::text[])[answers.first:answers.last],
        (%(created_ids)b::text[])[answers.first:answers.last]
    ) as planned (
        plan_row_id, segment, customer_id, address, attributes, payload_hash, is_creation, state,
        reason_code, reason, created_id
    )
),
recorded as (
    insert into activation.ledger (
        plan_row_id, publication_id, run_id, destination, audience, segment, customer_id, operation,
        address, attributes, payload_hash, state, reason_code, reason, vendor_reference,
        intended_at, sent_at, settled_at, vendor_job_id
    )
    select
        plan_row_id, publication_id, run_id, destination, audience, segment, customer_id, operation,
        address, attributes, payload_hash, state, reason_code, reason, created_id,
        intended_at, sent_at, clock_timestamp(), vendor_job_id
    from attempts
    returning plan_row_id, attempt_id
)
"""
_REFUSED_AND_DOUBTED = """,
refused as (
    insert into activation.delivered_state as known (
        destination, audience, address, customer_id, segment, creation_attempted_at, rejections,
        rejected_payload_hash, rejected_reason, rejected_attempt_id, retry_from_publication_id
    )
    select
        destination, audience, address, customer_id, segment, creation_attempted_at, 1,
        payload_hash, reason_code, attempt_id, publication_id + 1
    from attempts
    inner join recorded using (plan_row_id)
    where state = 'rejected' and address <> ''
    on conflict (address, destination, audience) do update set
        customer_id = excluded.customer_id,
        segment = excluded.segment,
        creation_attempted_at
        = coalesce(excluded.creation_attempted_at, known.creation_attempted_at),
        rejections = case
            when known.rejected_payload_hash = excluded.rejected_payload_hash
                then known.rejections + 1
            else 1
        end,
        rejected_payload_hash = excluded.rejected_payload_hash,
        rejected_reason = excluded.rejected_reason,
        rejected_attempt_id = excluded.rejected_attempt_id,
        retry_from_publication_id = excluded.retry_from_publication_id + case
            when known.rejected_payload_hash = excluded.rejected_payload_hash
                then power(2, least(known.rejections, 20))::bigint - 1
            else 0
        end
),
doubted as (
    insert into activation.delivered_state as known (
        destination, audience, address, customer_id, segment, in_doubt, pending_attributes,
        creation_attempted_at
    )
    select
        destination, audience, address, customer_id, segment, true, attributes,
        creation_attempted_at
    from attempts
    where state = 'unknown' and address <> ''
    on conflict (address, destination, audience) do update set
        customer_id = excluded.customer_id,
        segment = excluded.segment,
        in_doubt = true,
        pending_attributes = known.pending_attributes || excluded.pending_attributes,
        creation_attempted_at
        = coalesce(excluded.creation_attempted_at, known.creation_attempted_at)
)
"""
_CONFIRMED = """
insert into activation.delivered_state as known (
    destination, audience, address, customer_id, segment, is_member, attributes,
    pending_attributes, payload_hash, creation_attempted_at, confirmed_publication_id,
    confirmed_at
)
select
    destination, audience, address, customer_id, segment, operation = 'add',
    case when may_clear then jsonb_strip_nulls(attributes) else attributes end,
    case
        when may_clear then coalesce(nullif(attributes, jsonb_strip_nulls(attributes)), '{}')
        else '{}'
    end,
    payload_hash, creation_attempted_at, publication_id, clock_timestamp()
from attempts
where state = 'confirmed' and address <> ''
"""
_UNLESS_NEW = """
on conflict (address, destination, audience) do update set
    customer_id = excluded.customer_id,
    segment = excluded.segment,
    is_member = excluded.is_member,
    attributes = jsonb_strip_nulls(
        known.attributes || excluded.attributes || excluded.pending_attributes
    ),
    pending_attributes = '{}',
    payload_hash = excluded.payload_hash,
    in_doubt = false,
    creation_attempted_at
    = coalesce(excluded.creation_attempted_at, known.creation_attempted_at),
    confirmed_publication_id = excluded.confirmed_publication_id,
    confirmed_at = excluded.confirmed_at,
    rejections = 0,
    rejected_payload_hash = null,
    rejected_reason = null,
    rejected_attempt_id = null,
    retry_from_publication_id = null
"""

_NOT_SENT = """
insert into activation.ledger (
    plan_row_id, publication_id, run_id, destination, audience, segment, customer_id, operation,
    address, attributes, payload_hash, state, reason_code, settled_at
)
select
    incoming.plan_row_id, %(publication_id)s, %(run_id)s, %(destination)s, %(audience)s,
    incoming.segment, incoming.customer_id, %(operation)s, incoming.address,
    cast(coalesce(incoming.attributes, '{}') as jsonb), incoming.payload_hash, incoming.state,
    incoming.reason_code, clock_timestamp()
from unnest(
    %(plan_row_ids)b::text[], %(segments)b::text[], %(customer_ids)b::text[],
    %(addresses)b::text[], %(attributes)b::text[], %(payload_hashes)b::text[], %(states)b::text[],
    %(codes)b::text[]
) as incoming (
    plan_row_id, segment, customer_id, address, attributes, payload_hash, state, reason_code
)
"""

_INTERRUPTED = """
select batch_id, cardinality(plan_row_ids)
from activation.batches_under_way
where destination = %s and vendor_job_id is null
order by batch_id
"""


class _Texts(list[str | None]):
    """A column of texts, handed over as a binary ``text[]``."""


class _TextsDumper(Dumper):
    """psycopg's own asks for the type of every element, which takes twice as long."""

    format = Format.BINARY
    oid = psycopg.adapters.types["text"].array_oid

    def dump(self, obj: _Texts) -> bytes:
        """The wire format of array_recv: dimensions, nulls, type; length and first index; texts."""
        if not obj:
            return _HEAD.pack(0, 0, _TEXT)
        head = _HEAD.pack(1, 1, _TEXT) + _DIMENSION.pack(len(obj), 1)
        encoding = self.connection.info.encoding if self.connection else "utf-8"
        encode = methodcaller("encode", encoding)
        elements: Iterable[bytes]
        if None in obj:
            elements = (_element(None if text is None else encode(text)) for text in obj)
        else:  # without a line of Python per element
            encoded = list(map(encode, obj))
            lengths = map(_LENGTH.pack, map(len, encoded))
            elements = chain.from_iterable(zip(lengths, encoded, strict=True))
        return b"".join(chain((head,), elements))


def _element(encoded: bytes | None) -> bytes:
    return _NULL if encoded is None else _LENGTH.pack(len(encoded)) + encoded


_TEXT = psycopg.adapters.types["text"].oid
_HEAD, _DIMENSION, _LENGTH = Struct("!iiI"), Struct("!ii"), Struct("!i")
_NULL = _LENGTH.pack(-1)
psycopg.adapters.register_dumper(_Texts, _TextsDumper)


class _NoOutcome(NamedTuple):
    """In the place of an `Outcome` where a tool said nothing of a row."""

    state: str = "unknown"
    reason_code: str = "no_outcome"
    reason: None = None
    vendor_id: None = None
    created: bool = False


_NO_OUTCOME = _NoOutcome()


class PlannedRow(NamedTuple):
    """A row of the plan with what its tool says about the contact. ``attributes`` is JSON."""

    plan_row_id: str
    audience: str | None
    segment: str | None
    customer_id: str
    address: str
    attributes: str
    payload_hash: str
    may_create: bool
    vendor_id: str | None
    state: str | None


@dataclass(frozen=True)
class NotSent:
    """A planned row that may not (suppressed) or need not (skipped) be sent after all."""

    planned: PlannedRow
    state: Literal["suppressed", "skipped"]
    reason_code: str


@dataclass(frozen=True)
class Answer:
    """What a tool said of a batch.

    Attributes:
        keys: of the batch's rows, in the order in which they were recorded.
        outcomes: a row without one is unknown and stays in doubt. A text, where there is no usable
            answer, says why all of them are.
        sent_at: when the request was made; None where there was none.
    """

    batch_id: int
    keys: Sequence[str]
    outcomes: Sequence[Outcome] | str
    sent_at: datetime | None = None


@dataclass(frozen=True)
class Entries:
    """What the ledger's entries of one delivery have in common."""

    publication_id: int
    run_id: str
    destination: str


def doubt_interrupted(connection: psycopg.Connection, destination: str) -> int:
    """Call what a killed delivery left under way unknown, and commit.

    Only under the destination's lock. What the tool works on under a job's id stays:
    `jobs.submitted` finds it.

    Returns:
        The number of rows.
    """
    left = connection.execute(_INTERRUPTED, (destination,)).fetchall()
    for batch_id, _ in left:
        settle(connection, [Answer(batch_id, (), "interrupted")])
        reach("deliver.before_doubts")
    connection.commit()
    reach("deliver.after_doubts")
    return sum(rows for _, rows in left)


def record(
    connection: psycopg.Connection,
    entries: Entries,
    operation: Operation,
    rows: Sequence[PlannedRow],
) -> int:
    """Record a batch that is to be sent, which puts its rows in doubt. Commit before sending.

    Args:
        rows: at least one; of one audience, each address once.

    Returns:
        The batch's id.
    """
    creations = [operation == "upsert" and row.vendor_id is None for row in rows]
    values = {
        **_values(entries, operation, rows),
        "are_creations": creations if any(creations) else None,
    }
    recorded = connection.execute(_RECORD, values).fetchone()
    assert recorded is not None  # noqa: S101 (insert ... returning always returns its row)
    return int(recorded[0])


def mark_sent(connection: psycopg.Connection, batch_id: int, job_id: str) -> None:
    """Remember the job that works on a batch. Commit before asking for it."""
    connection.execute(
        "update activation.batches_under_way set vendor_job_id = %s, sent_at = clock_timestamp()"
        " where batch_id = %s and vendor_job_id is null",
        (job_id, batch_id),
    )


def settle(
    connection: psycopg.Connection,
    answers: Sequence[Answer],
    *,
    are_new: bool = False,
    wait_for_disk: bool = True,
) -> None:
    """Write what became of batches, in one statement; nothing where that is written already.

    Args:
        answers: at least one; no two for one batch.
        are_new: nothing was delivered to the batches' audiences before this delivery, so that no
            row has to be looked for.
        wait_for_disk: until the transaction is on disk. What a crash of the server takes back
            otherwise leaves the batches in doubt.

    Raises:
        psycopg.errors.UniqueViolation: they are not new.
    """
    found: list[Outcome | _NoOutcome] = []
    firsts, lasts = [], []
    for answer in answers:
        firsts.append(len(found) + 1)
        if not isinstance(answer.outcomes, str):
            by_key = {one.key: one for one in answer.outcomes}
            found += [by_key.get(key, _NO_OUTCOME) for key in answer.keys]
        lasts.append(len(found))
    usable = [not isinstance(answer.outcomes, str) for answer in answers]
    values = {
        "wait_for_disk": wait_for_disk,
        "batch_ids": [answer.batch_id for answer in answers],
        "firsts": firsts,
        "lasts": lasts,
        "sent_ats": [answer.sent_at for answer in answers],
        "usual_states": ["confirmed" if one else "unknown" for one in usable],
        "usual_codes": [
            None if one else answer.outcomes for one, answer in zip(usable, answers, strict=True)
        ],
        "states": _column([None if one.state == "confirmed" else one.state for one in found]),
        "codes": _column([one.reason_code for one in found]),
        "reasons": _column([one.reason for one in found]),
        "created_ids": _column([one.vendor_id if one.created else None for one in found]),
    }
    others = "" if values["states"] is None and all(usable) else _REFUSED_AND_DOUBTED
    unless_new = "" if are_new else _UNLESS_NEW
    connection.execute(_ATTEMPTS + others + _CONFIRMED + unless_new, values)


def is_new(connection: psycopg.Connection, destination: str, audience: str) -> bool:
    """Whether nothing was ever delivered to an audience; '' are the contacts' attributes."""
    found = connection.execute(
        "select 1 from activation.delivered_state where destination = %s and audience = %s limit 1",
        (destination, audience),
    )
    return found.fetchone() is None


def give_up(connection: psycopg.Connection, batch_id: int) -> None:
    """Forget a batch that was recorded and not begun."""
    connection.execute("delete from activation.batches_under_way where batch_id = %s", (batch_id,))


def record_not_sent(
    connection: psycopg.Connection,
    entries: Entries,
    operation: Operation,
    rows: Sequence[NotSent],
) -> None:
    """Write why planned rows of one audience were not sent."""
    if rows:
        values = {
            **_values(entries, operation, [row.planned for row in rows]),
            "states": _Texts(row.state for row in rows),
            "codes": _Texts(row.reason_code for row in rows),
        }
        connection.execute(_NOT_SENT, values)


def _values(
    entries: Entries, operation: Operation, rows: Sequence[PlannedRow]
) -> dict[str, object]:
    columns = dict(zip(PlannedRow._fields, zip(*rows, strict=True), strict=True))
    return {
        "publication_id": entries.publication_id,
        "run_id": entries.run_id,
        "destination": entries.destination,
        "audience": rows[0].audience or "",
        "operation": operation,
        "plan_row_ids": _Texts(columns["plan_row_id"]),
        "segments": _column(columns["segment"]),
        "customer_ids": _Texts(columns["customer_id"]),
        "addresses": _Texts(columns["address"]),
        "attributes": _column([None if one == "{}" else one for one in columns["attributes"]]),
        "payload_hashes": _Texts(columns["payload_hash"]),
    }


def _column(values: Sequence[str | None]) -> _Texts | None:
    """A column of an array's rows; most columns of most batches hold nothing but nulls."""
    return None if values.count(None) == len(values) else _Texts(values)
