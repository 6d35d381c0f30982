{{ config(
    materialized='incremental',
    incremental_strategy='replace_differing',
    unique_key=['source', 'source_record_type', 'source_id'],
    meta={
        'changed': 'int_affected_records',
        'changed_keys': ['source', 'source_record_type', 'source_id'],
        'indexed': 'source_id',
    },
    unlogged=false,
    indexes=[
        {'columns': ['source_id']},
        {'columns': ['identity_key']},
        {'columns': ['connection']},
        {'columns': ['customer_id']},
        {'columns': ['link_key']},
        {'columns': ['is_ambiguous']},
    ],
    pre_hook="{{ looks_up_blocks() }}",
) }}
{{ after_changed('int_affected_records') }}
{% set affected = last_build_of('int_affected_records') -%}
{%- set oldest_first = 'assigned_on asc, known_on asc nulls last, customer_id asc' %}

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

-- After a merge a component holds several ids: it keeps the oldest. Grouped, not ranked: a planner
-- takes the first ranks for so few that it would join all of them with all components.
kept_of_records as (
    select
        component,
        {{ first_known('customer_id', oldest_first) }} as customer_id
    from granted_to_records
    where claim_rank = 1
    group by component
),

-- Who has no id of their own may take a former guest's. A full build asks everybody and sorts out
-- below: of how many have none the planner has no idea, and would read all orders for each of them.
claimants as (
    select records.*
    from grouped as records
    {%- if adds_to_last_build() %}
    left join kept_of_records as kept on records.component = kept.component
    where kept.component is null
    {%- endif %}
),

orders_of_accounts as (
    select * from {{ rows_of_changed(
        ref('int_orders_unioned'), 'claimants', 'source_id'
    ) }} as orders
    where orders.source_record_type = 'customer'
),

-- A shop moves a guest's orders to the account that the guest opens: the record is gone, but the
-- order still tells whose it was.
claims_of_former_guests as (
    select
        records.component,
        assigned_guests.customer_id,
        min(assigned_guests.assigned_on) as assigned_on,
        min(records.known_on) as known_on
    from claimants as records
    inner join orders_of_accounts as orders
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
        claims.*,
        row_number() over (
            partition by claims.customer_id
            order by claims.known_on asc nulls last, claims.component asc
        ) as claim_rank
    from claims_of_former_guests as claims
    left join kept_of_records as kept on claims.component = kept.component
    where kept.component is null
),

kept_of_former_guests as (
    select
        component,
        {{ first_known('customer_id', oldest_first) }} as customer_id
    from granted_to_former_guests
    where claim_rank = 1
    group by component
),

-- Without an id of an earlier night, a component is named after its oldest record.
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

candidates as (
    select
        component,
        customer_id as id_of_records,
        cast(null as {{ dbt.type_string() }}) as id_of_former_guests,
        cast(null as {{ dbt.type_string() }}) as own_id
    from kept_of_records
    union all
    select
        component,
        cast(null as {{ dbt.type_string() }}) as id_of_records,
        customer_id as id_of_former_guests,
        cast(null as {{ dbt.type_string() }}) as own_id
    from kept_of_former_guests
    union all
    select
        component,
        cast(null as {{ dbt.type_string() }}) as id_of_records,
        cast(null as {{ dbt.type_string() }}) as id_of_former_guests,
        own_id
    from founders
    where age_rank = 1
),

customers as (
    select
        component,
        coalesce(max(id_of_records), max(id_of_former_guests), max(own_id)) as customer_id
    from candidates
    group by component
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
