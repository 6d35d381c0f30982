with

source as (
    select * from {{ source('files', 'orders') }}
),

final as (
    select
        source_name as source,
        cast(order_key as {{ dbt.type_string() }}) as order_key,
        cast(customer_key as {{ dbt.type_string() }}) as customer_key,
        email,
        ordered_at,
        lower(status) as status,
        upper(currency) as currency,
        total_amount,
        discount_amount,
        delivered_at,
        cast(refunds_order_key as {{ dbt.type_string() }}) as refunds_order_key,
        loaded_at
    from source
)

select * from final
