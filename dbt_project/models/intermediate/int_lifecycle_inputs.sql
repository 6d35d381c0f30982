{{ config(materialized='view') }}
{#- What the schedule of stages stands on besides orders, small enough to be compared every
    night. -#}

with

profiles as (
    select * from {{ ref('int_customer_profiles') }}
),

signs as (
    select * from {{ ref('int_interest_signs') }}
),

signs_of_customers as (
    select
        customer_id,
        {{ checksum("cast(sign_on as " ~ dbt.type_string() ~ ") || ' ' || sign") }}
            as signs_checksum
    from signs
    group by customer_id
),

final as (
    select
        profiles.customer_id,
        profiles.first_seen_on,
        signs_of_customers.signs_checksum
    from profiles
    left join signs_of_customers on profiles.customer_id = signs_of_customers.customer_id
)

select * from final
