with

statistics as (
    select * from {{ ref('int_value_statistics') }}
),

scores as (
    select * from {{ source('predictions', 'order_scores') }}
    where as_of_date = {{ as_of_date() }}
),

parameters as (
    select * from {{ source('predictions', 'parameters') }}
    where as_of_date = {{ as_of_date() }}
),

scored as (
    select
        statistics.customer_id,
        scores.p_alive,
        scores.expected_orders_90d,
        scores.expected_orders_365d,
        scores.expected_next_order_days,
        -- Gamma-Gamma, equation 5 (brucehardie.com/notes/025): the mean of all and the customer's
        -- own, weighted by what is known of either.
        parameters.order_value_p
        * (
            parameters.order_value_v
            + statistics.repeat_order_days * coalesce(statistics.mean_repeat_order_value, 0)
        )
        / (parameters.order_value_p * statistics.repeat_order_days + parameters.order_value_q - 1)
            as expected_order_value
    from statistics
    inner join scores
        on
            statistics.repeat_order_days = scores.repeat_order_days
            and statistics.days_to_last_order = scores.days_to_last_order
            and statistics.days_observed = scores.days_observed
    cross join parameters
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        {{ as_of_date() }} as as_of_date,
        cast(p_alive as {{ dbt.type_float() }}) as p_alive,
        cast(expected_orders_90d as {{ dbt.type_float() }}) as expected_orders_90d,
        cast(expected_orders_365d as {{ dbt.type_float() }}) as expected_orders_365d,
        {{ amount_of_float('expected_order_value') }} as expected_order_value,
        {{ amount_of_float('expected_orders_90d * expected_order_value') }} as clv_90d,
        {{ amount_of_float('expected_orders_365d * expected_order_value') }} as clv_365d,
        cast({{ add_days(as_of_date(), 'expected_next_order_days') }} as date)
            as expected_next_order_date
    from scored
)

select * from final
