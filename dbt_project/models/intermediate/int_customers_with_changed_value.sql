{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- Whose orders changed, or moved from the holdout to what comes before it. -#}

with

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

built as (
    select * from {{ last_build_of('int_value_inputs') }}
),

final as (
    select customer_id from changed_orders
    union
    select customer_id from built
    where first_order_date_after <= {{ add_days(as_of_date(), -value_holdout_days()) }}
)

select * from final
