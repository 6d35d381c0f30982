{#- Whose orders changed, or moved from the holdout to what comes before it. Empty in a full
    build. -#}

with

{% if builds_on_last_build() -%}
changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

order_days as (
    select * from {{ ref('int_order_days') }}
),

final as (
    select customer_id from changed_orders
    union
    select customer_id
    from order_days
    where
        order_date > {{ add_days(
            "cast('" ~ var('built_as_of_date') ~ "' as date)", -value_holdout_days()
        ) }}
        and order_date <= {{ add_days(as_of_date(), -value_holdout_days()) }}
)
{%- else -%}
final as (
    {{ empty_relation({'customer_id': dbt.type_string()}) }}
)
{%- endif %}

select * from final
