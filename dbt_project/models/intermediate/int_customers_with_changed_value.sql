{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- Whose orders changed, or moved from the holdout to what comes before it. Of the latter all else
    stays as it was built. -#}

with

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

built as (
    select * from {{ last_build_of('int_value_inputs') }}
),

moved as (
    select built.*
    from built
    left join changed_orders on built.customer_id = changed_orders.customer_id
    where
        built.first_order_date_after <= {{ add_days(as_of_date(), -value_holdout_days()) }}
        and changed_orders.customer_id is null
),

final as (
    select
        coalesce(changed_orders.customer_id, moved.customer_id) as customer_id,
        changed_orders.customer_id is not null as has_changed_orders,
        moved.first_order_date,
        moved.last_order_date,
        moved.order_days_count,
        moved.orders_count,
        moved.revenue,
        moved.mean_repeat_order_value
    from changed_orders
    full outer join moved on changed_orders.customer_id = moved.customer_id
)

select * from final
