with

orders as (
    select * from {{ ref('int_orders') }}
    where
        is_counted
    {%- if var('rfm_window_days') is not none %}
        and order_date > {{ add_days(as_of_date(), -var('rfm_window_days')) }}
        {%- endif %}
),

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

final as (
    select
        orders.customer_id,
        {{ days_between('max(orders.order_date)', as_of_date()) }} as recency_days,
        cast(count(*) as integer) as frequency,
        cast(sum(orders.revenue) as numeric(18, 4)) as monetary
    from orders
    inner join profiles on orders.customer_id = profiles.customer_id
    where not profiles.has_profiling_objection
    group by orders.customer_id
)

select * from final
