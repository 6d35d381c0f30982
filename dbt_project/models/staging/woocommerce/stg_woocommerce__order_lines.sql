with

source as (
    select * from {{ source('woocommerce', 'orders__line_items') }}
),

final as (
    select
        _dlt_parent_id as order_row_id,
        _dlt_list_idx + 1 as line_number,
        cast(nullif(product_id, 0) as {{ dbt.type_string() }}) as product_key,
        name as product_name,
        sku,
        quantity,
        total as amount_without_tax,
        total_tax as tax_amount
    from source
)

select * from final
