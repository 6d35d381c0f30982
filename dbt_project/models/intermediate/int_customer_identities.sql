{{ config(
    materialized='incremental',
    incremental_strategy='append',
    unlogged=false,
    indexes=[
        {'columns': ['source_id']},
        {'columns': ['identity_key']},
        {'columns': ['connection']},
        {'columns': ['customer_id']},
        {'columns': ['link_key']},
    ],
    pre_hook="{{ forget_changed(
        'int_affected_records', ['source', 'source_record_type', 'source_id'], 'source_id'
    ) }}",
) }}
{{ after_changed('int_affected_records') }}
{% set affected = last_build_of('int_affected_records') %}

with

records as (
    select
        records.*,
        {{ identity_key('records') }} as identity_key,
        {{ telephone_key('records') }} as telephone_key,
        {{ link_key('records') }} as link_key,
        {{ dbt.hash(
            "records.source || '|' || records.source_record_type || '|' || records.source_id"
        ) }} as own_id
    from {{ rows_of_changed(
        ref('int_source_records_unioned'), affected, 'source_id'
    ) }} as records
    {{ where_changed(affected, {
        'source': 'records.source',
        'source_record_type': 'records.source_record_type',
        'source_id': 'records.source_id',
    }) }}
),

components as (
    select * from {{ ref('int_identity_components') }}
),

assigned as (
    select * from {{ source('history', 'customer_ids') }} as assigned
    {{ where_changed(affected, {
        'source': 'assigned.source',
        'source_record_type': 'assigned.source_record_type',
        'source_id': 'assigned.source_id',
    }) }}
),

assigned_guests as (
    select * from {{ source('history', 'customer_ids') }}
    where source_record_type = 'guest_order'
),

-- Records that share an address are one person, and so is what a link or a telephone number
-- connects. A connection of too many addresses is no person: each address is one by itself then.
grouped as (
    select
        records.*,
        case
            when components.is_ambiguous then records.identity_key
            else coalesce(components.component, records.identity_key)
        end as component,
        coalesce(components.component, records.identity_key) as connection,
        coalesce(components.is_ambiguous, false) as is_ambiguous
    from records
    left join components on records.identity_key = components.identity_key
),

-- The ids that a component's records got in earlier nights.
claims_of_records as (
    select
        records.component,
        assigned.customer_id,
        min(assigned.assigned_on) as assigned_on,
        min(records.known_on) as known_on,
        max(case when records.own_id = assigned.customer_id then 1 else 0 end) as holds_founder
    from grouped as records
    inner join assigned
        on
            records.source = assigned.source
            and records.source_record_type = assigned.source_record_type
            and records.source_id = assigned.source_id
    group by records.component, assigned.customer_id
),

-- After a split two components claim one id: it stays with the record it was derived from, or else
-- with the oldest record. So an id is never two persons.
granted_to_records as (
    select
        *,
        row_number() over (
            partition by customer_id
            order by holds_founder desc, known_on asc nulls last, component asc
        ) as claim_rank
    from claims_of_records
),

-- After a merge a component holds several ids: it keeps the oldest.
kept_of_records as (
    select
        component,
        customer_id,
        row_number() over (
            partition by component
            order by assigned_on asc, known_on asc nulls last, customer_id asc
        ) as age_rank
    from granted_to_records
    where claim_rank = 1
),

without_id as (
    select records.*
    from grouped as records
    left join kept_of_records as kept
        on records.component = kept.component and kept.age_rank = 1
    where kept.component is null
),

orders_without_id as (
    select * from {{ rows_of_changed(
        ref('int_orders_unioned'), 'without_id', 'source_id'
    ) }} as orders
    where orders.source_record_type = 'customer'
),

-- A shop moves a guest's orders to the account that the guest opens: the record is gone, but the
-- order still tells whose it was. Only who has no id of their own may take the guest's.
claims_of_former_guests as (
    select
        records.component,
        assigned_guests.customer_id,
        min(assigned_guests.assigned_on) as assigned_on,
        min(records.known_on) as known_on
    from without_id as records
    inner join orders_without_id as orders
        on
            records.source = orders.source
            and records.source_record_type = orders.source_record_type
            and records.source_id = orders.source_id
    inner join assigned_guests
        on
            orders.source = assigned_guests.source
            and orders.order_id = assigned_guests.source_id
    left join claims_of_records
        on assigned_guests.customer_id = claims_of_records.customer_id
    where claims_of_records.customer_id is null
    group by records.component, assigned_guests.customer_id
),

granted_to_former_guests as (
    select
        *,
        row_number() over (
            partition by customer_id
            order by known_on asc nulls last, component asc
        ) as claim_rank
    from claims_of_former_guests
),

kept_of_former_guests as (
    select
        component,
        customer_id,
        row_number() over (
            partition by component
            order by assigned_on asc, known_on asc nulls last, customer_id asc
        ) as age_rank
    from granted_to_former_guests
    where claim_rank = 1
),

kept as (
    select
        component,
        customer_id
    from kept_of_records
    where age_rank = 1
    union all
    select
        component,
        customer_id
    from kept_of_former_guests
    where age_rank = 1
),

founders as (
    select
        component,
        own_id,
        row_number() over (
            partition by component
            order by known_on asc nulls last, source asc, source_record_type asc, source_id asc
        ) as age_rank
    from grouped
),

customers as (
    select
        founders.component,
        coalesce(kept.customer_id, founders.own_id) as customer_id
    from founders
    left join kept on founders.component = kept.component
    where founders.age_rank = 1
),

final as (
    select
        records.source,
        records.source_record_type,
        records.source_id,
        customers.customer_id,
        records.address,
        records.is_relay_address,
        records.first_name,
        records.last_name,
        records.country,
        records.preferred_language,
        records.acquisition_source,
        records.birthday,
        -- A record without a date is known since the night that first saw it, or since the as-of
        -- day of a backfill that comes before.
        coalesce(records.known_on, least(assigned.assigned_on, {{ as_of_date() }})) as known_on,
        records.modified_at,
        records.component,
        records.connection,
        records.is_ambiguous,
        records.identity_key,
        records.telephone_key,
        records.link_key
    from grouped as records
    inner join customers on records.component = customers.component
    left join assigned
        on
            records.source = assigned.source
            and records.source_record_type = assigned.source_record_type
            and records.source_id = assigned.source_id
)

select * from final
