with

source as (
    select * from {{ source('files', 'products') }}
),

final as (
    select
        source_name as source,
        cast(product_key as {{ dbt.type_string() }}) as product_key,
        product_name,
        category
    from source
)

select * from final
