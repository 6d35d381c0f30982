{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_value', ['customer_id']) }}",
) }}
{{ after_changed('int_customers_with_changed_value') }}
{% set known_before = add_days(as_of_date(), -value_holdout_days()) %}

with

order_days as (
    select * from {{ rows_of_changed(
        ref('int_order_days'),
        last_build_of('int_customers_with_changed_value'),
        'customer_id',
    ) }} as order_days
),

final as (
    select
        customer_id,
        min(order_date) as first_order_date,
        max(order_date) as last_order_date,
        count(*) as order_days_count,
        sum(orders_count) as orders_count,
        sum(revenue) as revenue,
        cast(
            avg(case when order_day_number > 1 then revenue end) as numeric(24, 10)
        ) as mean_repeat_order_value,
        max(case when order_date <= {{ known_before }} then order_date end)
            as last_order_date_before,
        min(case when order_date > {{ known_before }} then order_date end)
            as first_order_date_after,
        sum(case when order_date <= {{ known_before }} then 1 else 0 end) as order_days_before
    from order_days
    group by customer_id
)

select * from final
