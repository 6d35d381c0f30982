{{ config(materialized='view') }}
{%- set columns = {
    'source': dbt.type_string(),
    'product_id': dbt.type_string(),
    'product_name': dbt.type_string(),
    'sku': dbt.type_string(),
    'category': dbt.type_string(),
    'price': 'numeric(18,4)',
} -%}
{%- set files -%}
    select
        source,
        product_key as product_id,
        max(product_name) as product_name,
        null as sku,
        max(category) as category,
        null as price
    from {{ ref('stg_files__products') if source_is_enabled('files') }}
    where product_key is not null
    group by source, product_key
{%- endset -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        product_key as product_id,
        product_name,
        sku,
        category,
        price
    from {{ ref('stg_woocommerce__products') if source_is_enabled('woocommerce') }}
{%- endset -%}

with

final as (
    {{ union_of_enabled_sources({'files': files, 'woocommerce': woocommerce}, columns) }}
)

select * from final
