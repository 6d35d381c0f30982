{{ config(materialized='table') }}
{%- set at_once = var('contact_pressure').get('at_once') %}
{%- set per_week = var('contact_pressure').get('per_week') %}

with

segment_members as (
    select * from {{ ref('segment_members') }}
    where is_contactable and not is_holdout
),

-- The one address of each customer that is sent.
preferred_addresses as (
    select * from {{ ref('contactability') }}
    where channel = 'email' and is_preferred and is_contactable
),

addresses as (
    select * from {{ ref('address_verdicts') }}
),

audiences as (
    {{ configured_audiences() }}
),

contact_segments as (
    {{ contact_segments() }}
),

known_contacts as (
    select * from {{ source('delivery', 'known_contacts') }}
),

destinations as (
    select * from {{ source('delivery', 'destinations') }}
),

delivered_members as (
    select * from {{ source('delivery', 'effective_state') }}
    where
        audience <> ''
        and destination in {{ sql_texts(var('enabled_destinations')) }}
),

ledger as (
    select * from {{ source('delivery', 'ledger') }}
    where state in ('confirmed', 'unknown')
),

rows_under_way as (
    select * from {{ source('delivery', 'rows_under_way') }}
),

publications as (
    select * from {{ source('history', 'publications') }}
),

-- Whoever cannot be sent to any tool of the segment today takes no place from anybody.
reachable as (
    select
        segment_members.customer_id,
        segment_members.segment,
        min(contact_segments.priority) as priority,
        min(contact_segments.position) as position
    from segment_members
    inner join contact_segments on segment_members.segment = contact_segments.segment
    inner join audiences on segment_members.segment = audiences.segment
    inner join preferred_addresses
        on segment_members.customer_id = preferred_addresses.customer_id
    inner join addresses
        on preferred_addresses.address = addresses.address and addresses.is_contactable
    left join destinations on audiences.destination = destinations.destination
    left join known_contacts
        on
            audiences.destination = known_contacts.destination
            and preferred_addresses.address = known_contacts.address
    left join delivered_members
        on
            audiences.destination = delivered_members.destination
            and audiences.audience = delivered_members.audience
            and preferred_addresses.address = delivered_members.address
    where
        1 = {{ 0 if at_once is none and per_week is none else 1 }}
        and coalesce(known_contacts.state, 'subscribed') = 'subscribed'
        and (
            known_contacts.vendor_id is not null
            or (
                coalesce(destinations.creates_contacts, false)
                and preferred_addresses.evidence in ('double', 'single')
            )
        )
        and (
            coalesce(delivered_members.is_member or delivered_members.in_doubt, false)
            or (
                audiences.is_send_window_open
                and coalesce(delivered_members.rejections, 0)
                < coalesce(destinations.max_rejections, 5)
            )
        )
    group by segment_members.customer_id, segment_members.segment
),

-- Who is in an audience now, or may be, as the email tools confirmed it.
already_in as (
    select distinct
        delivered_members.segment,
        coalesce(addresses.customer_id, delivered_members.customer_id) as customer_id
    from delivered_members
    left join addresses on delivered_members.address = addresses.address
    where delivered_members.is_member or delivered_members.in_doubt
),

-- What a tool did or may have done.
attempts as (
    select
        publication_id,
        segment,
        customer_id,
        address,
        operation
    from ledger
    union all
    select
        publication_id,
        segment,
        customer_id,
        address,
        operation
    from rows_under_way
),

-- What became of each customer and segment in each delivery of the last seven days.
lately as (
    select
        attempts.publication_id,
        attempts.segment,
        coalesce(addresses.customer_id, attempts.customer_id) as customer_id,
        {{ any_true("attempts.operation = 'add'") }} as is_added,
        {{ any_true("attempts.operation = 'remove'") }} as is_removed
    from attempts
    inner join contact_segments on attempts.segment = contact_segments.segment
    inner join publications on attempts.publication_id = publications.publication_id
    left join addresses on attempts.address = addresses.address
    where
        publications.as_of_date > {{ add_days(as_of_date(), -7) }}
        and publications.as_of_date <= {{ as_of_date() }}
        and attempts.operation in ('add', 'remove')
    group by
        attempts.publication_id,
        attempts.segment,
        coalesce(addresses.customer_id, attempts.customer_id)
),

followed as (
    select
        *,
        lag(is_added) over (
            partition by segment, customer_id order by publication_id
        ) as was_added
    from lately
),

-- An add that is repeated, and a change of address, are no new entries.
entries as (
    select
        customer_id,
        segment,
        count(*) as entries
    from followed
    where is_added and not is_removed and not coalesce(was_added, false)
    group by customer_id, segment
),

entries_per_customer as (
    select
        customer_id,
        sum(entries) as entries
    from entries
    group by customer_id
),

candidates as (
    select
        reachable.customer_id,
        reachable.segment,
        reachable.priority,
        reachable.position,
        already_in.customer_id is not null as is_already_in,
        coalesce(entries_per_customer.entries, 0) as entries_in_7_days
    from reachable
    left join already_in
        on
            reachable.segment = already_in.segment
            and reachable.customer_id = already_in.customer_id
    left join entries_per_customer
        on reachable.customer_id = entries_per_customer.customer_id
),

-- By priority; of the same priority who is in already, then as the segments stand in the file.
ranked as (
    select
        *,
        row_number() over (
            partition by customer_id
            order by priority, case when is_already_in then 0 else 1 end, position
        ) as contact_rank,
        row_number() over (
            partition by customer_id, is_already_in order by priority, position
        ) as entry_rank
    from candidates
),

-- The week first: whoever may not enter takes no place from those who are in.
entering as (
    select
        *,
        {% if per_week is none -%}
        true
        {%- else -%}
        is_already_in or entries_in_7_days + entry_rank <= {{ per_week }}
        {%- endif %} as is_within_week
    from ranked
),

placed as (
    select
        *,
        row_number() over (
            partition by customer_id, is_within_week order by contact_rank
        ) as place
    from entering
),

decided as (
    select
        *,
        is_within_week {% if at_once is not none %}and place <= {{ at_once }}{% endif %} as is_kept
    from placed
),

-- Which segments hold the places of a customer, and which have used up the week.
occupying as (
    select
        customer_id,
        'contact_pressure_at_once' as reason,
        segment
    from decided
    where is_kept
    union
    select
        customer_id,
        'contact_pressure_per_week' as reason,
        segment
    from decided
    where is_kept and not is_already_in
    union
    select
        customer_id,
        'contact_pressure_per_week' as reason,
        segment
    from entries
),

occupied as (
    select
        customer_id,
        reason,
        {{ comma_separated('segment') }} as segments
    from occupying
    group by customer_id, reason
),

judged as (
    select
        *,
        case
            when is_kept then null
            when is_within_week then 'contact_pressure_at_once'
            else 'contact_pressure_per_week'
        end as reason
    from decided
),

final as (
    select
        judged.customer_id,
        judged.segment,
        judged.priority,
        cast(judged.contact_rank as integer) as contact_rank,
        judged.is_already_in,
        cast(judged.entries_in_7_days as integer) as entries_in_7_days,
        judged.is_kept,
        cast(judged.reason as {{ dbt.type_string() }}) as reason,
        occupied.segments as given_way_to
    from judged
    left join occupied
        on judged.customer_id = occupied.customer_id and judged.reason = occupied.reason
)

select * from final
