{{ config(materialized='table') }}

with

plan_rows as (
    select * from {{ ref('plan_rows') }}
    where publication_id = {{ planned_publication_id() }} and status = 'held'
),

memberships as (
    select
        plan_row_id,
        publication_id,
        destination,
        address,
        audience,
        segment,
        operation,
        status_reason as held_because,
        payload_hash
    from plan_rows
    where audience is not null
),

-- A contact's attributes wait for every held audience that the contact joins or leaves.
profiles as (
    select
        plan_rows.plan_row_id,
        plan_rows.publication_id,
        plan_rows.destination,
        plan_rows.address,
        memberships.audience,
        memberships.segment,
        plan_rows.operation,
        memberships.held_because,
        plan_rows.payload_hash
    from plan_rows
    inner join memberships
        on
            plan_rows.destination = memberships.destination
            and plan_rows.address = memberships.address
    where plan_rows.audience is null
),

held as (
    select * from memberships
    union all
    select * from profiles
),

final as (
    select
        plan_row_id,
        publication_id,
        destination,
        audience,
        segment,
        operation,
        held_because,
        payload_hash
    from held
)

select * from final
