{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_orders', ['customer_id']) }}",
) }}
{{ after_changed('int_customers_with_changed_orders') }}
{# Nothing here depends on the as-of day but through the orders up to it. Days leave the holdout
   without them, so the row keeps every order day that a later night may ask about. #}
{%- set is_recent = 'next_order_date is null or next_order_date > '
    ~ add_days(as_of_date(), -value_holdout_days()) %}

with

order_days as (
    select * from {{ rows_of_changed(
        ref('int_order_days'),
        last_build_of('int_customers_with_changed_orders'),
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
            avg(case when order_day_number > 1 then revenue end) as {{ dbt.type_float() }}
        ) as mean_repeat_order_value,
        {{ sorted_dates('order_date', is_recent) }} as recent_order_dates
    from order_days
    group by customer_id
)

select * from final
