with

source as (
    select * from {{ source('woocommerce', 'refunds') }}
),

final as (
    select
        cast(id as {{ dbt.type_string() }}) as refund_key,
        cast(parent_id as {{ dbt.type_string() }}) as order_key,
        date_created_gmt as refunded_at,
        amount as refunded_amount,
        _dlt_load_id as load_id
    from source
)

select * from final
