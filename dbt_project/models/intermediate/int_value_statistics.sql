{{ config(materialized='view') }}
{%- set known_before = add_days(as_of_date(), -value_holdout_days()) %}

with

inputs as (
    select * from {{ ref('int_value_inputs') }}
),

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

final as (
    select
        inputs.customer_id,
        cast(inputs.order_days_count - 1 as integer) as repeat_order_days,
        {{ days_between('inputs.first_order_date', 'inputs.last_order_date') }}
            as days_to_last_order,
        {{ days_between('inputs.first_order_date', as_of_date()) }} as days_observed,
        inputs.mean_repeat_order_value,
        case
            when inputs.order_days_before > 0 then cast(inputs.order_days_before - 1 as integer)
        end as calibration_repeat_order_days,
        {{ days_between('inputs.first_order_date', 'inputs.last_order_date_before') }}
            as calibration_days_to_last_order,
        case
            when inputs.order_days_before > 0
                then {{ days_between('inputs.first_order_date', known_before) }}
        end as calibration_days_observed,
        cast(inputs.order_days_count - inputs.order_days_before as integer)
            as holdout_order_days
    from inputs
    inner join profiles on inputs.customer_id = profiles.customer_id
    where not profiles.has_profiling_objection
)

select * from final
