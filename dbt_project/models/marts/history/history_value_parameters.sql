{{ config(tags=['segment']) }}

with

parameters as (
    select * from {{ source('predictions', 'parameters') }}
),

final as (
    select
        as_of_date,
        buyers,
        repeat_buyers,
        orders_outcome,
        orders_reason,
        orders_parameters_of,
        orders_r,
        orders_alpha_days,
        orders_a,
        orders_b,
        orders_log_likelihood,
        order_value_outcome,
        order_value_reason,
        order_value_parameters_of,
        order_value_p,
        order_value_q,
        order_value_v,
        order_value_log_likelihood,
        holdout_days,
        holdout_customers,
        holdout_orders,
        holdout_orders_expected,
        holdout_by_repeat_orders
    from parameters
    where as_of_date = {{ as_of_date() }}
)

select * from final
