{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_stages', ['customer_id']) }}",
) }}
-- depends_on: {{ ref('int_customers_with_changed_stages') }}

with

final as (
    select * from {{ ref('int_lifecycle_inputs') }} as inputs
    {{- where_changed(
        last_build_of('int_customers_with_changed_stages'), {'customer_id': 'inputs.customer_id'}
    ) }}
)

select * from final
