{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- Whoever had, or has now, an order that was built anew. -#}

with

recomputed as (
    select * from {{ ref('int_recomputed_orders') }}
),

orders as (
    select * from {{ ref('int_orders') }}
),

final as (
    select built_customer_id as customer_id
    from recomputed
    where built_customer_id is not null
    union
    select orders.customer_id
    from orders
    inner join recomputed
        on orders.source = recomputed.source and orders.order_id = recomputed.order_id
    where orders.customer_id is not null
)

select * from final
