with

listed as (
    select * from {{ ref('int_products_unioned') }}
),

order_lines as (
    select * from {{ ref('order_lines') }}
),

sold as (
    select
        source,
        product_id,
        max(product_name) as product_name
    from order_lines
    where product_id is not null
    group by source, product_id
),

final as (
    select
        cast(coalesce(listed.source, sold.source) as {{ dbt.type_string() }}) as source,
        cast(coalesce(listed.product_id, sold.product_id) as {{ dbt.type_string() }}) as product_id,
        cast(coalesce(listed.product_name, sold.product_name) as {{ dbt.type_string() }})
            as product_name,
        cast(listed.sku as {{ dbt.type_string() }}) as sku,
        cast(listed.category as {{ dbt.type_string() }}) as category,
        cast(listed.price as numeric(18, 4)) as price
    from listed
    -- Shops delete products that they have sold.
    full outer join sold
        on listed.source = sold.source and listed.product_id = sold.product_id
)

select * from final
