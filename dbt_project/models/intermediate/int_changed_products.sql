{{ config(enabled=var('built_as_of_date', none) is not none) }}

with

products as (
    select * from {{ ref('int_products_unioned') }}
),

built as (
    select * from {{ last_build_of('int_products_built') }}
),

final as (
    select
        coalesce(products.source, built.source) as source,
        coalesce(products.product_id, built.product_id) as product_id
    from products
    full outer join built
        on products.source = built.source and products.product_id = built.product_id
    where
        products.product_id is null
        or built.product_id is null
        or coalesce(products.category, '') <> coalesce(built.category, '')
)

select * from final
