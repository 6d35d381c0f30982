"""Removes what is older than ``retention.yml`` allows (design: Activation, last paragraph).

What the models need to compute the marts as they are is not touched: raw tables hold the newest
version of each record only, and a shop's oldest order still says when its customer was new. What
goes is what no model reads, what was sent long ago, and people who are nothing but a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import Any

import psycopg
from psycopg import sql

from kundenkreis.activation import ledger
from kundenkreis.activation.ledger import Answer
from kundenkreis.destinations.base import normalise_address
from kundenkreis.errors import CredentialError
from kundenkreis.privacy.erasure import Errand, begin, resume
from kundenkreis.privacy.person import exists, label_of, raw_tables
from kundenkreis.privacy.places import LEDGER_WITHOUT_PERSON, Step
from kundenkreis.privacy.raw_rows import AddressRows, OrderRows, RecordRows
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.publish import intermediate_schema, live_schema

# Erased together, in one go; what is left over is the next night's.
_MOST_LEADS = 5_000

# The changes of contacts that the models read.
_READ_PROPERTIES = (
    "hs_email_optout",
    "hs_emailconfirmationstatus",
    "hs_lead_status",
    "lifecyclestage",
)
_POSITIVE = ("pending", "single", "double", "existing_customer")

# Never bought, showed no interest for long, may not be written to, is in no audience of ours (the
# plan takes them out first), and has no consent or withdrawal that is to be provable still.
_LEADS = """
select wide.customer_id
from {marts}.customer_360 as wide
where
    wide.orders_count = 0
    and not wide.is_contactable
    and wide.first_seen_on < %(signs_before)s
    and coalesce(wide.last_sign_of_interest_on, wide.first_seen_on) < %(signs_before)s
    and not exists (
        select 1
        from {intermediate}.int_customer_addresses as own
        inner join {intermediate}.int_consent_events as events on own.address = events.address
        where
            own.customer_id = wide.customer_id
            and coalesce(events.occurred_at, 'infinity') >= %(proofs_before)s
    )
    and not exists (
        select 1
        from {intermediate}.int_customer_addresses as own
        inner join activation.effective_state as delivered on own.address = delivered.address
        where
            own.customer_id = wide.customer_id and (delivered.is_member or delivered.in_doubt)
    )
