with

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(first_seen_on as date) as first_seen_on,
        cast(acquisition_source as {{ dbt.type_string() }}) as acquisition_source,
        cast(preferred_language as {{ dbt.type_string() }}) as preferred_language,
        cast(country as {{ dbt.type_string() }}) as country,
        cast(email as {{ dbt.type_string() }}) as email,
        cast(first_name as {{ dbt.type_string() }}) as first_name,
        cast(last_name as {{ dbt.type_string() }}) as last_name,
        cast(birthday as date) as birthday,
        cast(has_profiling_objection as boolean) as has_profiling_objection,
        cast(is_minor as boolean) as is_minor
    from profiles
)

select * from final
