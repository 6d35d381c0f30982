with

source as (
    select * from {{ source('woocommerce', 'customers') }}
),

final as (
    select
        cast(id as {{ dbt.type_string() }}) as customer_key,
        email,
        first_name,
        last_name,
        role,
        billing_country as country,
        billing_phone as phone,
        lower(newsletter_opt_in) as newsletter_opt_in,
        newsletter_opt_in_at,
        date_created_gmt as created_at,
        date_modified_gmt as modified_at,
        phone_e164,
        _dlt_load_id as load_id
    from source
)

select * from final
