with

source as (
    select * from {{ source('woocommerce', 'orders') }}
),

final as (
    select
        cast(id as {{ dbt.type_string() }}) as order_key,
        lower(status) as status,
        upper(currency) as currency,
        date_created_gmt as ordered_at,
        date_modified_gmt as modified_at,
        total as total_amount,
        total_tax as tax_amount,
        shipping_total as shipping_amount,
        shipping_tax as shipping_tax_amount,
        discount_total as discount_without_tax,
        discount_tax as discount_tax_amount,
        date_completed_gmt as completed_at,
        cast(nullif(customer_id, 0) as {{ dbt.type_string() }}) as customer_key,
        billing_email as email,
        billing_first_name as first_name,
        billing_last_name as last_name,
        billing_country as country,
        lower(payment_method) as payment_method,
        created_via,
        lower(newsletter_opt_in) as newsletter_opt_in,
        exchange_rate,
        _dlt_id as order_row_id,
        phone_e164,
        _dlt_load_id as load_id
    from source
)

select * from final
