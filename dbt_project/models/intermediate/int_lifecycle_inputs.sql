{{ config(materialized='view') }}
{#- What the schedule of stages stands on besides orders, small enough to be compared every
    night. -#}

with

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

final as (
    select
        customer_id,
        first_seen_on,
        signs_checksum
    from profiles
)

select * from final
