-- customer_360 by hand.
--
-- Reads the marts and intermediate tables that the model reads, from the search path; writes
-- customer_360 into schema floor. Parameter: as_of_date.
--
-- What makes it fast: nothing is ranked. The transition into the open stage is the one on the day it
-- began, the coming stage is the one on the earliest coming day, and both are hash joins.

create table floor.customer_360 as
with next_dates as (
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
    order_facts.first_order_date,
    order_facts.last_order_date,
    coalesce(order_facts.orders_count, 0)::integer as orders_count,
    coalesce(order_facts.revenue_total, 0)::numeric(18, 4) as revenue_total,
    order_facts.average_order_value::numeric(18, 4) as average_order_value,
    order_days.expected_gap_days,
    order_facts.last_abandoned_checkout_on,
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
    customer_value.expected_next_order_date,
    coalesce(order_facts.orders_not_counted_count, 0)::integer as orders_not_counted_count,
    coalesce(order_facts.abandoned_checkouts_count, 0)::integer as abandoned_checkouts_count,
    order_facts.return_rate::numeric(10, 4) as return_rate,
    order_facts.refunded_orders_share::numeric(10, 4) as refunded_orders_share,
    order_facts.discount_share::numeric(10, 4) as discount_share,
    order_facts.favourite_category,
    order_facts.favourite_category_share::numeric(10, 4) as favourite_category_share,
    coalesce(order_facts.distinct_products_count, 0)::integer as distinct_products_count,
    coalesce(spend_trend.revenue_last_period, 0)::numeric(18, 4) as revenue_last_period,
    coalesce(spend_trend.revenue_previous_period, 0)::numeric(18, 4) as revenue_previous_period,
    spend_trend.spend_trend,
    order_days.order_date + ceil(order_days.expected_gap_days)::integer as usual_reorder_date,
    %(as_of_date)s::date - order_facts.last_delivered_on as days_since_delivery,
    order_facts.last_delivered_on,
    %(as_of_date)s::date - order_facts.last_abandoned_checkout_on
        as days_since_abandoned_checkout,
    birthdays.next_birthday_on,
    birthdays.next_birthday_on - %(as_of_date)s::date as days_until_birthday,
    -- One is a year older on the next birthday, today's included.
    (
        extract(year from birthdays.next_birthday_on) - extract(year from customers.birthday)
        - (birthdays.next_birthday_on > %(as_of_date)s::date)::integer
    )::integer as age_years,
    rfm_labels.label_en as rfm_segment_label_en,
    rfm_labels.label_de as rfm_segment_label_de,
    stage_labels.label_en as stage_label_en,
    stage_labels.label_de as stage_label_de,
    customer_value.expected_order_value
from customers
left join lateral (
    -- One born on 29 February has a birthday on 1 March where there is none.
    select min(day) as next_birthday_on
    from (
        select
            make_date(year, extract(month from customers.birthday)::integer, 1)
            + extract(day from customers.birthday)::integer - 1 as day
        from generate_series(
            extract(year from %(as_of_date)s::date)::integer,
            extract(year from %(as_of_date)s::date)::integer + 1
        ) as year
    ) as days
    where customers.birthday <= %(as_of_date)s::date and day >= %(as_of_date)s::date
) as birthdays on true
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
left join rfm_segments as rfm_labels on rfm.rfm_code = rfm_labels.rfm_code
left join lifecycle_frameworks as stage_labels
    on stages.stage = stage_labels.stage and stage_labels.framework = 'kundenkreis'
left join customer_value on customers.customer_id = customer_value.customer_id
left join int_customer_order_facts as order_facts on customers.customer_id = order_facts.customer_id
left join int_order_days as order_days
    on customers.customer_id = order_days.customer_id and order_days.next_order_date is null
left join int_contactability as contactability
    on
        customers.customer_id = contactability.customer_id
        and contactability.channel = 'email'
        and contactability.preference = 1
left join int_customer_spend_trend as spend_trend
    on customers.customer_id = spend_trend.customer_id
left join signs on customers.customer_id = signs.customer_id;

analyze floor.customer_360;
