"""Gate ``marts``: customers, their records and their consent (design: Identity, Consent)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites.common import literals
from kundenkreis.quality.suites.rules import (
    REBUILD,
    as_of_end,
    key,
    no_orphans,
    rule,
)
from kundenkreis.settings import Settings

# Evidence that suffices, weakest allowed first (design section 4, Consent).
_SUFFICIENT_EVIDENCE = {
    "double": ("double",),
    "single": ("double", "single"),
    "existing_customer": ("double", "single", "existing_customer"),
}


def customers(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Customers: each known once, from a record, by the as-of date."""
    schema = facts.schema
    yield key("customers", facts)
    yield rule(
        "customers",
        "first_seen_by_as_of",
        "No customer is first seen after the as-of date.",
        f"select customer_id from {schema}.customers "
        f"where first_seen_on is null or first_seen_on > date '{facts.as_of_date}'",
        limit=f"first_seen_on not empty and not after {facts.as_of_date}",
    )
    if facts.exists(schema, "customer_source_ids"):
        yield rule(
            "customers",
            "has_source_record",
            "Every customer stands on at least one source record.",
            f"""
                select customer_id from {schema}.customers as customer
                where not exists (
                    select 1 from {schema}.customer_source_ids as record
                    where record.customer_id = customer.customer_id
                )
            """,
            proven="customers of records" in facts.agreed,
        )


def customer_source_ids(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Records: each belongs to one customer, and none got lost."""
    yield key("customer_source_ids", facts)
    yield from no_orphans(
        "customer_source_ids",
        facts,
        "source, source_record_type, source_id",
        proven="customers of records" in facts.agreed,
    )
    if facts.exists("history", "customer_ids"):
        # Each customer by itself, but only of the few who have a record that had another id.
        yield rule(
            "customer_source_ids",
            "ids_kept",
            "A customer whose records were known before has an id that one of them had.",
            f"""
                with moved as materialized (
                    select distinct record.customer_id
                    from {_known_records(facts, "record", "assigned")}
                    where assigned.customer_id <> record.customer_id
                )
                select moved.customer_id from moved
                where not (
                    select bool_or(known.customer_id = kept.customer_id)
                    from {_known_records(facts, "kept", "known")}
                    where kept.customer_id = moved.customer_id
                )
            """,
            limit="nobody renumbered",
            action="Audiences, holdouts and history hang on these ids. Look at the model "
            "int_customer_identities with these customers, and at history.customer_ids. " + REBUILD,
        )
    people = _raw_people(settings, facts)
    if people:
        missing = f"""
            select person.source, person.source_record_type, person.source_id
            from ({people}) as person
            where not exists (
                select 1 from {facts.schema}.customer_source_ids as record
                where record.source = person.source
                    and record.source_record_type = person.source_record_type
                    and record.source_id = person.source_id
            )
        """
        yield rule(
            "customer_source_ids",
            "reconciles_with_raw",
            "Every person the sources hold on the as-of date is part of a customer.",
            missing,
            limit="no raw person without a customer",
            measure=f"""
                select string_agg(source || ' ' || missing, ', ') || ' missing'
                from (select source, count(*) as missing from ({missing}) as t group by 1) as c
            """,
        )


def _known_records(facts: MartsFacts, record: str, assigned: str) -> str:
    return f"""
        {facts.schema}.customer_source_ids as {record}
        inner join history.customer_ids as {assigned}
            on {assigned}.source = {record}.source
            and {assigned}.source_record_type = {record}.source_record_type
            and {assigned}.source_id = {record}.source_id
            and {assigned}.assigned_on <= date '{facts.as_of_date}'
    """


def _raw_people(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the person records of the raw tables, as the models name them."""
    end = as_of_end(settings, facts)
    queries = []
    if facts.exists("raw_woocommerce", "customers", "id", "date_created_gmt"):
        queries.append(
            "select 'woocommerce' as source, 'customer' as source_record_type, "
            "id::text as source_id from raw_woocommerce.customers "
            f"where date_created_gmt < {end} or date_created_gmt is null"
        )
    if facts.exists("raw_hubspot", "contacts", "id", "createdate", "archived"):
        queries.append(
            "select 'hubspot' as source, 'contact' as source_record_type, "
            "id::text as source_id from raw_hubspot.contacts "
            f"where (createdate < {end} or createdate is null) and archived is not true"
        )
    if facts.exists("raw_files", "customers", "customer_key", "created_at"):
        queries.append(
            "select source_name as source, 'customer' as source_record_type, "
            "customer_key::text as source_id from raw_files.customers "
            f"where created_at < {end} or created_at is null"
        )
    return " union all ".join(queries)


def contactability(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Consent: nobody is contactable without evidence, or against a withdrawal."""
    schema = facts.schema
    yield key("contactability", facts)
    yield from no_orphans("contactability", facts)
    sufficient = _SUFFICIENT_EVIDENCE[settings.model.minimum_consent]
    yield rule(
        "contactability",
        "evidence_suffices",
        "Nobody is contactable without sufficient evidence of consent.",
        f"""
            select customer_id, channel, evidence from {schema}.contactability
            where is_contactable is null
                or (is_contactable and coalesce(evidence, '') not in ({literals(sufficient)}))
        """,
        limit=f"evidence one of {', '.join(sufficient)} (minimum_consent)",
        action="Unknown is not consent. Look at the consent events of these customers. " + REBUILD,
    )
    yield rule(
        "contactability",
        "verdict_has_reason",
        "Every address that is not contactable has a reason.",
        f"select customer_id, channel from {schema}.contactability "
        "where not is_contactable and coalesce(reason, '') = ''",
        severity="warning",
    )
    if settings.destinations and facts.exists("activation", "subscriber_states"):
        yield rule(
            "contactability",
            "agrees_with_tools",
            "No address is contactable that an email tool reports as lost since the consent.",
            f"""
                select verdict.customer_id, state.destination, state.vendor_id, state.state
                from {schema}.contactability as verdict
                inner join activation.subscriber_states as state
                    on state.address = lower(verdict.address)
                where verdict.is_contactable
                    and state.destination in ({literals(settings.destinations)})
                    and state.state in ('unsubscribed', 'bounced', 'complained', 'blocklisted')
                    and (state.state <> 'bounced' or verdict.channel = 'email')
                    and (
                        verdict.evidence_at is null
                        or verdict.evidence_at <= coalesce(state.state_changed_at, 'infinity')
                    )
                    and coalesce(state.state_changed_at, '-infinity')
                    < {as_of_end(settings, facts)}
            """,
            limit="no withdrawal, bounce or complaint later than the consent",
            action="These people must not be written to. Compare the tool's subscriber with the "
            "consent events. " + REBUILD,
        )
