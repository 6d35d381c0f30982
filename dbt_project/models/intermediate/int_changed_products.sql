{#- Empty in a full build. -#}

with

{% if builds_on_last_build() -%}
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
{%- else -%}
final as (
    {{ empty_relation({'source': dbt.type_string(), 'product_id': dbt.type_string()}) }}
)
{%- endif %}

select * from final
