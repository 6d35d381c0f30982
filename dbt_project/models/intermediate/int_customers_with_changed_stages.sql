{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- Whose stages may be others: orders changed, or the first day or the signs of interest did, which
    are small enough to be compared every night. -#}

with

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

built as (
    select * from {{ last_build_of('int_lifecycle_inputs_built') }}
),

changed_orders as (
    select * from {{ ref('int_customers_with_changed_orders') }}
),

compared as (
    select
        coalesce(profiles.customer_id, built.customer_id) as customer_id,
        profiles.first_seen_on,
        profiles.signs_checksum,
        profiles.customer_id is null
        or built.customer_id is null
        or profiles.first_seen_on <> built.first_seen_on
        or coalesce(profiles.signs_checksum, '') <> coalesce(built.signs_checksum, '')
            as has_other_inputs
    from profiles
    full outer join built on profiles.customer_id = built.customer_id
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
