"""The ledger and what it adds up to, written in the same statements.

An attempt is ``intended`` before its request, ``sent`` while the tool works on it by itself, and
``confirmed``, ``rejected`` or ``unknown`` after it. While an attempt is open its row in
``delivered_state`` is in doubt, and a plan repeats what is in doubt; so a crash at any point costs
a repeat, never a loss (design: Activation).

A batch costs two statements, one before its request and one after it. Their values go as binary
arrays, because that is by far the cheapest way to hand a column over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from struct import Struct
from typing import Literal, NamedTuple

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

from kundenkreis.destinations.base import Operation, Outcome

_COLUMNS = (
    "plan_row_id, publication_id, run_id, destination, audience, segment, customer_id, operation,"
    " address, attributes, payload_hash"
)
_INCOMING = """
    select
        incoming.plan_row_id,
        cast(%(publication_id)s as bigint) as publication_id,
        cast(%(run_id)s as text) as run_id,
        cast(%(destination)s as text) as destination,
        cast(%(audience)s as text) as audience,
        incoming.segment,
        incoming.customer_id,
        cast(%(operation)s as text) as operation,
        incoming.address,
        cast(coalesce(incoming.attributes, '{}') as jsonb) as attributes,
        incoming.payload_hash
"""
_FROM_PLANNED = """
    from unnest(
        %(plan_row_ids)b::text[], %(segments)b::text[], %(customer_ids)b::text[],
        %(addresses)b::text[], %(attributes)b::text[], %(payload_hashes)b::text[]
"""

# Attempts of a publication that was delivered to its end are all settled, so that these need no
# index that every attempt would have to pay for.
_UNFINISHED = """
    select sync_runs.publication_id
    from activation.sync_runs
    where sync_runs.destination = %(destination)s and sync_runs.state <> 'done'
"""
_ABANDON = f"""
update activation.ledger
set state = 'unknown', reason_code = 'interrupted', settled_at = clock_timestamp()
where
    destination = %(destination)s
    and publication_id in ({_UNFINISHED})
    and (state = 'intended' or (state = 'sent' and vendor_job_id is null))
"""

_INTEND = f"""
with incoming as (
    {_INCOMING}, incoming.is_creation
    {_FROM_PLANNED}, %(are_creations)b::boolean[]
    ) as incoming (
        plan_row_id, segment, customer_id, address, attributes, payload_hash, is_creation
    )
),
doubts as (
    insert into activation.delivered_state as known (
        destination, audience, address, customer_id, segment, in_doubt, pending_attributes,
        creation_attempted_at
    )
    select
        destination, audience, address, customer_id, segment, true, attributes,
        case when is_creation then now() end
    from incoming
    on conflict (destination, audience, address) do update set
        customer_id = excluded.customer_id,
        segment = excluded.segment,
        was_in_doubt = known.in_doubt,
        in_doubt = true,
        creation_attempted_at
        = coalesce(excluded.creation_attempted_at, known.creation_attempted_at),
        pending_attributes = case
            when known.in_doubt then known.pending_attributes || excluded.pending_attributes
            else excluded.pending_attributes
        end
)
insert into activation.ledger ({_COLUMNS}, state)
select {_COLUMNS}, 'intended'
from incoming
returning plan_row_id, attempt_id
"""

# A repeat that was refused says nothing about the attempt before it, so that doubt stays.
# The gaps grow in publications: 1, 2, 4, 8 ... and start again with a new payload.
_SETTLE = """
with outcome as (
    select *
    from unnest(
        %(attempt_ids)b::bigint[], %(states)b::text[], %(codes)b::text[], %(reasons)b::text[],
        %(vendor_ids)b::text[], %(are_created)b::boolean[]
    ) as outcome (attempt_id, state, reason_code, reason, vendor_id, is_created)
),
settled as (
    update activation.ledger
    set
        state = coalesce(outcome.state, 'confirmed'),
        reason_code = outcome.reason_code,
        reason = outcome.reason,
        vendor_reference = outcome.vendor_id,
        sent_at = coalesce(ledger.sent_at, %(sent_at)s),
        settled_at = clock_timestamp()
    from outcome
    where ledger.attempt_id = outcome.attempt_id and ledger.state in ('intended', 'sent')
    returning
        ledger.destination, ledger.audience, ledger.address, ledger.operation, ledger.attributes,
        ledger.payload_hash, ledger.publication_id, ledger.state, ledger.reason_code,
        ledger.vendor_reference, ledger.attempt_id, outcome.is_created
),
confirmed as (
    update activation.delivered_state as known
    set
        is_member = settled.operation = 'add',
        attributes = jsonb_strip_nulls(known.attributes || settled.attributes),
        pending_attributes = '{}',
        payload_hash = settled.payload_hash,
        in_doubt = false,
        was_in_doubt = false,
        confirmed_publication_id = settled.publication_id,
        confirmed_at = clock_timestamp(),
        rejections = 0,
        rejected_payload_hash = null,
        rejected_reason = null,
        rejected_attempt_id = null,
        retry_from_publication_id = null
    from settled
    where
        settled.state = 'confirmed'
        and known.destination = settled.destination
        and known.audience = settled.audience
        and known.address = settled.address
),
refused as (
    update activation.delivered_state as known
    set
        in_doubt = known.was_in_doubt,
        was_in_doubt = false,
        rejections = case
            when known.rejected_payload_hash = settled.payload_hash then known.rejections + 1
            else 1
        end,
        rejected_payload_hash = settled.payload_hash,
        rejected_reason = settled.reason_code,
        rejected_attempt_id = settled.attempt_id,
        retry_from_publication_id = settled.publication_id + case
            when known.rejected_payload_hash = settled.payload_hash
                then power(2, least(known.rejections, 20))::bigint
            else 1
        end
    from settled
    where
        settled.state = 'rejected'
        and known.destination = settled.destination
        and known.audience = settled.audience
        and known.address = settled.address
)
insert into activation.subscriber_states (destination, address, state, vendor_id, read_at, run_id)
select
    settled.destination, settled.address, 'subscribed', settled.vendor_reference, now(), %(run_id)s
