"""The ledger and what it adds up to, written in the same transactions.

An attempt is ``intended`` before its request and ``confirmed``, ``rejected`` or ``unknown`` after
it. While an attempt is open its row in ``delivered_state`` is in doubt, and a plan repeats what is
in doubt; so a crash at any point costs a repeat, never a loss (design: Activation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psycopg

from kundenkreis.destinations.base import Outcome

_COLUMNS = (
    "plan_row_id, publication_id, run_id, destination, audience, segment, customer_id, operation,"
    " address, attributes, payload_hash, state, reason_code, settled_at"
)
_FROM_PLAN = """
    plan_rows.plan_row_id, plan_rows.publication_id, %(run_id)s, plan_rows.destination,
    coalesce(plan_rows.audience, ''), plan_rows.segment, plan_rows.customer_id,
    plan_rows.operation, plan_rows.address, cast(plan_rows.attributes as jsonb),
    plan_rows.payload_hash
"""

_ABANDON = """
update activation.ledger
set state = 'unknown', reason_code = 'interrupted', settled_at = clock_timestamp()
where destination = %s and state in ('intended', 'sent')
"""

_INTEND = f"""
insert into activation.ledger ({_COLUMNS})
select {_FROM_PLAN}, 'intended', null, null
from activation.plan_rows
where plan_rows.plan_row_id = any(%(plan_row_ids)s)
"""

_DOUBT = """
insert into activation.delivered_state as known (
    destination, audience, address, customer_id, segment, in_doubt, pending_attributes,
    creation_attempted_at
)
select
    plan_rows.destination, coalesce(plan_rows.audience, ''), plan_rows.address,
    plan_rows.customer_id, plan_rows.segment, true, cast(plan_rows.attributes as jsonb),
    case
        when plan_rows.operation = 'upsert' and subscriber_states.vendor_id is null then now()
    end
from activation.plan_rows
left join activation.subscriber_states
    on
        subscriber_states.destination = plan_rows.destination
        and subscriber_states.address = plan_rows.address
where plan_rows.plan_row_id = any(%(plan_row_ids)s)
on conflict (destination, audience, address) do update set
    customer_id = excluded.customer_id,
    segment = excluded.segment,
    was_in_doubt = known.in_doubt,
    in_doubt = true,
    creation_attempted_at = coalesce(excluded.creation_attempted_at, known.creation_attempted_at),
    pending_attributes = case
        when known.in_doubt then known.pending_attributes || excluded.pending_attributes
        else excluded.pending_attributes
    end
"""

_SETTLE = """
update activation.ledger
set
    state = outcome.state,
    reason_code = outcome.reason_code,
    reason = outcome.reason,
    vendor_reference = outcome.vendor_id,
    settled_at = clock_timestamp()
from unnest(
    %(keys)s::text[], %(states)s::text[], %(codes)s::text[], %(reasons)s::text[], %(ids)s::text[]
) as outcome (plan_row_id, state, reason_code, reason, vendor_id)
where ledger.plan_row_id = outcome.plan_row_id and ledger.state in ('intended', 'sent')
"""

_CONFIRM = """
update activation.delivered_state as known
set
    is_member = plan_rows.operation = 'add',
    attributes = jsonb_strip_nulls(known.attributes || cast(plan_rows.attributes as jsonb)),
    pending_attributes = '{}',
    payload_hash = plan_rows.payload_hash,
    in_doubt = false,
    was_in_doubt = false,
    confirmed_publication_id = plan_rows.publication_id,
    confirmed_at = clock_timestamp(),
    rejections = 0,
    rejected_payload_hash = null,
    rejected_reason = null,
    retry_from_publication_id = null
from activation.plan_rows
where
    plan_rows.plan_row_id = any(%(confirmed)s)
    and known.destination = plan_rows.destination
    and known.audience = coalesce(plan_rows.audience, '')
    and known.address = plan_rows.address
"""

# A repeat that was refused says nothing about the attempt before it, so that doubt stays.
# The gaps grow in publications: 1, 2, 4, 8 ... and start again with a new payload.
_REJECT = """
update activation.delivered_state as known
set
    in_doubt = known.was_in_doubt,
    was_in_doubt = false,
    rejections = case
        when known.rejected_payload_hash = ledger.payload_hash then known.rejections + 1 else 1
    end,
    rejected_payload_hash = ledger.payload_hash,
    rejected_reason = ledger.reason_code,
    retry_from_publication_id = ledger.publication_id + case
        when known.rejected_payload_hash = ledger.payload_hash
            then power(2, least(known.rejections, 20))::bigint
        else 1
    end
