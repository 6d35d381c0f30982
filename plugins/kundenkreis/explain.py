"""Why a customer is in this stage and these segments, event by event: for `kundenkreis explain`.

Everything is read from what is published and from the ledger. Personal columns show as the login
may see them, as in the views of ``marts``. An address that somebody asks for never leaves this
process: the warehouse is asked for its digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from kundenkreis.destinations.base import normalise_address
from kundenkreis.errors import KundenkreisError
from kundenkreis.settings import Settings
from kundenkreis.warehouse import privacy
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.publish import Publication, current_publication, intermediate_schema

Rows = list[dict[str, Any]]
_ATTEMPTS_SHOWN = 30
_LEFT_SHOWN = 20

_BY_ID = "select customer_id from marts.customers where customer_id = %s"
_BY_MERGED_ID = """
select customer_id
from history.identity_changes
where other_customer_id = %s and change = 'merged'
order by as_of_date desc
limit 1
"""
_BY_SOURCE_ID = """
select distinct customer_id
from marts.customer_source_ids
where source_id = %s or source || ' ' || source_id = %s
"""
_BY_ADDRESS = """
select distinct customer_id from marts.contactability where md5(address) = %s
union
select customer_id from marts.customers where md5(email) = %s
"""

_CUSTOMER = """
select customers.customer_id, customers.email, customers.first_name, customers.last_name,
    customers.first_seen_on, customers.acquisition_source, customers.preferred_language,
    customers.has_profiling_objection, customers.is_minor,
    customer_360.stage, customer_360.stage_since, customer_360.next_stage,
    customer_360.next_stage_date, customer_360.orders_count, customer_360.rfm_segment
from marts.customers
left join marts.customer_360 on customer_360.customer_id = customers.customer_id
where customers.customer_id = %(customer_id)s
"""

_RECORDS = """
select source, source_record_type, source_id
from marts.customer_source_ids
where customer_id = %(customer_id)s
order by 1, 2, 3
"""

# With the order that began the stay, the last one before it, and a checkout that was not finished.
_STAYS = """
select
    lifecycle_intervals.stage,
    lifecycle_intervals.valid_from,
    lifecycle_intervals.valid_to,
    lifecycle_intervals.entered_because,
    that_day.orders as orders_that_day,
    that_day.unfinished as unfinished_that_day,
    before.order_date as last_order_before
from marts.lifecycle_intervals
left join lateral (
    select
        string_agg(
            orders.source || ' ' || orders.order_id, ', '
            order by orders.ordered_at, orders.order_id
        ) filter (where orders.is_counted) as orders,
        string_agg(
            orders.source || ' ' || orders.order_id || ' (' || orders.not_counted_because || ')',
            ', ' order by orders.ordered_at, orders.order_id
        ) filter (where not orders.is_counted) as unfinished
    from marts.orders
    where
        orders.customer_id = lifecycle_intervals.customer_id
        and orders.order_date = lifecycle_intervals.valid_from
) as that_day on true
left join lateral (
    select max(orders.order_date) as order_date
    from marts.orders
    where
        orders.customer_id = lifecycle_intervals.customer_id
        and orders.is_counted
        and orders.order_date < lifecycle_intervals.valid_from
) as before on true
where lifecycle_intervals.customer_id = %(customer_id)s
order by lifecycle_intervals.valid_from
"""

_SEGMENTS = """
select segment, member_since, is_holdout, is_contactable, not_contactable_because
from marts.segment_members
where customer_id = %(customer_id)s
order by segment
"""

_GIVEN_WAY = """
select segment, reason, given_way_to
from activation.contact_pressure
where customer_id = %(customer_id)s and not is_kept
"""

_LEFT = """
select segment, as_of_date as left_on
from history.segment_membership_changes as changes
where
    customer_id = %(customer_id)s
    and change = 'left'
    and not exists (
        select 1
        from history.segment_membership_changes as later
        where
            later.customer_id = changes.customer_id
            and later.segment = changes.segment
            and later.as_of_date > changes.as_of_date
    )
order by as_of_date desc, segment
limit %(rows)s
"""

_VERDICTS = """
select channel, address, is_contactable, reason, evidence, evidence_at, is_preferred
from marts.contactability
where customer_id = %(customer_id)s
order by channel, is_preferred desc, address
"""

_FACTS = """
select consent.channel, {address} as address, consent.evidence, consent.source,
    consent.occurred_at, consent.wording
