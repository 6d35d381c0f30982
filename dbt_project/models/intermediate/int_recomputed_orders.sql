{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- An order is priced and judged anew when it changed or when its buyer became somebody else. -#}

with

changed_orders as (
    select * from {{ ref('int_changed_orders') }}
),

affected as (
    select * from {{ ref('int_affected_records') }}
),

identities as (
    select * from {{ ref('int_customer_identities') }}
),

orders as (
    select * from {{ ref('int_orders_unioned') }}
),

-- A record that is new, or gone, has no orders but changed ones: each order has had its record.
moved as (
    select
        affected.source,
        affected.source_record_type,
        affected.source_id
    from affected
    inner join identities
        on
            affected.source = identities.source
            and affected.source_record_type = identities.source_record_type
            and affected.source_id = identities.source_id
    where affected.built_customer_id <> identities.customer_id
),

recomputed as (
    select
        source,
        order_id
    from changed_orders
    union
    select
        orders.source,
        orders.order_id
    from orders
    inner join moved
        on
            orders.source = moved.source
            and orders.source_record_type = moved.source_record_type
            and orders.source_id = moved.source_id
    where {{ is_one_of('orders.source_id', 'select others.source_id from moved as others') }}
),

built as (
    select
        source,
        order_id,
        customer_id
    from {{ last_build_of('int_orders') }}
    where {{ is_one_of('order_id', 'select order_id from recomputed') }}
),

final as (
    select
        recomputed.source,
        recomputed.order_id,
        built.customer_id as built_customer_id
    from recomputed
    left join built
        on recomputed.source = built.source and recomputed.order_id = built.order_id
)

select * from final
