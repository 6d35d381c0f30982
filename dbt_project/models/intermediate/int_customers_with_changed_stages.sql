{{ config(enabled=var('built_as_of_date', none) is not none) }}

with

inputs as (
    select * from {{ ref('int_lifecycle_inputs') }}
),

built as (
    select * from {{ last_build_of('int_lifecycle_inputs_built') }}
),

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

compared as (
    select
        coalesce(inputs.customer_id, built.customer_id) as customer_id,
        inputs.first_seen_on,
        inputs.signs_checksum,
        inputs.customer_id is null
        or built.customer_id is null
        or inputs.first_seen_on <> built.first_seen_on
        or coalesce(inputs.signs_checksum, '') <> coalesce(built.signs_checksum, '')
            as has_other_inputs
    from inputs
    full outer join built on inputs.customer_id = built.customer_id
),

final as (
    select
        coalesce(compared.customer_id, changed_orders.customer_id) as customer_id,
        compared.first_seen_on,
        compared.signs_checksum
    from compared
    full outer join changed_orders on compared.customer_id = changed_orders.customer_id
    where
        compared.has_other_inputs
        or changed_orders.customer_id is not null
)

select * from final
