{{ config(indexes=[{'columns': ['address']}]) }}

with

verdicts as (
    select * from {{ ref('int_contactability') }}
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(channel as {{ dbt.type_string() }}) as channel,
        cast(address as {{ dbt.type_string() }}) as address,
        cast(is_contactable as boolean) as is_contactable,
        cast(reason as {{ dbt.type_string() }}) as reason,
        cast(evidence as {{ dbt.type_string() }}) as evidence,
        cast(evidence_at as timestamp with time zone) as evidence_at,
        cast(is_preferred as boolean) as is_preferred
    from verdicts
)

select * from final