from {facts} as consent
where
    consent.address in (
        select address from {verdicts} where customer_id = %(customer_id)s
    )
order by consent.occurred_at desc nulls last, consent.source
"""

_DELIVERED = """
select
    destination,
    audience,
    {address} as address,
    is_member,
    in_doubt,
    confirmed_at,
    confirmed_publication_id,
    (
        select coalesce(jsonb_agg(name order by name), '[]')
        from jsonb_object_keys(attributes) as names (name)
    ) as attributes
from activation.effective_state
where customer_id = %(customer_id)s
order by destination, audience, address
"""

_ATTEMPTS = """
select destination, audience, operation, state, reason_code, reason, publication_id, at
from (
    select destination, audience, operation, state, reason_code, reason, publication_id,
        coalesce(settled_at, intended_at) as at, attempt_id
    from activation.ledger
    where customer_id = %(customer_id)s
    union all
    select destination, audience, operation, state, null, null, publication_id,
        coalesce(sent_at, intended_at), null
    from activation.rows_under_way
    where customer_id = %(customer_id)s
) as attempts
order by attempt_id desc nulls first
limit %(rows)s
"""

_REJECTIONS = """
select destination, audience, operation, reason_code, attempts, attempts_allowed, is_parked,
    retry_from_publication_id, last_rejected_at
from activation.delivery_errors
where customer_id = %(customer_id)s
order by destination, audience
"""

_PLANNED = """
select destination, audience, segment, operation, status, status_reason as reason,
    cast(changed_fields as jsonb) as changed_fields
from activation.plan_rows
where publication_id = %(publication_id)s and customer_id = %(customer_id)s
order by destination, audience nulls first, operation
"""


@dataclass(frozen=True)
class _Asked:
    """What every part of the answer needs."""

    connection: psycopg.Connection
    settings: Settings
    published: Publication
    customer_id: str

    @property
    def values(self) -> dict[str, Any]:
        return {
            "customer_id": self.customer_id,
            "publication_id": self.published.publication_id,
            "rows": _ATTEMPTS_SHOWN,
        }

    def rows(self, query: str | sql.Composed, **more: Any) -> Rows:
        text = query.encode() if isinstance(query, str) else query
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(text, {**self.values, **more}).fetchall()


def explain(dsn: str, settings: Settings, who: str) -> dict[str, Any]:
    """Everything that is known about why a customer is where it is.

    Args:
        who: a customer id, a source's id of a record (``woocommerce 17`` or ``17``), or an address.

    Returns ``{"customer_id", "merged_from" (None, or the id that was asked for), "publication_id",
    "as_of_date", "personal_data": "shown" or "masked", "customer", "records", "stages", "segments",
    "left_segments", "consent", "delivered", "attempts", "rejections", "plan"}``. A part that the
    login may not read is None.

    Raises:
        KundenkreisError: nobody, or several customers, are known by that; never repeats an address.
    """
    with connect(dsn, application_name="kundenkreis explain") as connection:
        published = current_publication(connection)
        if published is None:
            raise KundenkreisError("Nothing was published yet. `kundenkreis run` runs a night.")
        shown = _may_see(connection, published.schema_name)
        customer_id, merged_from = _find(connection, who.strip(), shown)
        asked = _Asked(connection, settings, published, customer_id)
        consent = _part(asked, _consent)
        found = {
            "customer_id": customer_id,
            "merged_from": merged_from,
            "publication_id": published.publication_id,
            "as_of_date": published.as_of_date,
            "personal_data": "shown" if shown else "masked",
            "customer": _part(asked, lambda part: part.rows(_CUSTOMER)[0]),
            "records": _part(asked, lambda part: part.rows(_RECORDS)),
            "stages": _part(asked, lambda part: _stages(part, consent or [])),
            "segments": _part(asked, _segments),
            "left_segments": _part(asked, lambda part: part.rows(_LEFT, rows=_LEFT_SHOWN)),
            "consent": consent,
            "delivered": _part(asked, _delivered),
            "attempts": _part(asked, lambda part: part.rows(_ATTEMPTS)),
            "rejections": _part(asked, lambda part: part.rows(_REJECTIONS)),
            "plan": _part(asked, lambda part: part.rows(_PLANNED)),
        }
        connection.rollback()
        return found


def _part(asked: _Asked, read: Callable[[_Asked], Any]) -> Any:
    """A part of the answer; None where the login may not read it or it was never made."""
    try:
        with asked.connection.transaction():
            return read(asked)
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.UndefinedTable,
        psycopg.errors.InvalidSchemaName,
    ):
        return None


def _may_see(connection: psycopg.Connection, schema: str) -> bool:
    query = privacy.mask_unless_allowed(sql.SQL("'shown'::text"), schema)
    row = connection.execute(sql.SQL("select {}").format(query)).fetchone()
    return row == ("shown",)


def _find(connection: psycopg.Connection, who: str, shown: bool) -> tuple[str, str | None]:
    """The customer's id and, where another one is part of it now, the one that was asked for."""
    if "@" in who:
        return _one_of(_by_address(connection, who, shown), "that address"), None
    if connection.execute(_BY_ID, (who,)).fetchone():
        return who, None
    merged = _merged_into(connection, who)
    if merged:
        return merged, who
    ids = [row[0] for row in connection.execute(_BY_SOURCE_ID, (who, who))]
    return _one_of(ids, f"'{who}'"), None