from activation.ledger
where
    ledger.plan_row_id = any(%(rejected)s)
    and ledger.attempt_id = (
        select max(latest.attempt_id)
        from activation.ledger as latest
        where latest.plan_row_id = ledger.plan_row_id
    )
    and known.destination = ledger.destination
    and known.audience = ledger.audience
    and known.address = ledger.address
"""

_REMEMBER_CREATED = """
insert into activation.subscriber_states (
    destination, address, state, vendor_id, read_at, run_id
)
select plan_rows.destination, plan_rows.address, 'subscribed', created.vendor_id, now(), %(run_id)s
from unnest(%(created)s::text[], %(created_ids)s::text[]) as created (plan_row_id, vendor_id)
inner join activation.plan_rows on created.plan_row_id = plan_rows.plan_row_id
on conflict (destination, address) do update set
    vendor_id = excluded.vendor_id, read_at = excluded.read_at, run_id = excluded.run_id
"""

_NOT_SENT = f"""
insert into activation.ledger ({_COLUMNS})
select {_FROM_PLAN}, not_sent.state, not_sent.reason_code, clock_timestamp()
from unnest(%(keys)s::text[], %(states)s::text[], %(codes)s::text[])
    as not_sent (plan_row_id, state, reason_code)
inner join activation.plan_rows on not_sent.plan_row_id = plan_rows.plan_row_id
"""


@dataclass(frozen=True)
class NotSent:
    """A planned row that may not (suppressed) or need not (skipped) be sent after all."""

    plan_row_id: str
    state: Literal["suppressed", "skipped"]
    reason_code: str


def abandon_open_attempts(connection: psycopg.Connection, destination: str) -> int:
    """Call attempts that a killed process left open unknown. Only under the destination's lock."""
    return connection.execute(_ABANDON, (destination,)).rowcount


def intend(connection: psycopg.Connection, run_id: str, plan_row_ids: Sequence[str]) -> None:
    """Open an attempt for each plan row and put what it writes in doubt. Commit before sending."""
    values = {"run_id": run_id, "plan_row_ids": list(plan_row_ids)}
    connection.execute(_INTEND, values)
    connection.execute(_DOUBT, values)


def settle(connection: psycopg.Connection, run_id: str, outcomes: Sequence[Outcome]) -> None:
    """Close the open attempts of the outcomes' plan rows and carry them to the delivered state."""
    if not outcomes:
        return
    created = [o for o in outcomes if o.created and o.state == "confirmed"]
    values = {
        "run_id": run_id,
        "keys": [o.key for o in outcomes],
        "states": [o.state for o in outcomes],
        "codes": [o.reason_code for o in outcomes],
        "reasons": [o.reason for o in outcomes],
        "ids": [o.vendor_id for o in outcomes],
        "confirmed": [o.key for o in outcomes if o.state == "confirmed"],
        "rejected": [o.key for o in outcomes if o.state == "rejected"],
        "created": [o.key for o in created],
        "created_ids": [o.vendor_id for o in created],
    }
    connection.execute(_SETTLE, values)
    if values["confirmed"]:
        connection.execute(_CONFIRM, values)
    if values["rejected"]:
        connection.execute(_REJECT, values)
    if created:
        connection.execute(_REMEMBER_CREATED, values)


def mark_unknown(
    connection: psycopg.Connection, plan_row_ids: Sequence[str], reason_code: str
) -> None:
    """Close open attempts whose request has no usable answer. They stay in doubt."""
    connection.execute(
        "update activation.ledger set state = 'unknown', reason_code = %s,"
        " settled_at = clock_timestamp()"
        " where plan_row_id = any(%s) and state in ('intended', 'sent')",
        (reason_code, list(plan_row_ids)),
    )


def record_not_sent(connection: psycopg.Connection, run_id: str, rows: Sequence[NotSent]) -> None:
    """Write why planned rows were not sent."""
    if rows:
        connection.execute(
            _NOT_SENT,
            {
                "run_id": run_id,
                "keys": [row.plan_row_id for row in rows],
                "states": [row.state for row in rows],
                "codes": [row.reason_code for row in rows],
            },
        )
