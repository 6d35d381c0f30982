{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_changed_products', ['source', 'product_id']) }}",
) }}
{{ after_changed('int_changed_products') }}

with

final as (
    select
        products.source,
        products.product_id,
        products.category
    from {{ ref('int_products_unioned') }} as products
    {{ where_changed(
        last_build_of('int_changed_products'),
        {'source': 'products.source', 'product_id': 'products.product_id'},
    ) }}
)

select * from final
