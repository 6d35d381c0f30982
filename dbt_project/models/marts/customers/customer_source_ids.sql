{{ config(materialized='view') }}

with

identities as (
    select * from {{ ref('int_customer_identities') }}
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(source as {{ dbt.type_string() }}) as source,
        cast(source_record_type as {{ dbt.type_string() }}) as source_record_type,
        cast(source_id as {{ dbt.type_string() }}) as source_id
    from identities
)

select * from final