from settled
where settled.state = 'confirmed' and settled.is_created
on conflict (destination, address) do update set
    vendor_id = excluded.vendor_id, read_at = excluded.read_at, run_id = excluded.run_id
"""

_GIVE_UP = """
with given_up as (
    update activation.ledger
    set state = %s, reason_code = %s, settled_at = clock_timestamp()
    where attempt_id = any(%s) and state = 'intended'
    returning destination, audience, address
)
update activation.delivered_state as known
set in_doubt = known.was_in_doubt, was_in_doubt = false
from given_up
where
    known.destination = given_up.destination
    and known.audience = given_up.audience
    and known.address = given_up.address
"""

_NOT_SENT = f"""
insert into activation.ledger ({_COLUMNS}, state, reason_code, settled_at)
{_INCOMING}, incoming.state, incoming.reason_code, clock_timestamp()
{_FROM_PLANNED}, %(states)b::text[], %(codes)b::text[]
    ) as incoming (
        plan_row_id, segment, customer_id, address, attributes, payload_hash, state, reason_code
    )
"""


class _Texts(list[str | None]):
    """A column of texts, handed over as a binary ``text[]``."""


class _TextsDumper(Dumper):
    """psycopg's own asks for the type of every element, which takes twice as long."""

    format = Format.BINARY
    oid = psycopg.adapters.types["text"].array_oid

    def dump(self, obj: _Texts) -> bytes:
        """The wire format of array_recv: dimensions, nulls, type; length and first index; texts."""
        encoding = self.connection.info.encoding if self.connection else "utf-8"
        parts = [b""]
        for text in obj:
            if text is None:
                parts.append(_NULL)
            else:
                encoded = text.encode(encoding)
                parts += (_LENGTH.pack(len(encoded)), encoded)
        if len(parts) == 1:
            return _HEAD.pack(0, 0, _TEXT)
        parts[0] = _HEAD.pack(1, 1, _TEXT) + _DIMENSION.pack(len(obj), 1)
        return b"".join(parts)


_TEXT = psycopg.adapters.types["text"].oid
_HEAD, _DIMENSION, _LENGTH = Struct("!iiI"), Struct("!ii"), Struct("!i")
_NULL = _LENGTH.pack(-1)
psycopg.adapters.register_dumper(_Texts, _TextsDumper)


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
class Entries:
    """What the ledger's entries of one delivery have in common."""

    publication_id: int
    run_id: str
    destination: str


