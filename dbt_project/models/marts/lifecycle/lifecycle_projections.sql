{{ config(materialized='view') }}

with

schedule as (
    select * from {{ ref('int_lifecycle_schedule') }}
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(stage as {{ dbt.type_string() }}) as stage,
        cast(valid_from as date) as from_date
    from schedule
    where valid_from > {{ as_of_date() }}
)

select * from final
