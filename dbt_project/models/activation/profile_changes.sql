{{ config(materialized='table') }}

with

desired_profiles as (
    select * from {{ ref('desired_profiles') }}
),

desired_members as (
    select * from {{ ref('desired_members') }}
    where suppressed_because is null
),

membership_changes as (
    select * from {{ ref('membership_changes') }}
),

addresses as (
    select * from {{ ref('address_verdicts') }}
),

delivered_profiles as (
    select * from {{ source('delivery', 'effective_state') }}
    where
        audience = ''
        and destination in {{ sql_texts(var('enabled_destinations')) }}
),

known_contacts as (
    select * from {{ source('delivery', 'known_contacts') }}
),

destinations as (
    select * from {{ source('delivery', 'destinations') }}
),

-- Everybody we may write to: who should have attributes, and who still has some of ours and
-- remains contactable, so that they can be cleared.
people as (
    select
        coalesce(desired_profiles.destination, delivered_profiles.destination) as destination,
        coalesce(desired_profiles.address, delivered_profiles.address) as address,
        coalesce(
            desired_profiles.customer_id, addresses.customer_id, delivered_profiles.customer_id
        ) as customer_id,
        desired_profiles.address is not null as is_desired,
        coalesce(desired_profiles.evidence, addresses.evidence) as evidence,
        desired_profiles.attributes as desired_attributes,
        delivered_profiles.attributes as delivered_attributes,
        delivered_profiles.pending_attributes,
        coalesce(delivered_profiles.in_doubt, false) as is_repeated,
        coalesce(delivered_profiles.rejections, 0) as rejections,
        delivered_profiles.rejected_payload_hash,
        delivered_profiles.rejected_reason,
        delivered_profiles.retry_from_publication_id
    from desired_profiles
    full outer join delivered_profiles
        on
            desired_profiles.destination = delivered_profiles.destination
            and desired_profiles.address = delivered_profiles.address
    left join addresses
        on coalesce(desired_profiles.address, delivered_profiles.address) = addresses.address
    where addresses.is_contactable
),

reachable as (
    select
        people.*,
        known_contacts.vendor_id is null as is_new,
        destinations.max_rejections
    from people
    left join known_contacts
        on
            people.destination = known_contacts.destination
            and people.address = known_contacts.address
    left join destinations on people.destination = destinations.destination
    where
        coalesce(known_contacts.state, 'subscribed') = 'subscribed'
        and (
            known_contacts.vendor_id is not null
            or (
                people.is_desired
                and destinations.creates_contacts
                and people.evidence in ('double', 'single')
            )
        )
),

wanted_values as (
    select
        reachable.destination,
        reachable.address,
        entries.attribute,
        entries.value
    from reachable
    {{ join_json_entries('reachable.desired_attributes', 'entries') }}
),

-- What the tool has, or, where the last attempt is in doubt, may have.
sent_values as (
    select
        reachable.destination,
        reachable.address,
        entries.attribute,
        entries.value
    from reachable
    {{ join_json_entries('reachable.delivered_attributes', 'entries') }}
    union all
    select
        reachable.destination,
        reachable.address,
        entries.attribute,
        cast(null as {{ json_type() }}) as value
    from reachable
    {{ join_json_entries('reachable.pending_attributes', 'entries') }}
    where
        reachable.is_repeated
),

known_values as (
    select
        destination,
        address,
        attribute,
        cast(max(cast(value as {{ dbt.type_string() }})) as {{ json_type() }}) as value
    from sent_values
    group by destination, address, attribute
),

differences as (
    select
        coalesce(wanted_values.destination, known_values.destination) as destination,
        coalesce(wanted_values.address, known_values.address) as address,
        coalesce(wanted_values.attribute, known_values.attribute) as attribute,
        wanted_values.value as wanted_value,
        known_values.value as known_value
    from wanted_values
    full outer join known_values
        on
            wanted_values.destination = known_values.destination
            and wanted_values.address = known_values.address
            and wanted_values.attribute = known_values.attribute
),

changed as (
    select
        reachable.destination,
        reachable.address,
        {{ json_object_of('differences.attribute', 'differences.wanted_value') }} as attributes,
        {{ json_list_of('differences.attribute') }} as changed_fields
    from reachable
    inner join differences
        on
            reachable.destination = differences.destination
            and reachable.address = differences.address
    where
        reachable.is_repeated
        or coalesce(differences.wanted_value, cast('null' as {{ json_type() }}))
        <> coalesce(differences.known_value, cast('null' as {{ json_type() }}))
    group by reachable.destination, reachable.address
),

-- Attributes go only for the sake of an audience that is not held: one that is joined or left now,
-- or one the person is in already.
held_people as (
    select
        destination,
        address
    from membership_changes
    where status = 'held'
    group by destination, address
),

free_people as (
    select
        desired_members.destination,
        desired_members.address
    from desired_members
    left join membership_changes
        on
            desired_members.destination = membership_changes.destination
            and desired_members.audience = membership_changes.audience
            and desired_members.address = membership_changes.address
    where coalesce(membership_changes.status, 'planned') = 'planned'
    group by desired_members.destination, desired_members.address
),

final as (
    select
        reachable.destination,
        reachable.customer_id,
        reachable.address,
        reachable.is_new as may_create,
        cast(
            coalesce(changed.attributes, cast('{}' as {{ json_type() }})) as {{ dbt.type_string() }}
        ) as attributes,
        cast(
            coalesce(changed.changed_fields, cast('[]' as {{ json_type() }}))
            as {{ dbt.type_string() }}
        ) as changed_fields,
        reachable.is_new,
        reachable.is_repeated,
        reachable.rejections,
        reachable.rejected_payload_hash,
        reachable.rejected_reason,
        reachable.retry_from_publication_id,
        reachable.max_rejections,
        held_people.address is not null and free_people.address is null as is_held
    from reachable
    left join changed
        on reachable.destination = changed.destination and reachable.address = changed.address
    left join held_people
        on
            reachable.destination = held_people.destination
            and reachable.address = held_people.address
    left join free_people
        on
            reachable.destination = free_people.destination
            and reachable.address = free_people.address
    -- A new contact is created even without attributes, so that it can join its audiences.
    where changed.address is not null or reachable.is_new
)

select * from final
