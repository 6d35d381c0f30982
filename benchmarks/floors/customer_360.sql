-- customer_360 by hand.
--
-- Reads the marts and intermediate tables that the model reads, from the search path; writes
-- customer_360 into schema floor. Parameter: as_of_date.
--
-- What makes it fast: nothing is ranked. The transition into the open stage is the one on the day it
-- began, the coming stage is the one on the earliest coming day, and both are hash joins.

create table floor.customer_360 as
with order_totals as (
    select
        customer_id,
        min(order_date) filter (where is_counted) as first_order_date,
        max(order_date) filter (where is_counted) as last_order_date,
        count(*) filter (where is_counted) as orders_count,
        sum(revenue) filter (where is_counted) as revenue_total,
        max(order_date) filter (where not_counted_because = 'abandoned_checkout')
            as last_abandoned_checkout_on
    from int_orders
    where customer_id is not null
    group by customer_id
),

next_dates as (
    select
        customer_id,
        min(from_date) as from_date
    from lifecycle_projections
    group by customer_id
),

signs as (
    select
        customer_id,
        max(sign_on) as last_sign_on
    from int_interest_signs
    group by customer_id
)

select
    customers.customer_id,
    %(as_of_date)s::date as as_of_date,
    customers.email,
    customers.first_name,
    customers.last_name,
    stages.stage,
    transitions.from_stage as previous_stage,
    stages.valid_from as stage_since,
    %(as_of_date)s::date - stages.valid_from as days_in_stage,
    projections.stage as next_stage,
    projections.from_date as next_stage_date,
    projections.from_date - %(as_of_date)s::date as days_until_next_stage,
    rfm.recency_days,
    rfm.frequency,
    rfm.monetary,
    rfm.r_score,
    rfm.f_score,
    rfm.m_score,
    rfm.rfm_code,
    rfm.rfm_segment,
    order_totals.first_order_date,
    order_totals.last_order_date,
    coalesce(order_totals.orders_count, 0)::integer as orders_count,
    coalesce(order_totals.revenue_total, 0)::numeric(18, 4) as revenue_total,
    (order_totals.revenue_total / nullif(order_totals.orders_count, 0))::numeric(18, 4)
        as average_order_value,
    order_days.expected_gap_days,
    order_totals.last_abandoned_checkout_on,
    customers.first_seen_on,
    customers.acquisition_source,
    customers.preferred_language,
    customers.country,
    customers.birthday,
    coalesce(contactability.is_contactable, false) as is_contactable,
    case
        when contactability.customer_id is null then 'no_address'
        when not contactability.is_contactable then contactability.reason
    end as not_contactable_because,
    contactability.evidence_at as consent_at,
    customers.has_profiling_objection,
    customers.is_minor,
    stages.entered_because as stage_entered_because,
    signs.last_sign_on as last_sign_of_interest_on,
    contactability.evidence as consent_evidence,
    customer_value.p_alive,
    customer_value.expected_orders_90d,
    customer_value.expected_orders_365d,
    customer_value.clv_90d,
    customer_value.clv_365d,
    customer_value.expected_next_order_date
from customers
left join lifecycle_intervals as stages
    on customers.customer_id = stages.customer_id and stages.valid_to is null
left join lifecycle_transitions as transitions
    on
        customers.customer_id = transitions.customer_id
        and stages.valid_from = transitions.changed_on
left join next_dates on customers.customer_id = next_dates.customer_id
left join lifecycle_projections as projections
    on
        next_dates.customer_id = projections.customer_id
        and next_dates.from_date = projections.from_date
left join customer_rfm as rfm on customers.customer_id = rfm.customer_id
left join customer_value on customers.customer_id = customer_value.customer_id
left join order_totals on customers.customer_id = order_totals.customer_id
left join int_order_days as order_days
    on customers.customer_id = order_days.customer_id and order_days.next_order_date is null
left join int_contactability as contactability
    on
        customers.customer_id = contactability.customer_id
        and contactability.channel = 'email'
        and contactability.preference = 1
left join signs on customers.customer_id = signs.customer_id;

analyze floor.customer_360;
