{#- Empty in a full build. -#}

with

{% if builds_on_last_build() -%}
inputs as (
    select * from {{ ref('int_lifecycle_inputs') }}
),

built as (
    select * from {{ last_build_of('int_lifecycle_inputs_built') }}
),

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

changed_inputs as (
    select coalesce(inputs.customer_id, built.customer_id) as customer_id
    from inputs
    full outer join built on inputs.customer_id = built.customer_id
    where
        inputs.customer_id is null
        or built.customer_id is null
        or inputs.first_seen_on <> built.first_seen_on
        or coalesce(inputs.signs, '') <> coalesce(built.signs, '')
),

final as (
    select customer_id from changed_inputs
    union
    select customer_id from changed_orders
)
{%- else -%}
final as (
    {{ empty_relation({'customer_id': dbt.type_string()}) }}
)
{%- endif %}

select * from final
