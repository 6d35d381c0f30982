{{ config(materialized='view') }}
{%- set known_before = add_days(as_of_date(), -value_holdout_days()) %}

with

inputs as (
    select * from {{ ref('int_value_inputs') }}
),

divided as (
    select
        *,
        {{ dates_after('recent_order_dates', known_before) }} as holdout_order_days,
        {{ last_date_until('recent_order_dates', known_before) }} as last_order_date_before
    from inputs
),

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

final as (
    select
        divided.customer_id,
        cast(divided.order_days_count - 1 as integer) as repeat_order_days,
        {{ days_between('divided.first_order_date', 'divided.last_order_date') }}
            as days_to_last_order,
        {{ days_between('divided.first_order_date', as_of_date()) }} as days_observed,
        divided.mean_repeat_order_value,
        case
            when divided.last_order_date_before is not null
                then cast(divided.order_days_count - divided.holdout_order_days - 1 as integer)
        end as calibration_repeat_order_days,
        {{ days_between('divided.first_order_date', 'divided.last_order_date_before') }}
            as calibration_days_to_last_order,
        case
            when divided.last_order_date_before is not null
                then {{ days_between('divided.first_order_date', known_before) }}
        end as calibration_days_observed,
        cast(divided.holdout_order_days as integer) as holdout_order_days
    from divided
    inner join profiles on divided.customer_id = profiles.customer_id
    where not profiles.has_profiling_objection
)

select * from final
