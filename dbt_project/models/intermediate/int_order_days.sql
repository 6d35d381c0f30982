{{ config(
    materialized='incremental',
    incremental_strategy='replace_differing',
    unique_key=['customer_id', 'order_date'],
    meta={
        'changed': 'int_customers_with_changed_orders',
        'changed_keys': ['customer_id'],
        'indexed': 'customer_id',
    },
    indexes=[{'columns': ['customer_id']}],
    pre_hook="{{ looks_up_blocks() }}",
) }}
{{ after_changed('int_customers_with_changed_orders') }}
{# One row per customer and day with a counted order; the clock of the lifecycle. -#}
{%- set window = var('gap_window_orders') -%}
{%- set gaps = [] -%}
{%- for position in range(1, window + 1) %}{% do gaps.append('gap_' ~ position) %}{% endfor -%}

with

orders as (
    select * from {{ rows_of_changed(
        ref('int_orders'),
        last_build_of('int_customers_with_changed_orders'),
        'customer_id',
    ) }} as orders
    where orders.is_counted and orders.customer_id is not null
),

days as (
    select
        customer_id,
        order_date,
        count(*) as orders_count,
        sum(revenue) as revenue
    from orders
    group by customer_id, order_date
),

numbered as (
    select
        customer_id,
        order_date,
        orders_count,
        revenue,
        row_number() over customer_days as order_day_number,
        lag(order_date) over customer_days as previous_order_date,
        lead(order_date) over customer_days as next_order_date,
        -- At least loyalty_min_orders order days within the window up to this day.
        lag(order_date, {{ var('loyalty_min_orders') - 1 }}) over customer_days
        > {{ add_days('order_date', -var('loyalty_window_days')) }} as is_loyal
    from days
    window customer_days as (partition by customer_id order by order_date)
),

dated as (
    select
        *,
        {{ days_between('previous_order_date', 'order_date') }} as gap_days
    from numbered
),

windowed as (
    select
        *,
        {{ last_gaps('gap_days', window, over='customer_days') }}
    from dated
    window customer_days as (partition by customer_id order by order_date)
),

expected as (
    select
        *,
        cast({{ expected_gap_half_days('order_day_number', gaps) }} as integer)
            as expected_gap_half_days
    from windowed
),

-- What follows from the gap is needed of the day before as well: who comes back after having
-- churned is told by the gap that was expected then.
limited as (
    select
        *,
        {{ days_of_gaps(var('at_risk_factor'), 'expected_gap_half_days') }} as at_risk_after_days,
        {{ days_of_gaps(var('churn_factor'), 'expected_gap_half_days') }} as churned_after_days
    from expected
),

final as (
    select
        customer_id,
        order_date,
        cast(order_day_number as integer) as order_day_number,
        cast(orders_count as integer) as orders_count,
        revenue,
        previous_order_date,
        next_order_date,
        gap_days,
        coalesce(is_loyal, false) as is_loyal,
        cast(expected_gap_half_days / 2.0 as numeric(10, 2)) as expected_gap_days,
        at_risk_after_days,
        churned_after_days,
        lag(churned_after_days) over (partition by customer_id order by order_date)
            as previous_churned_after_days
    from limited
)

select * from final
