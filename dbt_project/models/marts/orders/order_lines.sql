{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    indexes=[{'columns': ['order_id']}],
    pre_hook="{{ forget_changed(
        'int_recomputed_orders', ['source', 'order_id'], 'order_id'
    ) }}",
) }}
{{ after_changed('int_recomputed_orders') }}

with

lines as (
    select * from {{ rows_of_changed(
        ref('int_order_lines_unioned'), last_build_of('int_recomputed_orders'), 'order_id'
    ) }} as lines
    {{ where_changed(
        last_build_of('int_recomputed_orders'),
        {'source': 'lines.source', 'order_id': 'lines.order_id'},
    ) }}
),

orders as (
    select * from {{ ref('int_orders') }}
),

final as (
    select
        cast(lines.source as {{ dbt.type_string() }}) as source,
        cast(lines.order_id as {{ dbt.type_string() }}) as order_id,
        cast(lines.line_number as bigint) as line_number,
        cast(lines.product_id as {{ dbt.type_string() }}) as product_id,
        cast(lines.product_name as {{ dbt.type_string() }}) as product_name,
        cast(lines.quantity as numeric(18, 4)) as quantity,
        cast(lines.line_amount * orders.exchange_rate as numeric(18, 4)) as line_amount
    from lines
    -- Lines of orders that were rejected or lie after the as-of day stay out, as their orders do.
    inner join orders
        on lines.source = orders.source and lines.order_id = orders.order_id
)

select * from final