def abandon_open_attempts(connection: psycopg.Connection, destination: str) -> int:
    """Call attempts that a killed process left open unknown. Only under the destination's lock.

    Those that the tool works on under a job's id stay open: `jobs.submitted` finds them.
    """
    return connection.execute(_ABANDON, {"destination": destination}).rowcount


def intend(
    connection: psycopg.Connection,
    entries: Entries,
    operation: Operation,
    rows: Sequence[PlannedRow],
) -> dict[str, int]:
    """Open an attempt for each row and put what it writes in doubt. Commit before sending.

    Args:
        rows: of one audience, each address once.

    Returns:
        The attempt of each plan row.
    """
    if not rows:
        return {}
    creating = operation == "upsert"
    values = {
        **_values(entries, operation, rows),
        "are_creations": [creating and row.vendor_id is None for row in rows],
    }
    return dict(connection.execute(_INTEND, values).fetchall())


def mark_sent(connection: psycopg.Connection, attempt_ids: Sequence[int], job_id: str) -> None:
    """Remember the job that works on open attempts. Commit before asking for it."""
    connection.execute(
        "update activation.ledger set state = 'sent', vendor_job_id = %s,"
        " sent_at = clock_timestamp() where attempt_id = any(%s) and state = 'intended'",
        (job_id, list(attempt_ids)),
    )


def settle(
    connection: psycopg.Connection,
    run_id: str,
    attempts: Mapping[str, int],
    outcomes: Sequence[Outcome],
    sent_at: datetime | None = None,
) -> None:
    """Close the open attempts of the outcomes and carry them to the delivered state.

    Args:
        attempts: the attempt of each plan row, as `intend` gave them.
        sent_at: when the request was made; None where there was none.
    """
    if outcomes:
        values = {
            "run_id": run_id,
            "sent_at": sent_at,
            "attempt_ids": [attempts[one.key] for one in outcomes],
            "states": _column(None if one.state == "confirmed" else one.state for one in outcomes),
            "codes": _column(one.reason_code for one in outcomes),
            "reasons": _column(one.reason for one in outcomes),
            "vendor_ids": _column(one.vendor_id for one in outcomes),
            "are_created": [one.created for one in outcomes],
        }
        connection.execute(_SETTLE, values)


def mark_unknown(
    connection: psycopg.Connection,
    attempt_ids: Sequence[int],
    reason_code: str,
    sent_at: datetime | None = None,
) -> None:
    """Close open attempts whose request has no usable answer. They stay in doubt."""
    connection.execute(
        "update activation.ledger set state = 'unknown', reason_code = %s,"
        " sent_at = coalesce(sent_at, %s), settled_at = clock_timestamp()"
        " where attempt_id = any(%s) and state in ('intended', 'sent')",
        (reason_code, sent_at, list(attempt_ids)),
    )


def give_up(
    connection: psycopg.Connection,
    attempt_ids: Sequence[int],
    state: Literal["unknown", "suppressed", "skipped"] = "unknown",
    reason_code: str = "not_begun",
) -> None:
    """Close open attempts that were not begun. They put nothing in doubt."""
    connection.execute(_GIVE_UP, (state, reason_code, list(attempt_ids)))


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
    return {
        "publication_id": entries.publication_id,
        "run_id": entries.run_id,
        "destination": entries.destination,
        "audience": rows[0].audience or "",
        "operation": operation,
        "plan_row_ids": _Texts(row.plan_row_id for row in rows),
        "segments": _column(row.segment for row in rows),
        "customer_ids": _Texts(row.customer_id for row in rows),
        "addresses": _Texts(row.address for row in rows),
        "attributes": _column(None if row.attributes == "{}" else row.attributes for row in rows),
        "payload_hashes": _Texts(row.payload_hash for row in rows),
    }


def _column(values: Iterable[str | None]) -> _Texts | None:
    """A column of an array's rows; most columns of most batches hold nothing but nulls."""
    column = _Texts(values)
    return column if any(value is not None for value in column) else None
