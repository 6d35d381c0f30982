{{ config(materialized='view') }}

with

orders as (
    select * from {{ ref('int_orders') }}
),

final as (
    select
        cast(source as {{ dbt.type_string() }}) as source,
        cast(order_id as {{ dbt.type_string() }}) as order_id,
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(order_date as date) as order_date,
        cast(ordered_at as timestamp with time zone) as ordered_at,
        cast(currency as {{ dbt.type_string() }}) as currency,
        cast(revenue_before_refunds as numeric(18, 4)) as revenue_before_refunds,
        cast(revenue_after_refunds as numeric(18, 4)) as revenue_after_refunds,
        cast(is_counted as boolean) as is_counted,
        cast(not_counted_because as {{ dbt.type_string() }}) as not_counted_because,
        cast(status as {{ dbt.type_string() }}) as status,
        cast(discount_amount as numeric(18, 4)) as discount_amount,
        cast(delivered_at as timestamp with time zone) as delivered_at,
        cast(refunded_amount as numeric(18, 4)) as refunded_amount
    from orders
)

select * from final
