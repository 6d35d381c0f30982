{{ config(materialized='table') }}

{%- set rejected = "coalesce(rejected_reason, 'rejected')" %}

with

desired_members as (
    select * from {{ ref('desired_members') }}
),

squeezed_out as (
    select * from desired_members
    where suppressed_because in ('contact_pressure_at_once', 'contact_pressure_per_week')
),

segment_members as (
    select * from {{ ref('segment_members') }}
),

addresses as (
    select * from {{ ref('address_verdicts') }}
),

delivered_members as (
    select * from {{ source('delivery', 'effective_state') }}
    where
        audience <> ''
        and destination in {{ sql_texts(var('enabled_destinations')) }}
),

known_contacts as (
    select * from {{ source('delivery', 'known_contacts') }}
),

destinations as (
    select * from {{ source('delivery', 'destinations') }}
),

synced_audiences as (
    select * from {{ source('delivery', 'audiences') }}
    where first_synced_publication_id is not null
),

configured_audiences as (
    {{ configured_audiences() }}
),

-- Everybody who should be in, with what stands against it today.
joining as (
    select
        desired_members.destination,
        desired_members.audience,
        desired_members.segment,
        desired_members.customer_id,
        'add' as operation,
        desired_members.address,
        coalesce(delivered_members.in_doubt, false) as is_repeated,
        coalesce(delivered_members.is_member, false) as is_member,
        coalesce(desired_members.evidence, 'none') in ('double', 'single')
        and coalesce(destinations.creates_contacts, false) as may_create,
        coalesce(
            desired_members.suppressed_because,
            case
                when not addresses.is_contactable then coalesce(addresses.reason, 'not_contactable')
                when known_contacts.state <> 'subscribed'
                    then {{ dbt.concat(["'tool_'", 'known_contacts.state']) }}
            end
        ) as suppressed_because,
        known_contacts.vendor_id is not null as is_in_tool,
        coalesce(delivered_members.rejections, 0) as rejections,
        delivered_members.retry_from_publication_id,
        delivered_members.rejected_reason,
        destinations.max_rejections,
        'entered_segment' as reason
    from desired_members
    left join delivered_members
        on
            desired_members.destination = delivered_members.destination
            and desired_members.audience = delivered_members.audience
            and desired_members.address = delivered_members.address
    left join known_contacts
        on
            desired_members.destination = known_contacts.destination
            and desired_members.address = known_contacts.address
    left join addresses on desired_members.address = addresses.address
    left join destinations on desired_members.destination = destinations.destination
),

-- Members that we delivered and that should no longer be in. Nobody else is ever removed.
leaving as (
    select
        delivered_members.destination,
        delivered_members.audience,
        delivered_members.segment,
        coalesce(addresses.customer_id, delivered_members.customer_id) as customer_id,
        'remove' as operation,
        delivered_members.address,
        delivered_members.in_doubt as is_repeated,
        delivered_members.is_member,
        false as may_create,
        cast(null as {{ dbt.type_string() }}) as suppressed_because,
        true as is_in_tool,
        delivered_members.rejections,
        delivered_members.retry_from_publication_id,
        delivered_members.rejected_reason,
        destinations.max_rejections,
        case
            when addresses.address is null then 'unknown_address'
            when not addresses.is_contactable
                then coalesce(addresses.reason, 'not_contactable')
            when configured_audiences.audience is null then 'segment_removed'
            when segment_members.customer_id is null then 'left_segment'
            when segment_members.is_holdout then 'holdout'
            when squeezed_out.customer_id is not null then squeezed_out.suppressed_because
            else 'address_changed'
        end as reason,
        coalesce(addresses.is_contactable, false) as is_contactable
    from delivered_members
    left join desired_members
        on
            delivered_members.destination = desired_members.destination
            and delivered_members.audience = desired_members.audience
            and delivered_members.address = desired_members.address
    left join addresses on delivered_members.address = addresses.address
    left join configured_audiences
        on
            delivered_members.destination = configured_audiences.destination
            and delivered_members.audience = configured_audiences.audience
            and delivered_members.segment = configured_audiences.segment
    left join segment_members
        on
            delivered_members.segment = segment_members.segment
            and coalesce(addresses.customer_id, delivered_members.customer_id)
            = segment_members.customer_id
    left join squeezed_out
        on
            delivered_members.destination = squeezed_out.destination
            and delivered_members.audience = squeezed_out.audience
            and delivered_members.segment = squeezed_out.segment
            and coalesce(addresses.customer_id, delivered_members.customer_id)
            = squeezed_out.customer_id
    left join destinations on delivered_members.destination = destinations.destination
    where
        (delivered_members.is_member or delivered_members.in_doubt)
        and desired_members.address is null
),

