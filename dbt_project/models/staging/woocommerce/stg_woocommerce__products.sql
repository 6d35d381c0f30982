with

source as (
    select * from {{ source('woocommerce', 'products') }}
),

final as (
    select
        cast(id as {{ dbt.type_string() }}) as product_key,
        name as product_name,
        sku,
        status,
        price,
        category_name as category
    from source
)

select * from final
