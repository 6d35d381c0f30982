{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- Whose orders changed, or moved from the holdout to what comes before it. -#}

with

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

order_days as (
    select * from {{ ref('int_order_days') }}
),

final as (
    select customer_id from changed_orders
    union
    select customer_id
    from order_days
    where
        order_date > {{ add_days(
            "cast('" ~ var('built_as_of_date') ~ "' as date)", -value_holdout_days()
        ) }}
        and order_date <= {{ add_days(as_of_date(), -value_holdout_days()) }}
)

select * from final
