"""Clean marts over the tables of `landing_fixture`, made by plain SQL instead of dbt."""

from __future__ import annotations

import psycopg

SCHEMA = "marts_green"

_MARTS = """
create schema marts_green;
set search_path to marts_green;
create table customers as
select
    'c' || id as customer_id, date '2026-01-01' as first_seen_on, null::text as acquisition_source,
    'de' as preferred_language, 'DE' as country, email, first_name, last_name,
    null::date as birthday, false as has_profiling_objection, false as is_minor
from raw_woocommerce.customers
union all
select distinct
    't' || customer_key, date '2025-11-30', null, null, null, email, null, null, null::date,
    false, false
from raw_files.order_lines;
create table customer_source_ids as
select
    'c' || id as customer_id, 'woocommerce' as source, 'customer' as source_record_type,
    id::text as source_id
from raw_woocommerce.customers
union all
select 'c' || id, 'hubspot', 'contact', id from raw_hubspot.contacts
union all
select distinct 't' || customer_key, 'till', 'customer', customer_key from raw_files.order_lines;
create table contactability as
select
    customer_id, 'email' as channel, email as address, state.address is not null as is_contactable,
    case when state.address is null then 'consent_unknown' else 'consent_double' end as reason,
    state.evidence, state.state_changed_at as evidence_at
from customers
left join activation.subscriber_states as state on state.address = customers.email;
create table orders as
select
    'woocommerce' as source, orders.id::text as order_id, 'c' || orders.customer_id as customer_id,
    (orders.date_created_gmt at time zone 'Europe/Berlin')::date as order_date,
    orders.date_created_gmt as ordered_at, currency,
    total::numeric(18, 4) as revenue_before_refunds,
    (total - coalesce(refunds.amount, 0))::numeric(18, 4) as revenue_after_refunds,
    status <> 'cancelled' as is_counted,
    case when status = 'cancelled' then 'status_not_counted' end as not_counted_because
from raw_woocommerce.orders as orders
left join raw_woocommerce.refunds as refunds on refunds.parent_id = orders.id
union all
select
    source_name, order_key, 't' || min(customer_key), date '2025-11-30', min(ordered_at), 'EUR',
    sum(line_amount)::numeric(18, 4), sum(line_amount)::numeric(18, 4), true, null
from raw_files.order_lines
group by source_name, order_key;
create table rfm_values as
select
    customer_id, date '2026-03-31' - max(order_date) as recency_days, count(*) as frequency,
    sum(revenue_after_refunds) as monetary
from orders where is_counted group by customer_id;
create table history_rfm_cutoffs as
select
    date '2026-03-31' as as_of_date, dimension, quantile,
    percentile_disc(quantile) within group (order by measured)::numeric as cutoff,
    'quantiles' as method
from (
    select 'recency_days' as dimension, recency_days::numeric as measured from rfm_values
    union all select 'frequency', frequency from rfm_values
    union all select 'monetary', monetary from rfm_values
) as long, unnest(array[0.2, 0.4, 0.6, 0.8]) as quantile
group by dimension, quantile;
create table customer_rfm as
select
    scored.*, concat(r_score, f_score, m_score) as rfm_code, 'Champions' as rfm_segment
from (
    select
        customer_id, date '2026-03-31' as as_of_date, recency_days, frequency, monetary,
        5 - (select count(*) from history_rfm_cutoffs
            where dimension = 'recency_days' and recency_days > cutoff) as r_score,
        1 + (select count(*) from history_rfm_cutoffs
            where dimension = 'frequency' and frequency > cutoff) as f_score,
        1 + (select count(*) from history_rfm_cutoffs
            where dimension = 'monetary' and monetary > cutoff) as m_score
    from rfm_values
) as scored;
drop table rfm_values;
create table history_rfm_segment_changes as
select as_of_date, customer_id, null::text as from_segment, rfm_segment as to_segment
from customer_rfm;
create table customer_value as
select
    customer_id, as_of_date, 0.5::double precision as p_alive,
    0.25::double precision as expected_orders_90d, 0.75::double precision as expected_orders_365d,
    40.0::numeric(18, 4) as expected_order_value, 10.0::numeric(18, 4) as clv_90d,
    30.0::numeric(18, 4) as clv_365d, date '2026-06-01' as expected_next_order_date
from customer_rfm;
create table history_value_parameters as
select
    date '2026-03-31' as as_of_date, 'fitted' as orders_outcome, null::text as orders_reason,
    date '2026-03-31' as orders_parameters_of, 'fitted' as order_value_outcome,
    null::text as order_value_reason, date '2026-03-31' as order_value_parameters_of;
create table lifecycle_intervals as
with first_orders as (
    select customer_id, min(order_date) as ordered_on from orders where is_counted group by 1
)
select
    customers.customer_id, 'reach' as stage, first_seen_on as valid_from, ordered_on as valid_to,
    'first_seen' as entered_because
from customers left join first_orders using (customer_id)
where ordered_on is null or ordered_on > first_seen_on
union all
select customer_id, 'development', ordered_on, null, 'order' from first_orders;
create table lifecycle_projections as
select customer_id, 'at_risk' as stage, date '2026-05-30' as from_date from customer_rfm;
create table customer_360 as
select
    customers.customer_id, date '2026-03-31' as as_of_date, current.stage,
    verdict.is_contactable, rfm.frequency, rfm.rfm_code
from customers
inner join lifecycle_intervals as current
    on current.customer_id = customers.customer_id and current.valid_to is null
inner join contactability as verdict on verdict.customer_id = customers.customer_id
left join customer_rfm as rfm on rfm.customer_id = customers.customer_id;
create table segment_members as
select
    case when frequency > 0 then 'buyers' else 'leads' end as segment, customer_id,
    date '2026-03-31' as member_since, false as is_holdout, is_contactable,
    case when not is_contactable then 'consent_unknown' end as not_contactable_because
from customer_360;
create table history_stage_changes as
select
    date '2026-03-31' as as_of_date, customer_id, null::text as from_stage, stage as to_stage
from lifecycle_intervals where valid_to is null;
create table kpi_holdout_lift as
select
    'buyers' as segment, 10.0 as holdout_percent, 337 as treated_customers,
    -- 3.8 standard deviations above what was to be expected of 400.
    63 as holdout_customers, 40.0 as expected_holdout_customers,
    null::numeric as conversion_rate_difference, null::numeric as conversion_rate_difference_low,
    null::numeric as conversion_rate_difference_high,
    null::numeric as revenue_per_customer_difference;
create table kpi_daily as
with counted as (
    select count(*) as orders, sum(revenue_after_refunds) as revenue from orders where is_counted
)
select
    date '2026-03-31' as day, count(*) filter (where stage = 'reach') as customers_reach,
    count(*) filter (where stage = 'acquisition') as customers_acquisition,
    count(*) filter (where stage = 'dormant_lead') as customers_dormant_lead,
    count(*) filter (where stage = 'conversion') as customers_conversion,
    count(*) filter (where stage = 'development') as customers_development,
    count(*) filter (where stage = 'retention') as customers_retention,
    count(*) filter (where stage = 'loyalty') as customers_loyalty,
    count(*) filter (where stage = 'at_risk') as customers_at_risk,
    count(*) filter (where stage = 'churned') as customers_churned,
    count(*) filter (where stage = 'reactivated') as customers_reactivated,
    counted.orders, counted.revenue, 0.0123::numeric(9, 4) as churn_rate, false as churn_alarm
from lifecycle_intervals cross join counted
where valid_to is null
group by counted.orders, counted.revenue;
insert into kpi_daily (day, orders, revenue, churn_alarm) values ('2026-03-30', 0, 0, true);
create table history_kpi_daily as
select day as as_of_date, orders, revenue from kpi_daily where day = date '2026-03-31'
"""

# A publication of an earlier night, with one customer less in a segment.
_PUBLISHED = """
create schema marts_blue;
create table marts_blue.segment_members as
select * from marts_green.segment_members where customer_id <> 'c1';
create view marts.segment_members as select * from marts_blue.segment_members;
create table marts_blue.customer_360 as
select customer_id, stage from marts_green.customer_360 where customer_id <> 'c1';
create view marts.customer_360 as select * from marts_blue.customer_360;
insert into history.publications (as_of_date, dag_run_id, schema_name)
values ('2026-03-30', 'scheduled__2026-03-31', 'marts_blue')
"""


def build(dsn: str) -> None:
    """Create the clean marts in the schema `SCHEMA`; the raw tables must be there."""
    _run(dsn, _MARTS)


def publish_before(dsn: str) -> None:
    """Add the publication of the night before."""
    _run(dsn, _PUBLISHED)


def _run(dsn: str, script: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in script.split(";\n"):
            connection.execute(statement.encode())
