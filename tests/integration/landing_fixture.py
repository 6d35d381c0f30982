"""Clean raw tables of a small shop, CRM and file export, as the sources land them.

Every address in them ends with ``@mail.example``, so that a leak is found by searching for it."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import psycopg

from kundenkreis.settings import Settings, load_settings

AS_OF = date(2026, 3, 31)
RUN_ID = "scheduled__2026-04-01T00:15:00+00:00"

_LANDING = """
create schema raw_woocommerce;
create table raw_woocommerce._dlt_loads (load_id text, inserted_at timestamptz);
insert into raw_woocommerce._dlt_loads values ('1', '2026-04-01 00:20:00+00');
create table raw_woocommerce.customers as
select
    n::bigint as id, '2026-01-05 10:00:00+00'::timestamptz as date_created_gmt,
    '2026-03-01 10:00:00+00'::timestamptz as date_modified_gmt,
    'person' || n || '@mail.example' as email, 'First' || n as first_name,
    'Last' || n as last_name, 'customer' as role, true as is_paying_customer,
    'DE' as billing_country, null::text as billing_phone, null::text as newsletter_opt_in,
    null::timestamptz as newsletter_opt_in_at, '1' as _dlt_load_id
from generate_series(1, 200) as n;
create table raw_woocommerce.orders as
select
    n::bigint as id, n::text as number,
    (array['completed', 'processing', 'cancelled'])[1 + n % 3] as status, 'EUR' as currency,
    timestamptz '2026-03-31 12:00:00+00' - make_interval(hours => n) as date_created_gmt,
    timestamptz '2026-03-31 12:30:00+00' - make_interval(hours => n) as date_modified_gmt,
    null::timestamptz as date_paid_gmt, null::timestamptz as date_completed_gmt,
    (20 + n % 7)::numeric as total, 3::numeric as total_tax,
    0::numeric as shipping_total, 0::numeric as shipping_tax, 0::numeric as discount_total,
    (1 + n % 200)::bigint as customer_id, 'person' || (1 + n % 200) || '@mail.example'
    as billing_email, 'First' as billing_first_name, 'Last' as billing_last_name,
    'DE' as billing_country, null::text as billing_phone, 'paypal' as payment_method,
    'checkout' as created_via, null::text as newsletter_opt_in, null::numeric as exchange_rate,
    'o' || n as _dlt_id, '1' as _dlt_load_id
from generate_series(1, 500) as n;
create table raw_woocommerce.orders__line_items as
select
    n::bigint as id, 1::bigint as product_id, 0::bigint as variation_id, 'Tea' as name,
    'T1' as sku, 1::numeric as quantity, 20::numeric as subtotal, 20::numeric as total,
    3::numeric as total_tax, 'o' || n as _dlt_parent_id, 0::bigint as _dlt_list_idx,
    'l' || n as _dlt_id, '1' as _dlt_load_id
from generate_series(1, 500) as n;
create table raw_woocommerce.refunds as
select
    9000 + n::bigint as id, n::bigint as parent_id,
    timestamptz '2026-03-30 12:00:00+00' as date_created_gmt, 5::numeric as amount,
    '1' as _dlt_load_id
from generate_series(1, 10) as n;
create table raw_woocommerce.products as
select
    n::bigint as id, 'Tea' as name, 'T' || n as sku, 'publish' as status, 20::numeric as price,
    7::bigint as category_id, 'Teas' as category_name,
    timestamptz '2026-01-01 00:00:00+00' as date_modified_gmt, '1' as _dlt_load_id
from generate_series(1, 20) as n;

create schema raw_hubspot;
create table raw_hubspot.contacts as
select
    n::text as id, timestamptz '2026-01-01 00:00:00+00' as createdate,
    timestamptz '2026-03-30 00:00:00+00' as lastmodifieddate,
    'person' || n || '@mail.example' as email, 'First' as firstname, 'Last' as lastname,
    null::text as phone, 'customer' as lifecyclestage, null::text as hs_lead_status,
    'de' as hs_language, 'ORGANIC_SEARCH' as hs_analytics_source, null::text as date_of_birth,
    false as hs_email_optout, null::text as hs_emailconfirmationstatus,
    null::text as hs_marketable_status, false as archived, 'c' || n as _dlt_id,
    '1' as _dlt_load_id