-- is_free: never held, because it was decided before (a repeat) or because consent is gone.
-- must_leave: consent is gone, so however often the tool refuses, the next plan tries again.
changes as (
    select
        destination,
        audience,
        segment,
        customer_id,
        operation,
        address,
        is_repeated,
        is_member,
        may_create,
        suppressed_because,
        is_in_tool,
        rejections,
        retry_from_publication_id,
        rejected_reason,
        max_rejections,
        reason,
        is_repeated as is_free,
        false as must_leave
    from joining
    where suppressed_because is not null or is_repeated or not is_member
    union all
    select
        destination,
        audience,
        segment,
        customer_id,
        operation,
        address,
        is_repeated,
        is_member,
        may_create,
        suppressed_because,
        is_in_tool,
        rejections,
        retry_from_publication_id,
        rejected_reason,
        max_rejections,
        reason,
        is_repeated or not is_contactable as is_free,
        not is_contactable as must_leave
    from leaving
),

judged as (
    select
        *,
        case
            when suppressed_because is not null then 'suppressed'
            when must_leave then 'planned'
            when not is_in_tool and not may_create then 'skipped'
            when rejections >= coalesce(max_rejections, 5) then 'skipped'
            when retry_from_publication_id > {{ planned_publication_id() }} then 'skipped'
            else 'planned'
        end as status,
        case
            when suppressed_because is not null then suppressed_because
            when must_leave then reason
            when not is_in_tool and not may_create then 'not_in_tool'
            when rejections >= coalesce(max_rejections, 5)
                then {{ dbt.concat(["'parked: '", rejected]) }}
            when retry_from_publication_id > {{ planned_publication_id() }}
                then {{ dbt.concat(["'waits_for_retry: '", rejected]) }}
            else reason
        end as status_reason
    from changes
),

-- The size guard looks at whole audiences.
sizes as (
    select
        destination,
        audience,
        count(*) as members
    from delivered_members
    where is_member
    group by destination, audience
),

deliverable_sizes as (
    select
        destination,
        audience,
        count(*) as deliverable
    from joining
    where suppressed_because is null and (is_in_tool or may_create)
    group by destination, audience
),

moving as (
    select
        destination,
        audience,
        count(*) as changed
    from judged
    where status = 'planned' and not is_free
    group by destination, audience
),

guarded as (
    select
        moving.destination,
        moving.audience,
        case
            {%- if not var('segments') %}
            -- No segment at all is a missing file more likely than a wish.
            when true then 'no_segments_configured'
            {%- endif %}
            when configured_audiences.audience is null then null
            when
                synced_audiences.audience is null and configured_audiences.initial_sync = 'hold'
                then 'initial'
            when coalesce(deliverable_sizes.deliverable, 0) < configured_audiences.min_size
                then 'below_min_size'
            when
                synced_audiences.audience is not null
                and moving.changed > {{ var('size_guard_free_changes', 10) }}
                and 100.0 * moving.changed
                > configured_audiences.max_change_percent * greatest(coalesce(sizes.members, 0), 1)
                then 'change_above_limit'
        end as held_because
    from moving
    left join configured_audiences
        on
            moving.destination = configured_audiences.destination
            and moving.audience = configured_audiences.audience
    left join synced_audiences
        on
            moving.destination = synced_audiences.destination
            and moving.audience = synced_audiences.audience
    left join sizes
        on moving.destination = sizes.destination and moving.audience = sizes.audience
    left join deliverable_sizes
        on
            moving.destination = deliverable_sizes.destination
            and moving.audience = deliverable_sizes.audience
),

final as (
    select
        judged.destination,
        judged.audience,
        judged.segment,
        judged.customer_id,
        judged.operation,
        judged.address,
        judged.may_create,
        case
            when
                judged.status = 'planned' and not judged.is_free
                and guarded.held_because is not null then 'held'
            else judged.status
        end as status,
        case
            when judged.status = 'planned' and not judged.is_free
                then coalesce(guarded.held_because, judged.status_reason)
            when judged.status = 'planned' and judged.is_repeated
                then {{ dbt.concat(["'repeated: '", 'judged.status_reason']) }}
            else judged.status_reason
        end as status_reason
    from judged
    left join guarded
        on judged.destination = guarded.destination and judged.audience = guarded.audience
)

select * from final
