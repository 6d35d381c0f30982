{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_stages', ['customer_id']) }}",
) }}
{{ after_changed('int_customers_with_changed_stages') }}
-- depends_on: {{ ref('int_customer_profiles') }}

with

final as (
    {%- if adds_to_last_build() %}
    select
        customer_id,
        first_seen_on,
        signs_checksum
    from {{ ref('int_customers_with_changed_stages') }}
    where first_seen_on is not null
    {%- else %}
    select
        customer_id,
        first_seen_on,
        signs_checksum
    from {{ ref('int_customer_profiles') }}
    {%- endif %}
)

select * from final