from generate_series(1, 100) as n;
create table raw_hubspot.contacts__property_history as
select
    'lifecyclestage' as property, 'lead' as value, timestamptz '2026-01-02 00:00:00+00' as
    changed_at, 'FORM' as source_type, 'c' || n as _dlt_parent_id, 0::bigint as _dlt_list_idx,
    '1' as _dlt_load_id
from generate_series(1, 100) as n;
create table raw_hubspot.deals as
select
    n::text as id, n::text as contact_id, timestamptz '2026-02-01 00:00:00+00' as createdate,
    null::timestamptz as closedate, timestamptz '2026-02-01 00:00:00+00' as hs_lastmodifieddate,
    'qualifiedtobuy' as dealstage, 'default' as pipeline, 100::numeric as amount,
    'EUR' as deal_currency_code, false as hs_is_closed, false as hs_is_closed_won,
    false as archived, '1' as _dlt_load_id
from generate_series(1, 10) as n;

create schema raw_files;
create table raw_files.order_lines as
select
    'till' as source_name, 't' || (n / 2) as order_key, n::bigint as line_number,
    'k' || (n / 2) as customer_key, 'till' || (n / 2) || '@mail.example' as email,
    timestamptz '2025-11-30 12:00:00+00' as ordered_at, 'completed' as status,
    'EUR' as currency, 'p1' as product_key, 'Tea' as product_name, 1::numeric as quantity,
    (2 + n % 3)::numeric as unit_price, 2::numeric as line_amount, 'hash' as content_hash,
    n::bigint as row_number, '1' as _dlt_load_id, timestamptz '2026-04-01 00:20:00+00' as loaded_at
from generate_series(1, 300) as n;
create table raw_files.spend as
select
    'advertising' as source_name, 'paid_search' as acquisition_source,
    date '2026-03-31' - n as spent_on, 'EUR' as currency, 25::numeric as amount,
    'hash' as content_hash, n::bigint as row_number, '1' as _dlt_load_id
from generate_series(1, 50) as n;

insert into activation.subscriber_states
    (destination, address, state, evidence, state_changed_at, vendor_id, read_at, run_id)
select
    'listmonk', 'person' || n || '@mail.example', 'subscribed', 'double',
    timestamptz '2026-02-01 00:00:00+00', n::text, timestamptz '2026-04-01 00:20:00+00', %s
from generate_series(1, 50) as n;
"""

SEGMENTS = """
segments:
  buyers:
    labels: {en: Buyers, de: Kaeufer}
    description: Everybody who bought.
    where: frequency > 0
    destinations: [listmonk]
    max_change_percent: 30
  leads:
    labels: {en: Leads, de: Interessenten}
    description: Everybody who did not.
    where: frequency is null
    requires: [rfm_code]
"""

SOURCES = """
woocommerce: {}
hubspot: {}
files:
  datasets:
    - name: till
      entity: order_lines
      path: till.csv
      columns:
        order_key: Order
        customer_key: Customer
        ordered_at: Date
        status: {constant: completed}
        currency: {constant: EUR}
        line_amount: Amount
    - name: advertising
      entity: spend
      path: spend.csv
      columns:
        acquisition_source: Source
        spent_on: Day
        amount: Cost
        currency: {constant: EUR}
"""

# Order lines as a shop's file has them: the settings of the dataset.
LINES: dict[str, Any] = {
    "name": "shop",
    "entity": "order_lines",
    "path": "*.csv",
    "timezone": "UTC",
    "columns": {
        "order_key": "order",
        "ordered_at": {"constant": "2026-01-01"},
        "status": {"constant": "completed"},
        "currency": {"constant": "EUR"},
        "product_name": "line",
        "line_amount": "price",
    },
}


def land(dsn: str, run_id: str = RUN_ID) -> None:
    """Create the clean raw tables in a fresh warehouse."""
    with psycopg.connect(dsn) as connection:
        for statement in _LANDING.split(";\n"):
            if statement.strip():
                parameters = (run_id,) if "%s" in statement else None
                connection.execute(statement.encode(), parameters)


def settings(folder: Path, sources: str = SOURCES) -> Settings:
    """Settings of a config folder with these sources and listmonk as the only email tool."""
    (folder / "sources.yml").write_text(sources)
    (folder / "destinations.yml").write_text("listmonk: {}\n")
    (folder / "segments.yml").write_text(SEGMENTS)
    return load_settings(folder)


def execute(dsn: str, *statements: str) -> None:
    """Run statements in one transaction."""
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())
