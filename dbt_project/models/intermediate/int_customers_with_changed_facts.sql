{{ config(enabled=var('built_as_of_date', none) is not none) }}

with

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

changed_products as (
    select * from {{ ref('int_changed_products') }}
),

lines as (
    select * from {{ ref('int_order_lines_unioned') }}
),

orders as (
    select * from {{ ref('int_orders') }}
),

of_changed_products as (
    select distinct
        lines.source,
        lines.order_id
    from lines
    inner join changed_products
        on
            lines.source = changed_products.source
            and lines.product_id = changed_products.product_id
),

final as (
    select customer_id from changed_orders
    union
    select orders.customer_id
    from orders
    inner join of_changed_products
        on
            orders.source = of_changed_products.source
            and orders.order_id = of_changed_products.order_id
    where
        orders.customer_id is not null
        and {{ is_one_of(
            'orders.order_id', 'select changed.order_id from of_changed_products as changed'
        ) }}
)

select * from final
