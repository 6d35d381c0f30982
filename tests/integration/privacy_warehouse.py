"""A warehouse in which two persons are known everywhere, made of SQL alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from kundenkreis.connections import Connection
from kundenkreis.destinations.config import ListmonkSettings, MailchimpSettings
from kundenkreis.privacy.erasure import Errand
from kundenkreis.settings import ModelSettings, RetentionConfig, Settings
from tests.integration.dbt_support import create_raw_tables, insert

KEY = "k" * 32
ANNA, BEN = "anna@bücher.example", "ben@mail.example"
ANNA_ASCII = "anna@xn--bcher-kva.example"
THEN = datetime(2026, 3, 1, 10, tzinfo=UTC)

_COLOUR = """
create schema {marts};
create schema {intermediate};
create table {intermediate}.int_customer_identities (
    source text, source_record_type text, source_id text, customer_id text, address text,
    is_ambiguous boolean, known_on date, identity_key text, telephone_key text, link_key text,
    component text, connection text
);
insert into {intermediate}.int_customer_identities values
    ('woocommerce', 'customer', '17', 'c-anna', '{anna}', false, '2026-03-01',
        'address:{anna}', null, null, 'address:{anna}', 'address:{anna}'),
    ('hubspot', 'contact', '5', 'c-anna', '{anna}', false, '2026-03-01',
        'address:{anna}', null, 'record:woocommerce|customer|17', 'address:{anna}',
        'address:{anna}'),
    ('till', 'customer', 'card-3', 'c-anna', '{anna}', false, '2026-03-01',
        'address:{anna}', null, null, 'address:{anna}', 'address:{anna}'),
    ('woocommerce', 'customer', '18', 'c-ben', '{ben}', false, '2026-03-01',
        'address:{ben}', null, null, 'address:{ben}', 'address:{ben}');
create table {intermediate}.int_customer_addresses as
    select distinct customer_id, address, is_ambiguous
    from {intermediate}.int_customer_identities;
create table {intermediate}.int_consent_events (
    source text, address text, channel text, evidence text, occurred_at timestamptz, wording text
);
insert into {intermediate}.int_consent_events values
    ('desk', '{anna}', 'email', 'double', '2026-03-01', 'I agree'),
    ('desk', '{ben}', 'email', 'double', '2026-03-01', 'I agree');
create table {intermediate}.int_orders_unioned (
    source text, order_id text, source_record_type text, source_id text, email text, address text,
    first_name text, last_name text, phone_e164 text, newsletter_opt_in text, total_amount numeric
);
insert into {intermediate}.int_orders_unioned values
    ('woocommerce', '1', 'customer', '17', '{anna}', '{anna}', 'Anna', 'Abel', '+4930111111',
        'double', 10),
    ('woocommerce', '3', 'customer', '18', '{ben}', '{ben}', 'Ben', 'Zeh', '+4930222222',
        'double', 30);
create table {intermediate}.int_orders (
    source text, order_id text, customer_id text, address text, revenue numeric
);
insert into {intermediate}.int_orders values
    ('woocommerce', '1', 'c-anna', '{anna}', 10), ('woocommerce', '3', 'c-ben', '{ben}', 30);
create table {intermediate}.int_orders_rejected (
    source text, table_name text, record_key text, reason_code text, reason text, payload text
);
create table {marts}.customers as
    select 'c-anna'::text as customer_id, '{anna}'::text as email, 'Anna'::text as first_name,
        'Abel'::text as last_name
    union all select 'c-ben', '{ben}', 'Ben', 'Zeh';
create table {marts}.contactability as
    select customer_id, 'email'::text as channel, email as address, true as is_contactable,
        'consent_double'::text as reason, 'double'::text as evidence,
        timestamptz '2026-03-01 10:00:00+00' as evidence_at, true as is_preferred
    from {marts}.customers;
create table {marts}.customer_360 as
    select customer_id, 1::integer as orders_count, true as is_contactable,
        null::text as not_contactable_because, date '2026-03-01' as first_seen_on,
        null::date as last_sign_of_interest_on
    from {marts}.customers;
create table {marts}.segment_members as
    select 'champions'::text as segment, customer_id, true as is_contactable,
        null::text as not_contactable_because
    from {marts}.customers;
create view {marts}.orders as
    select source, order_id, customer_id, revenue from {intermediate}.int_orders;
