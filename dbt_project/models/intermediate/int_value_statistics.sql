{#- The last days, which the second fit of the task `predict` does not see and is measured by. -#}
{%- set holdout_days = 90 -%}
{%- set known_before = add_days(as_of_date(), -holdout_days) -%}

with

order_days as (
    select * from {{ ref('int_order_days') }}
),

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

summed as (
    select
        order_days.customer_id,
        min(order_days.order_date) as first_order_date,
        max(order_days.order_date) as last_order_date,
        count(*) as order_days_count,
        cast(
            avg(case when order_days.order_day_number > 1 then order_days.revenue end)
            as numeric(24, 10)
        ) as mean_repeat_order_value,
        max(case when order_days.order_date <= {{ known_before }} then order_days.order_date end)
            as last_order_date_before,
        sum(case when order_days.order_date <= {{ known_before }} then 1 else 0 end)
            as order_days_before
    from order_days
    inner join profiles on order_days.customer_id = profiles.customer_id
    where not profiles.has_profiling_objection
    group by order_days.customer_id
),

final as (
    select
        customer_id,
        cast(order_days_count - 1 as integer) as repeat_order_days,
        {{ days_between('first_order_date', 'last_order_date') }} as days_to_last_order,
        {{ days_between('first_order_date', as_of_date()) }} as days_observed,
        mean_repeat_order_value,
        case when order_days_before > 0 then cast(order_days_before - 1 as integer) end
            as calibration_repeat_order_days,
        {{ days_between('first_order_date', 'last_order_date_before') }}
            as calibration_days_to_last_order,
        case
            when order_days_before > 0
                then {{ days_between('first_order_date', known_before) }}
        end as calibration_days_observed,
        cast(order_days_count - order_days_before as integer) as holdout_order_days
    from summed
)

select * from final
