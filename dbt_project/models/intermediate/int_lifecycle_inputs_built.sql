{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_stages', ['customer_id']) }}",
) }}
{{ after_changed('int_customers_with_changed_stages') }}
-- depends_on: {{ ref('int_lifecycle_inputs') }}

with

final as (
    {%- if builds_on_last_build() and is_incremental() %}
    select
        customer_id,
        first_seen_on,
        signs
    from {{ ref('int_customers_with_changed_stages') }}
    where first_seen_on is not null
    {%- else %}
    select
        customer_id,
        first_seen_on,
        signs
    from {{ ref('int_lifecycle_inputs') }}
    {%- endif %}
)

select * from final