"""


def fill(dsn: str) -> None:
    """Put Anna and Ben into every place of an empty warehouse; blue is published, green was."""
    create_raw_tables(dsn, "files", "hubspot", "woocommerce")
    for number, name, address in ((17, "Anna Abel", " Anna@Bücher.example"), (18, "Ben Zeh", BEN)):
        first, last = name.split()
        insert(
            dsn,
            "raw_woocommerce.customers",
            [
                {
                    "id": number,
                    "email": address,
                    "first_name": first,
                    "last_name": last,
                    "billing_phone": f"030 {number}{number}{number}",
                    "phone_e164": f"+4930{number}{number}{number}",
                    "date_created_gmt": THEN,
                    "_dlt_load_id": "1",
                }
            ],
        )
        for order, owner in ((number - 16, number), (number + 3, 0)):
            insert(
                dsn,
                "raw_woocommerce.orders",
                [
                    {
                        "id": order if owner else order + 100,
                        "status": "completed",
                        "currency": "EUR",
                        "total": order * 10,
                        "customer_id": owner,
                        "billing_email": address.upper(),
                        "billing_first_name": first,
                        "billing_last_name": last,
                        "billing_phone": "030 1",
                        "phone_e164": "+49301",
                        "newsletter_opt_in": "double",
                        "date_created_gmt": THEN,
                        "_dlt_id": f"o{order}",
                        "_dlt_load_id": "1",
                    }
                ],
            )
    insert(
        dsn,
        "raw_hubspot.contacts",
        [
            {"id": "5", "email": ANNA, "lastname": "Abel", "_dlt_id": "h5", "_dlt_load_id": "1"},
            {
                "id": "6",
                "email": BEN,
                "lastname": "Zeh",
                "linked_source": "woocommerce",
                "linked_customer_key": "17",
                "_dlt_id": "h6",
                "_dlt_load_id": "1",
            },
        ],
    )
    insert(
        dsn,
        "raw_hubspot.contacts__property_history",
        [
            {"property": "hs_lead_status", "value": "open", "_dlt_parent_id": parent}
            for parent in ("h5", "h6")
        ],
    )
    insert(
        dsn,
        "raw_hubspot.deals",
        [{"id": "1", "contact_id": "5"}, {"id": "2", "contact_id": "6"}],
    )
    insert(
        dsn,
        "raw_files.customers",
        [
            {
                "source_name": "till",
                "customer_key": "card-3",
                "email": None,
                "last_name": "Abel",
                "loaded_at": THEN,
            }
        ],
    )
    insert(
        dsn,
        "raw_files.orders",
        [
            {
                "source_name": "till",
                "order_key": "r1",
                "customer_key": "card-3",
                "total_amount": 5,
                "ordered_at": THEN,
                "loaded_at": THEN,
            }
        ],
    )
    insert(
        dsn,
        "raw_files.consent_events",
        [
            {
                "source_name": "desk",
                "email": address,
                "evidence": "double",
                "occurred_at": THEN,
                "wording": "I agree",
            }
            for address in (ANNA, BEN)
        ],
    )
    with psycopg.connect(dsn) as connection:
        for colour in ("blue", "green"):
            text = _COLOUR.format(
                marts=f"marts_{colour}",
                intermediate=f"intermediate_{colour}",
                anna=ANNA_ASCII,
                ben=BEN,
            )
            connection.execute(text.encode())
        connection.execute("create view marts.customers as select * from marts_blue.customers")
        connection.execute(_BOOKKEEPING)


_BOOKKEEPING = f"""
insert into history.publications (as_of_date, dag_run_id, schema_name)
    values ('2026-03-01', 'run-1', 'marts_green'), ('2026-03-02', 'run-2', 'marts_blue');
insert into operations.held_publications values ('marts_green', 1), ('marts_blue', 2);
insert into history.customer_ids values
    ('woocommerce', 'customer', '17', 'c-anna', '2026-03-01'),
    ('woocommerce', 'guest_order', '120', 'c-anna', '2026-03-01'),
    ('woocommerce', 'customer', '18', 'c-ben', '2026-03-01');
insert into history.identity_changes values
    ('2026-03-01', 'merged', 'c-anna', 'c-anna-before', 1, 1);
insert into history.stage_changes values
    ('2026-03-01', 'c-anna', null, 'conversion', 1), ('2026-03-01', 'c-ben', null, 'reach', 1),
    ('2026-02-01', 'c-anna-before', null, 'reach', 1);
insert into operations.customer_ids_before values
    (2, 'woocommerce', 'customer', '17', 'c-anna-before');
