{{ config(materialized='view') }}

with

schedule as (
    select * from {{ ref('int_lifecycle_schedule') }}
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(previous_stage as {{ dbt.type_string() }}) as from_stage,
        cast(stage as {{ dbt.type_string() }}) as to_stage,
        cast(valid_from as date) as changed_on
    from schedule
    where previous_stage is not null and valid_from <= {{ as_of_date() }}
)

select * from final