def _by_address(connection: psycopg.Connection, address: str, shown: bool) -> list[str]:
    if not shown:
        raise KundenkreisError(
            "This login sees addresses masked, so it cannot look one up. Give the customer id, or "
            "use a login that is a member of kundenkreis_pii."
        )
    # A statement may be logged by the server, with its values.
    digest = hashlib.md5(normalise_address(address).encode(), usedforsecurity=False).hexdigest()
    return [row[0] for row in connection.execute(_BY_ADDRESS, (digest, digest))]


def _merged_into(connection: psycopg.Connection, customer_id: str) -> str | None:
    """Follow merges to a customer who exists."""
    seen = {customer_id}
    current = customer_id
    while row := connection.execute(_BY_MERGED_ID, (current,)).fetchone():
        current = row[0]
        if connection.execute(_BY_ID, (current,)).fetchone():
            return str(current)
        if current in seen:
            return None
        seen.add(current)
    return None


def _one_of(customer_ids: Sequence[str], who: str) -> str:
    if not customer_ids:
        raise KundenkreisError(
            f"Nobody is known by {who} in what is published. Give a customer id, a source's id of "
            "a record, or an address."
        )
    if len(customer_ids) > 1:
        raise KundenkreisError(
            f"{len(customer_ids)} customers are known by {who}: "
            f"{', '.join(sorted(customer_ids)[:10])}. Give one of these ids, or the source with "
            "the id ('woocommerce 17')."
        )
    return customer_ids[0]


# Stages


def _stages(asked: _Asked, consent: Rows) -> Rows:
    """Every stay with the event behind it, in words."""
    facts = [fact for verdict in consent for fact in verdict["facts"]]
    return [
        {
            "stage": stay["stage"],
            "valid_from": stay["valid_from"],
            "valid_to": stay["valid_to"],
            "entered_because": stay["entered_because"],
            "event": _event(asked, stay, facts),
        }
        for stay in asked.rows(_STAYS)
    ]


def _event(asked: _Asked, stay: Mapping[str, Any], facts: Rows) -> str:
    because, day = stay["entered_because"], stay["valid_from"]
    last = stay["last_order_before"]
    if because in ("first_order", "order", "order_after_churn") and stay["orders_that_day"]:
        after = f", {(day - last).days} days after the order before" if last else ""
        return f"order {stay['orders_that_day']}{after}"
    if because == "no_order_since" and last:
        return f"no order since {last}, for {(day - last).days} days"
    if because == "entry_stage_ended" and last:
        return f"{(day - last).days} days after the order of {last}"
    if because == "checkout_begun" and stay["unfinished_that_day"]:
        return f"checkout not finished: {stay['unfinished_that_day']}"
    if because == "opt_in":
        local_date = asked.settings.local_date
        told = [
            f"{fact['evidence']} opt-in told by {fact['source']}"
            for fact in facts
            if fact["occurred_at"] is not None
            and fact["evidence"] in ("pending", "single", "double")
            and local_date(fact["occurred_at"]) == day
        ]
        return ", ".join(dict.fromkeys(told)) or "opt-in"
    known = {
        "first_known": "first record, without a sign of interest",
        "account_created": "an account was created",
        "lead_status": "the CRM's lead status changed",
        "open_deal": "a deal was opened in the CRM",
        "no_sign_of_interest": "no sign of interest for too long",
    }
    return known.get(because) or str(because).replace("_", " ")