insert into activation.subscriber_states
    (destination, address, state, evidence, state_changed_at, vendor_id, read_at, run_id)
    values
    ('listmonk', '{ANNA_ASCII}', 'subscribed', 'double', '2026-03-01', 'v1', now(), 'run-2'),
    ('listmonk', '{BEN}', 'subscribed', 'double', '2026-03-01', 'v2', now(), 'run-2');
create table activation.plan_rows (
    plan_row_id text, publication_id bigint, destination text, audience text, customer_id text,
    address text, attributes text, planned_at timestamp
);
insert into activation.plan_rows values
    ('p1', 2, 'listmonk', 'Champions', 'c-anna', '{ANNA_ASCII}', '{{}}', now()),
    ('p2', 2, 'listmonk', 'Champions', 'c-ben', '{BEN}', '{{}}', now());
insert into activation.ledger
    (plan_row_id, publication_id, run_id, destination, audience, customer_id, operation, address,
    attributes, payload_hash, state)
    values
    ('p1', 2, 'run-2', 'listmonk', '', 'c-anna', 'upsert', '{ANNA_ASCII}', '{{"stage": "loyalty"}}',
        'h1', 'confirmed'),
    ('p2', 2, 'run-2', 'listmonk', '', 'c-ben', 'upsert', '{BEN}', '{{"stage": "loyalty"}}', 'h2',
        'confirmed');
insert into activation.delivered_state (destination, audience, address, customer_id, is_member)
    values
    ('listmonk', 'Champions', '{ANNA_ASCII}', 'c-anna', true),
    ('listmonk', 'Champions', '{BEN}', 'c-ben', true);
insert into activation.batches_under_way
    (publication_id, run_id, destination, audience, operation, vendor_job_id, sent_at, plan_row_ids,
    customer_ids, addresses, attributes, payload_hashes)
    values
    (2, 'run-2', 'listmonk', '', 'upsert', 'job1', now(), array['u1', 'u2'],
        array['c-ben', 'c-anna'], array['{BEN}', '{ANNA_ASCII}'],
        array[null, '{{"stage": "anna"}}'], array['h3', 'h4']);
insert into activation.drift (run_id, publication_id, destination, audience, address, kind)
    values ('run-2', 2, 'listmonk', 'Champions', '{ANNA_ASCII}', 'extra');
insert into quarantine.rejected_records
    (record_hash, source, table_name, record_key, reason_code, reason, payload, run_id)
    values
    ('q1', 'woocommerce', 'orders', '55', 'invalid_total', 'total: is no number',
        '{{"id": 55, "billing": {{"email": "ANNA@BÜCHER.example "}}}}', 'run-2'),
    ('q2', 'woocommerce', 'orders', '56', 'invalid_total', 'total: is no number',
        '{{"id": 56, "customer_id": 17, "billing": {{}}}}', 'run-2'),
    ('q3', 'woocommerce', 'orders', '57', 'invalid_total', 'total: is no number',
        '{{"id": 57, "billing": {{"email": "xanna@bücher.example"}}}}', 'run-2');
insert into quarantine.releases (record_hash, released_by, note, corrections)
    values ('q1', 'anna', 'right', '{{"billing.last_name": "Abel"}}');
"""


def errand(dsn: str, tools: dict[str, Any], **options: Any) -> Errand:
    """An erasure's surroundings: tools in memory, a key in a connection."""
    settings = Settings(
        folder=Path(),
        model=ModelSettings(),
        sources={},
        segments={},
        destinations={
            name: ListmonkSettings() if name == "listmonk" else MailchimpSettings()
            for name in tools
        },
        retention=RetentionConfig(),
    )
    return Errand(
        dsn,
        settings,
        lambda name: Connection(name, "https", "", password=KEY),
        lambda line: None,
        open_tool=lambda name, tool_settings, resolve: tools[name],
        wait_seconds=0,
        **options,
    )


def texts(dsn: str, but: tuple[str, ...] = ()) -> dict[str, str]:
    """Every row of every table as text, by table."""
    with psycopg.connect(dsn) as connection:
        tables = connection.execute(
            "select format('%I.%I', n.nspname, c.relname) from pg_class as c "
            "inner join pg_namespace as n on n.oid = c.relnamespace "
            "where c.relkind in ('r', 'v', 'm') and n.nspname !~ '^pg_' "
            "and n.nspname <> 'information_schema'"
        ).fetchall()
        return {
            table: "\n".join(
                sorted(
                    row[0] for row in connection.execute(f"select t::text from {table} t".encode())
                )
            )
            for (table,) in tables
            if table not in but
        }
