with

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

buyers as (
    {%- if var('rfm_window_days') is none %}
    select
        customer_id,
        last_order_date,
        orders_count,
        revenue
    from {{ ref('int_value_inputs') }}
    {%- else %}
    select
        customer_id,
        max(order_date) as last_order_date,
        sum(orders_count) as orders_count,
        sum(revenue) as revenue
    from {{ ref('int_order_days') }}
    where order_date > {{ add_days(as_of_date(), -var('rfm_window_days')) }}
    group by customer_id
    {%- endif %}
),

final as (
    select
        buyers.customer_id,
        {{ days_between('buyers.last_order_date', as_of_date()) }} as recency_days,
        cast(buyers.orders_count as integer) as frequency,
        cast(buyers.revenue as numeric(18, 4)) as monetary
    from buyers
    inner join profiles on buyers.customer_id = profiles.customer_id
    where not profiles.has_profiling_objection
)

select * from final
