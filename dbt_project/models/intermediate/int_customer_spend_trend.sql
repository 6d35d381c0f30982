{%- set days = var('spend_trend_days') -%}

with

-- The orders of the two periods and no others.
orders as (
    select
        customer_id,
        order_date,
        revenue
    from {{ ref('int_orders') }}
    where
        is_counted
        and customer_id is not null
        and order_date > {{ add_days(as_of_date(), -2 * days) }}
),

summed as (
    select
        customer_id,
        sum(case when order_date > {{ add_days(as_of_date(), -days) }} then revenue else 0 end)
            as revenue_last_period,
        sum(case when order_date > {{ add_days(as_of_date(), -days) }} then 0 else revenue end)
            as revenue_previous_period
    from orders
    group by customer_id
),

final as (
    select
        customer_id,
        cast(revenue_last_period as numeric(18, 4)) as revenue_last_period,
        cast(revenue_previous_period as numeric(18, 4)) as revenue_previous_period,
        cast(
            revenue_last_period / nullif(revenue_previous_period, 0) - 1 as numeric(18, 4)
        ) as spend_trend
    from summed
)

select * from final
