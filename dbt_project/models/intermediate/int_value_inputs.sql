{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_value', ['customer_id']) }}",
) }}
{{ after_changed('int_customers_with_changed_value') }}
{% set known_before = add_days(as_of_date(), -value_holdout_days()) -%}
{%- set changed = last_build_of('int_customers_with_changed_value') -%}
{%- set every = '(select * from ' ~ changed -%}
{%- set with_changed_orders = every ~ ' where has_changed_orders) as with_changed_orders' -%}
{%- set with_moved_days = every ~ ' where not has_changed_orders) as with_moved_days' %}

with

order_days as (
    select * from {{ rows_of_changed(
        ref('int_order_days'), with_changed_orders, 'customer_id'
    ) }} as order_days
),

summed as (
    select
        customer_id,
        min(order_date) as first_order_date,
        max(order_date) as last_order_date,
        count(*) as order_days_count,
        sum(orders_count) as orders_count,
        sum(revenue) as revenue,
        cast(
            avg(case when order_day_number > 1 then revenue end) as {{ dbt.type_float() }}
        ) as mean_repeat_order_value,
        max(case when order_date <= {{ known_before }} then order_date end)
            as last_order_date_before,
        min(case when order_date > {{ known_before }} then order_date end)
            as first_order_date_after,
        sum(case when order_date <= {{ known_before }} then 1 else 0 end) as order_days_before
    from order_days
    group by customer_id
),
{%- if adds_to_last_build() %}

moved as (
    select * from {{ with_moved_days }}
),

-- An order day knows how many came before it, so that those need not be read again.
days_in_holdout as (
    select * from {{ look_up(
        '(select * from ' ~ ref('int_order_days') ~ ' where order_date > ' ~ known_before ~ ')',
        with_moved_days,
        'customer_id',
    ) }} as days_in_holdout
),

first_days_in_holdout as (
    select * from days_in_holdout
    where previous_order_date is null or previous_order_date <= {{ known_before }}
),

carried as (
    select
        moved.customer_id,
        moved.first_order_date,
        moved.last_order_date,
        moved.order_days_count,
        moved.orders_count,
        moved.revenue,
        moved.mean_repeat_order_value,
        case
            when first_days.customer_id is null then moved.last_order_date
            else first_days.previous_order_date
        end as last_order_date_before,
        first_days.order_date as first_order_date_after,
        coalesce(first_days.order_day_number - 1, moved.order_days_count) as order_days_before
    from moved
    left join first_days_in_holdout as first_days on moved.customer_id = first_days.customer_id
),

final as (
    select * from summed
    union all
    select * from carried
)
{%- else %}

final as (
    select * from summed
)
{%- endif %}

select * from final
