{{ config(materialized='table') }}

with

segment_members as (
    select * from {{ ref('segment_members') }}
),

-- The one address of each customer that is sent.
preferred_addresses as (
    select * from {{ ref('contactability') }}
    where channel = 'email' and is_preferred
),

contact_pressure as (
    select * from {{ ref('contact_pressure') }}
    where not is_kept
),

delivered_members as (
    select * from {{ source('delivery', 'effective_state') }}
),

audiences as (
    {{ configured_audiences() }}
),

candidates as (
    select
        audiences.destination,
        audiences.audience,
        audiences.segment,
        audiences.priority,
        segment_members.customer_id,
        preferred_addresses.address,
        preferred_addresses.evidence,
        case
            when not segment_members.is_contactable
                then coalesce(segment_members.not_contactable_because, 'not_contactable')
            when coalesce(preferred_addresses.is_contactable, false) = false
                then coalesce(preferred_addresses.reason, 'no_contactable_address')
            when segment_members.is_holdout then 'holdout'
            when contact_pressure.reason is not null then contact_pressure.reason
            -- Who is in stays in; who is not, waits for the day.
            when
                not audiences.is_send_window_open
                and not coalesce(delivered_members.is_member or delivered_members.in_doubt, false)
                then 'waits_for_send_window'
        end as suppressed_because
    from segment_members
    inner join audiences on segment_members.segment = audiences.segment
    left join preferred_addresses
        on segment_members.customer_id = preferred_addresses.customer_id
    left join contact_pressure
        on
            segment_members.customer_id = contact_pressure.customer_id
            and segment_members.segment = contact_pressure.segment
    left join delivered_members
        on
            audiences.destination = delivered_members.destination
            and audiences.audience = delivered_members.audience
            and preferred_addresses.address = delivered_members.address
),

ranked as (
    select
        *,
        row_number() over (
            partition by
                destination,
                audience,
                suppressed_because is null,
                case when suppressed_because is null then address else customer_id end
            order by priority, segment, customer_id
        ) as precedence
    from candidates
),

final as (
    select
        destination,
        audience,
        segment,
        customer_id,
        case when suppressed_because is null then address end as address,
        evidence,
        suppressed_because
    from ranked
    where precedence = 1
)

select * from final
