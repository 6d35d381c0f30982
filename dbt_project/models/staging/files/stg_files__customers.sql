with

source as (
    select * from {{ source('files', 'customers') }}
),

final as (
    select
        source_name as source,
        cast(customer_key as {{ dbt.type_string() }}) as customer_key,
        email,
        first_name,
        last_name,
        phone,
        country,
        preferred_language,
        acquisition_source,
        created_at,
        phone_e164,
        linked_source,
        linked_customer_key,
        loaded_at
    from source
)

select * from final
