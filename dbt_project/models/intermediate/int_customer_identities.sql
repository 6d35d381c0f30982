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

orders as (
    select * from {{ rows_of_changed(
        ref('int_orders_unioned'), affected, 'source_id'
    ) }} as orders
    where
        orders.source_record_type = 'customer'
        {{ where_changed(affected, {
            'source': 'orders.source',
            'source_record_type': 'orders.source_record_type',
            'source_id': 'orders.source_id',
        }, 'and') }}
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
        max(case when records.own_id = assigned.customer_id then 1 else 0 end) as holds_founder,
        0 as is_of_former_guest
    from grouped as records
    inner join assigned
        on
            records.source = assigned.source
            and records.source_record_type = assigned.source_record_type
            and records.source_id = assigned.source_id
    group by records.component, assigned.customer_id
),

-- A shop moves a guest's orders to the account that the guest opens: the record is gone, but the
-- order still tells whose it was.
claims_of_former_guests as (
    select
        records.component,
        assigned_guests.customer_id,
        min(assigned_guests.assigned_on) as assigned_on,
        min(records.known_on) as known_on,
        0 as holds_founder,
        1 as is_of_former_guest
    from assigned_guests
    inner join orders
        on
            assigned_guests.source = orders.source
            and assigned_guests.source_id = orders.order_id
    inner join grouped as records
        on
            orders.source = records.source
            and orders.source_record_type = records.source_record_type
            and orders.source_id = records.source_id
    group by records.component, assigned_guests.customer_id
),

claims as (
    select * from claims_of_records
    union all
    select * from claims_of_former_guests
),

-- After a split two components claim one id: it stays with the record it was derived from, or else
-- with the oldest record. So an id is never two persons.
granted as (
    select
        *,
        row_number() over (
            partition by customer_id
            order by
                is_of_former_guest asc, holds_founder desc, known_on asc nulls last, component asc
        ) as claim_rank
    from claims
),

-- After a merge a component holds several ids: it keeps the oldest.
kept as (
    select
        component,
        customer_id,
        row_number() over (
            partition by component
            order by
                is_of_former_guest asc, assigned_on asc, known_on asc nulls last, customer_id asc
        ) as age_rank
    from granted
    where claim_rank = 1
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
    left join kept on founders.component = kept.component and kept.age_rank = 1
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
