with

customers as (
    select * from {{ ref('customers') }}
),

contactability as (
    select * from {{ ref('int_contactability') }}
    where channel = 'email' and preference = 1
),

rfm as (
    select * from {{ ref('customer_rfm') }}
),

customer_value as (
    select * from {{ ref('customer_value') }}
),

transitions as (
    select
        customer_id,
        from_stage,
        row_number() over (partition by customer_id order by changed_on desc) as recency_rank
    from {{ ref('lifecycle_transitions') }}
),

stages as (
    select * from {{ ref('lifecycle_intervals') }}
    where valid_to is null
),

projections as (
    select
        customer_id,
        stage,
        from_date,
        row_number() over (partition by customer_id order by from_date) as coming_rank
    from {{ ref('lifecycle_projections') }}
),

orders as (
    select
        customer_id,
        order_date,
        is_counted,
        revenue,
        not_counted_because
    from {{ ref('int_orders') }}
    where customer_id is not null
),

signs as (
    select
        customer_id,
        max(sign_on) as last_sign_on
    from {{ ref('int_interest_signs') }}
    group by customer_id
),

order_days as (
    select * from {{ ref('int_order_days') }}
    where next_order_date is null
),

order_totals as (
    select
        customer_id,
        min(case when is_counted then order_date end) as first_order_date,
        max(case when is_counted then order_date end) as last_order_date,
        sum(case when is_counted then 1 else 0 end) as orders_count,
        sum(case when is_counted then revenue end) as revenue_total,
        max(case when not_counted_because = 'abandoned_checkout' then order_date end)
            as last_abandoned_checkout_on
    from orders
    group by customer_id
),

final as (
    select
        cast(customers.customer_id as {{ dbt.type_string() }}) as customer_id,
        {{ as_of_date() }} as as_of_date,
        cast(customers.email as {{ dbt.type_string() }}) as email,
        cast(customers.first_name as {{ dbt.type_string() }}) as first_name,
        cast(customers.last_name as {{ dbt.type_string() }}) as last_name,
        cast(stages.stage as {{ dbt.type_string() }}) as stage,
        cast(transitions.from_stage as {{ dbt.type_string() }}) as previous_stage,
        cast(stages.valid_from as date) as stage_since,
        cast({{ days_between('stages.valid_from', as_of_date()) }} as integer) as days_in_stage,
        cast(projections.stage as {{ dbt.type_string() }}) as next_stage,
        cast(projections.from_date as date) as next_stage_date,
        cast({{ days_between(as_of_date(), 'projections.from_date') }} as integer)
            as days_until_next_stage,
        cast(rfm.recency_days as integer) as recency_days,
        cast(rfm.frequency as integer) as frequency,
        cast(rfm.monetary as numeric(18, 4)) as monetary,
        cast(rfm.r_score as integer) as r_score,
        cast(rfm.f_score as integer) as f_score,
        cast(rfm.m_score as integer) as m_score,
        cast(rfm.rfm_code as {{ dbt.type_string() }}) as rfm_code,
        cast(rfm.rfm_segment as {{ dbt.type_string() }}) as rfm_segment,
        cast(order_totals.first_order_date as date) as first_order_date,
        cast(order_totals.last_order_date as date) as last_order_date,
        cast(coalesce(order_totals.orders_count, 0) as integer) as orders_count,
        cast(coalesce(order_totals.revenue_total, 0) as numeric(18, 4)) as revenue_total,
        cast(order_totals.revenue_total / nullif(order_totals.orders_count, 0) as numeric(18, 4))
            as average_order_value,
        cast(order_days.expected_gap_days as numeric(10, 2)) as expected_gap_days,
        cast(order_totals.last_abandoned_checkout_on as date) as last_abandoned_checkout_on,
        cast(customers.first_seen_on as date) as first_seen_on,
        cast(customers.acquisition_source as {{ dbt.type_string() }}) as acquisition_source,
        cast(customers.preferred_language as {{ dbt.type_string() }}) as preferred_language,
        cast(customers.country as {{ dbt.type_string() }}) as country,
        cast(customers.birthday as date) as birthday,
        cast(coalesce(contactability.is_contactable, false) as boolean) as is_contactable,
        cast(
            case
                when contactability.customer_id is null then 'no_address'
                when not contactability.is_contactable then contactability.reason
            end as {{ dbt.type_string() }}
        ) as not_contactable_because,
        cast(contactability.evidence_at as timestamp with time zone) as consent_at,
        cast(customers.has_profiling_objection as boolean) as has_profiling_objection,
        cast(customers.is_minor as boolean) as is_minor,
        cast(stages.entered_because as {{ dbt.type_string() }}) as stage_entered_because,
        cast(signs.last_sign_on as date) as last_sign_of_interest_on,
        cast(contactability.evidence as {{ dbt.type_string() }}) as consent_evidence,
        cast(customer_value.p_alive as {{ dbt.type_float() }}) as p_alive,
        cast(customer_value.expected_orders_90d as {{ dbt.type_float() }}) as expected_orders_90d,
        cast(customer_value.expected_orders_365d as {{ dbt.type_float() }})
            as expected_orders_365d,
        cast(customer_value.clv_90d as numeric(18, 4)) as clv_90d,
        cast(customer_value.clv_365d as numeric(18, 4)) as clv_365d,
        cast(customer_value.expected_next_order_date as date) as expected_next_order_date
    from customers
    left join stages on customers.customer_id = stages.customer_id
    left join transitions
        on customers.customer_id = transitions.customer_id and transitions.recency_rank = 1
    left join projections
        on customers.customer_id = projections.customer_id and projections.coming_rank = 1
    left join rfm on customers.customer_id = rfm.customer_id
    left join customer_value on customers.customer_id = customer_value.customer_id
    left join order_totals on customers.customer_id = order_totals.customer_id
    left join order_days on customers.customer_id = order_days.customer_id
    left join contactability on customers.customer_id = contactability.customer_id
    left join signs on customers.customer_id = signs.customer_id
)

select * from final