# Segments


def _segments(asked: _Asked) -> Rows:
    """Each membership with its definition, and why it is, or is not, sent."""
    given_way = {row["segment"]: row for row in _part(asked, _given_way) or []}
    return [_membership(asked, row, given_way.get(row["segment"])) for row in asked.rows(_SEGMENTS)]


def _given_way(asked: _Asked) -> Rows:
    """The segments that contact pressure keeps the customer out of, by the newest plan."""
    return asked.rows(_GIVEN_WAY)


def _membership(
    asked: _Asked, row: dict[str, Any], given_way: Mapping[str, Any] | None
) -> dict[str, Any]:
    segment = asked.settings.segments.get(row["segment"])
    found = {
        **row,
        "label": asked.settings.audience_name(segment) if segment else None,
        "destinations": list(segment.destinations) if segment else [],
        "where": segment.where if segment else None,
        "where_holds": _holds(asked, segment.where) if segment else None,
        "kept_until": None,
        "given_way_because": given_way["reason"] if given_way else None,
        "given_way_to": given_way["given_way_to"] if given_way else None,
    }
    if segment and segment.min_stay_days and found["where_holds"] is False:
        found["kept_until"] = row["member_since"] + timedelta(days=segment.min_stay_days)
    found["why"] = _why(found)
    return found


def _holds(asked: _Asked, where: str) -> bool | None:
    """Whether the segment's condition, as the file says it now, holds for the customer."""
    query = sql.SQL("select ({}) from marts.customer_360 where customer_id = {}").format(
        sql.SQL(where),  # a person's SQL, from the config
        sql.Literal(asked.customer_id),
    )
    try:
        with asked.connection.transaction():
            row = asked.connection.execute(query).fetchone()
    except psycopg.Error:
        return None  # an edited file; `segments preview` says what is wrong with it
    return bool(row[0]) if row else None


def _why(membership: Mapping[str, Any]) -> str:
    if membership["where"] is None:
        entered = "the segment is no longer in segments.yml"
    elif membership["kept_until"]:
        entered = f"stays until {membership['kept_until']} (min_stay_days), `where` holds no more"
    elif membership["where_holds"] is False:
        entered = "`where` held when it was built; segments.yml has changed since"
    else:
        entered = "`where` holds"
    if not membership["is_contactable"]:
        return f"{entered}; not sent: {membership['not_contactable_because'] or 'not contactable'}"
    if membership["is_holdout"]:
        return f"{entered}; not sent: drawn as holdout, for comparison"
    if membership["given_way_because"]:
        because, to = membership["given_way_because"], membership["given_way_to"]
        return f"{entered}; not sent: {because}, given way to {to}"
    return f"{entered}; sent" if membership["destinations"] else f"{entered}; has no destination"


# Consent and deliveries


def _consent(asked: _Asked) -> Rows:
    """Each channel and address with the verdict, and the facts that speak for and against it."""
    verdicts = asked.rows(_VERDICTS)
    facts = _part(asked, _facts) or []
    for verdict in verdicts:
        verdict["facts"] = [
            {name: fact[name] for name in ("evidence", "source", "occurred_at", "wording")}
            for fact in facts
            if (fact["channel"], fact["address"]) == (verdict["channel"], verdict["address"])
        ]
    return verdicts


def _facts(asked: _Asked) -> Rows:
    schema = asked.published.schema_name
    query = sql.SQL(_FACTS).format(
        address=privacy.mask_unless_allowed(sql.Identifier("consent", "address"), schema),
        facts=sql.Identifier(intermediate_schema(schema), "int_consent_events"),
        verdicts=sql.Identifier(schema, "contactability"),
    )
    return asked.rows(query)


def _delivered(asked: _Asked) -> Rows:
    address = privacy.mask_unless_allowed(sql.Identifier("address"), asked.published.schema_name)
    return asked.rows(sql.SQL(_DELIVERED).format(address=address))
