{{ config(materialized='view') }}

with

schedule as (
    select * from {{ ref('int_lifecycle_schedule') }}
),

buyers as (
    select
        customer_id,
        first_order_date
    from {{ ref('int_value_inputs') }}
),

final as (
    select
        cast(schedule.customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(schedule.previous_stage as {{ dbt.type_string() }}) as from_stage,
        cast(schedule.stage as {{ dbt.type_string() }}) as to_stage,
        cast(schedule.valid_from as date) as changed_on,
        {{ first_of_month('buyers.first_order_date') }} as cohort_month
    from schedule
    left join buyers on schedule.customer_id = buyers.customer_id
    where schedule.previous_stage is not null and schedule.valid_from <= {{ as_of_date() }}
)

select * from final
