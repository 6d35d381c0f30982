{{ config(materialized='view') }}

with

schedule as (
    select * from {{ ref('int_lifecycle_schedule') }}
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(stage as {{ dbt.type_string() }}) as stage,
        cast(valid_from as date) as valid_from,
        cast(case when valid_to <= {{ as_of_date() }} then valid_to end as date) as valid_to,
        cast(entered_because as {{ dbt.type_string() }}) as entered_because
    from schedule
    where valid_from <= {{ as_of_date() }}
)

select * from final