order by wide.customer_id
limit %(most)s
"""

# Where a withdrawal is the newest thing that is known of an address and channel: since when.
_ENDED = """
create temporary table ended_consents on commit drop as
select address, channel, ended_at
from (
    select
        address,
        channel,
        max(occurred_at) filter (where evidence in ('withdrawn', 'complained')) as ended_at,
        max(occurred_at) filter (where evidence in ('single', 'double', 'existing_customer'))
            as given_at
    from {intermediate}.int_consent_events
    group by address, channel
) as facts
where ended_at < %(proofs_before)s and (given_at is null or given_at <= ended_at)
"""


def apply_retention(
    errand: Errand,
    as_of_date: date,
    *,
    by: str = "retention",
    dry_run: bool = False,
    leads_may_wait: bool = False,
) -> dict[str, int]:
    """Remove what is due as of a day.

    Args:
        as_of_date: ages are reckoned to the end of this day.
        by: who starts it.
        dry_run: count only.
        leads_may_wait: leads that are due stay where there is no key to keep them out with.

    Returns:
        Rows per kind that were removed or emptied, or are due; ``leads`` are persons, and so are
        ``leads_without_key``, which wait.

    Raises:
        CredentialError: leads are due, and the key of erasures is missing or another one.
        BuildBusy, WarehouseError: a lock was not to be had.
    """
    end = datetime.combine(as_of_date + timedelta(days=1), time(), errand.settings.model.zone)
    counts: dict[str, int] = {}
    with connect(errand.dsn, application_name="kundenkreis retention") as connection:
        counts["batches"] = _end_forgotten_batches(connection, errand, end)
        for name, step in _steps(connection, errand, end):
            rows = step.count(connection) if dry_run else step.run(connection)
            counts[name] = counts.get(name, 0) + rows
        if dry_run:
            # What has become of batches is counted with the rest, and is not to stay.
            connection.rollback()
    with connect(errand.dsn, application_name="kundenkreis retention") as connection:
        leads = _due_leads(connection, errand, end)
    if not leads or dry_run:
        return {**counts, "leads": len(leads)}
    try:
        effective = end - timedelta(microseconds=1)
        erasure_id = begin(errand, leads, by, kind="retention", effective_at=effective)
    except CredentialError as error:
        if not leads_may_wait:
            raise
        errand.progress(f"{len(leads):,} leads are due, and stay: {error}")
        return {**counts, "leads_without_key": len(leads)}
    resume(errand, erasure_id)
    return {**counts, "leads": len(leads)}


# --------------------------------------------------------------------------- rows


def _steps(
    connection: psycopg.Connection, errand: Errand, end: datetime
) -> Iterator[tuple[str, Step]]:
    days = errand.settings.retention
    yield from _raw(connection, end - timedelta(days=days.raw_payload_days))
    yield from _quarantine(end, days.raw_payload_days, days.quarantine_days)
    yield from _consents(connection, end - timedelta(days=days.consent_proof_days))
    yield from _activation(connection, errand, end)
    for table in ("gate_results", "measurements"):
        yield (
            "quality_rows",
            _older("quality", table, "recorded_at", end - timedelta(days=days.quality_days)),
        )


def _raw(connection: psycopg.Connection, before: datetime) -> Iterator[tuple[str, Step]]:
    """Telephone numbers as received (the models read them in E.164), changes of properties that no
    model reads, and what dlt keeps of earlier loads."""
    for source, table, declared in raw_tables(connection):
        number = getattr(declared, "number", None)
        if number is not None:
            loaded = _loaded_before(connection, f"raw_{source}", table)
            column = sql.Identifier(number)
            yield (
                "raw_telephone_numbers",
                Step(
                    f"raw_{source}",
                    table,
                    sql.SQL("{} is not null and {}").format(column, loaded),
                    {"before": before},
                    sql.SQL("{} = null").format(column),
                ),
            )
    if exists(connection, "raw_hubspot", "contacts__property_history"):
        yield (
            "raw_changes_nobody_reads",
            Step(
                "raw_hubspot",
                "contacts__property_history",
                sql.SQL("not (property = any(%(read)s)) and changed_at < %(before)s"),
                {"read": list(_READ_PROPERTIES), "before": before},
            ),
        )
    schemas = connection.execute(
        "select nspname from pg_namespace where nspname like 'raw\\_%' "
        "and nspname not like '%\\_staging' order by 1"
    ).fetchall()
    for (schema,) in schemas:
        if exists(connection, schema, "_dlt_pipeline_state"):
            yield "raw_load_states", _old_load_states(schema, before)


def _old_load_states(schema: str, before: datetime) -> Step:
    """dlt adds a row of state with each load that changes it, and reads the newest."""
    return Step(
        schema,
        "_dlt_pipeline_state",
        sql.SQL(
            "t.created_at < %(before)s and exists ("
            "select 1 from {0} as newer "
            "inner join {1} as loads on loads.load_id = newer._dlt_load_id and loads.status = 0 "
            "where newer.pipeline_name = t.pipeline_name and newer._dlt_load_id > t._dlt_load_id)"
        ).format(
            sql.Identifier(schema, "_dlt_pipeline_state"), sql.Identifier(schema, "_dlt_loads")
        ),
        {"before": before},
    )


def _loaded_before(connection: psycopg.Connection, schema: str, table: str) -> sql.Composable:
    if schema == "raw_files":
        return sql.SQL("loaded_at < %(before)s")
    if not exists(connection, schema, "_dlt_loads"):
        return sql.SQL("false")
    return sql.SQL(
        "_dlt_load_id in (select load_id from {} where inserted_at < %(before)s)"
    ).format(sql.Identifier(schema, "_dlt_loads"))


def _quarantine(end: datetime, payload_days: int, row_days: int) -> Iterator[tuple[str, Step]]:
    """A release that was loaded is applied again whenever its file is read, so it stays whole."""
    in_force = sql.SQL(
        "exists (select 1 from quarantine.latest_releases as releases "
        "where releases.record_hash = t.record_hash and releases.outcome in ('waiting', 'loaded'))"
    )
    yield (
        "quarantine_payloads",
        Step(
            "quarantine",
            "rejected_records",
            sql.SQL(
                "t.payload is not null and t.state = 'closed' and t.closed_at < %(before)s "
                "and not {}"
            ).format(in_force),
            {"before": end - timedelta(days=payload_days)},
            sql.SQL("payload = null"),
        ),
    )
    old = {"before": end - timedelta(days=row_days)}
    yield (
        "quarantine_releases",
        Step(
            "quarantine",
            "releases",
            sql.SQL(
                "exists (select 1 from quarantine.rejected_records as records "
                "where records.record_hash = t.record_hash "
                "and records.last_rejected_at < %(before)s) and not {}"
            ).format(in_force),
            old,
        ),
    )
    yield (
        "quarantine_rows",
        Step(
            "quarantine",
            "rejected_records",
            sql.SQL("t.last_rejected_at < %(before)s and not {}").format(in_force),
            old,
        ),
    )


def _consents(connection: psycopg.Connection, before: datetime) -> Iterator[tuple[str, Step]]:
    """What proves a consent that ended long ago. The withdrawal stays: it keeps the person out."""
    live = live_schema(connection)
    schema = intermediate_schema(live) if live else ""
    if not live or not exists(connection, schema, "int_consent_events"):
        return
    connection.execute(
        sql.SQL(_ENDED).format(intermediate=sql.Identifier(schema)), {"proofs_before": before}
    )
    known = "select 1 from ended_consents as ended where ended.address = {address} and {since}"
    if exists(connection, "raw_files", "consent_events"):
        ended = known.format(
            address="lower(btrim(t.email))",
            since="ended.channel = coalesce(lower(btrim(t.channel)), 'email') "
            "and t.occurred_at <= ended.ended_at",
        )
        yield (
            "consent_proofs",
            Step(
                "raw_files",
                "consent_events",
                sql.SQL("lower(btrim(t.evidence)) = any(%(positive)s) and exists ({})").format(
                    sql.SQL(ended)
                ),
                {"positive": list(_POSITIVE)},
            ),
        )
    if exists(connection, "raw_hubspot", "contacts__property_history"):
        ended = known.format(
            address="lower(btrim(contacts.email))",
            since="ended.channel = 'email' and t.changed_at <= ended.ended_at",
        )
        yield (
            "consent_proofs",
            Step(
                "raw_hubspot",
                "contacts__property_history",
                sql.SQL(
                    "t.property = 'hs_emailconfirmationstatus' and exists ("
                    "select 1 from raw_hubspot.contacts as contacts "
                    "where contacts._dlt_id = t._dlt_parent_id and exists ({}))"
                ).format(sql.SQL(ended)),
                {},
            ),
        )


def _activation(
    connection: psycopg.Connection, errand: Errand, end: datetime
) -> Iterator[tuple[str, Step]]:
    days = errand.settings.retention
    plans, persons = end - timedelta(days=days.plan_days), end - timedelta(days=days.ledger_days)
    newest = "(select coalesce(max(publication_id), 0) from history.publications)"
    if exists(connection, "activation", "plan_rows"):
        yield (
            "plan_rows",
            Step(
                "activation",
                "plan_rows",
                sql.SQL("t.planned_at < %(before)s and t.publication_id <> " + newest),
                {"before": plans.replace(tzinfo=None)},
            ),
        )
    yield (
        "ledger_attributes",
        Step(
            "activation",
            "ledger",
            sql.SQL(
                "t.intended_at < %(before)s and t.attributes <> '{}' "
                "and t.publication_id <> " + newest
            ),
            {"before": plans},
            sql.SQL("attributes = '{}'"),
        ),
    )
    yield (
        "ledger_persons",
        Step(
            "activation",
            "ledger",
            sql.SQL(
                "t.intended_at < %(before)s and t.address <> '' and t.publication_id <> " + newest
            ),
            {"before": persons},
            LEDGER_WITHOUT_PERSON,
        ),
    )
    yield (
        "drift_rows",
        _older("activation", "drift", "observed_at", end - timedelta(days=days.drift_days)),
    )


def _end_forgotten_batches(connection: psycopg.Connection, errand: Errand, end: datetime) -> int:
    """Batches under way as old as plans that go, of a tool that was disconnected for instance.

    Their rows become attempts and stay in doubt. Returns the number of batches.
    """
    before = end - timedelta(days=errand.settings.retention.plan_days)
    found = connection.execute(
        "select batch_id from activation.batches_under_way where intended_at < %s order by 1",
        (before,),
    ).fetchall()
    if found:
        ledger.settle(connection, [Answer(batch_id, (), "interrupted") for (batch_id,) in found])
    return len(found)


def _older(schema: str, table: str, column: str, before: datetime) -> Step:
    return Step(
        schema,
        table,
        sql.SQL("t.{} < %(before)s").format(sql.Identifier(column)),
        {"before": before},
    )


# --------------------------------------------------------------------------- leads


def _due_leads(connection: psycopg.Connection, errand: Errand, end: datetime) -> list[str]:
    live = live_schema(connection)
    schema = intermediate_schema(live) if live else ""
    if (
        live is None
        or not exists(connection, live, "customer_360")
        or not exists(connection, schema, "int_consent_events")
    ):
        return []
    days = errand.settings.retention
    rows = connection.execute(
        sql.SQL(_LEADS).format(marts=sql.Identifier(live), intermediate=sql.Identifier(schema)),
        {
            "signs_before": (end - timedelta(days=days.lead_days)).date(),
            "proofs_before": end - timedelta(days=days.consent_proof_days),
            "most": _MOST_LEADS,
        },
    ).fetchall()
    due = [row[0] for row in rows]
    awake = _awake(connection, schema, due, _published_end(connection, errand))
    return [customer for customer in due if customer not in awake]


def _published_end(connection: psycopg.Connection, errand: Errand) -> datetime:
    row = connection.execute(
        "select as_of_date from history.publications order by publication_id desc limit 1"
    ).fetchone()
    day = row[0] if row else date.min
    return datetime.combine(day + timedelta(days=1), time(), errand.settings.model.zone)


def _awake(
    connection: psycopg.Connection, schema: str, customers: list[str], since: datetime
) -> set[str]:
    """Leads of whom something has landed that the marts do not know yet: an order of today."""
    addresses: set[str] = set()
    records: set[tuple[str, str]] = set()
    for source, table, declared in raw_tables(connection):
        if not isinstance(declared, OrderRows | RecordRows | AddressRows):
            continue
        dated = declared.created if isinstance(declared, RecordRows) else declared.dated
        owner = declared.owner if isinstance(declared, OrderRows) else None
        rows: Iterator[Any] = iter(
            connection.execute(
                sql.SQL("select {}, {}, {} from {} where {} >= %s").format(
                    sql.Identifier(declared.address),
                    label_of(declared, source),
                    sql.SQL("cast({} as text)").format(sql.Identifier(owner))
                    if owner
                    else sql.SQL("null"),
                    sql.Identifier(f"raw_{source}", table),
                    sql.Identifier(dated),
                ),
                (since,),
            )
        )
        for address, label, key in rows:
            if address:
                addresses.add(normalise_address(address))
            if key is not None:
                records.add((label, key))
    found = connection.execute(
        sql.SQL(
            "select customer_id, address, source, source_id from {} where customer_id = any(%s)"
        ).format(sql.Identifier(schema, "int_customer_identities")),
        (customers,),
    )
    return {
        customer
        for customer, address, source, source_id in found
        if address in addresses or (source, source_id) in records
    }
