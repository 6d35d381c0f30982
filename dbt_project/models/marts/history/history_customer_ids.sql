{{ config(tags=['transform']) }}

with

-- A record that is as it was in the colour's last build has its id since then.
identities as (
    select identities.*
    from {{ ref('int_customer_identities') }} as identities
    {%- if builds_on_last_build() %}
    inner join {{ ref('int_affected_records') }} as affected
        on
            identities.source = affected.source
            and identities.source_record_type = affected.source_record_type
            and identities.source_id = affected.source_id
    {%- endif %}
),

assigned as (
    select * from {{ source('history', 'customer_ids') }}
),

-- Read apart from the ids: one relation read twice would be copied first.
days_of_ids as (
    select max(assigned_on) as decided_on
    from {{ source('history', 'customer_ids') }}
),

days_of_publications as (
    select max(as_of_date) as decided_on
    from {{ source('history', 'publications') }}
),

decided_days as (
    select * from days_of_ids
    union all
    select * from days_of_publications
),

newest as (
    select max(decided_on) as decided_on
    from decided_days
),

-- Records that have no id yet, and those that a merge or a split gave another one: what is recorded
-- holds, even when the record that decided it disappears. A backfill moves none, because the nights
-- after its day already know better.
final as (
    select
        identities.source,
        identities.source_record_type,
        identities.source_id,
        identities.customer_id,
        {{ as_of_date() }} as assigned_on
    from identities
    left join assigned
        on
            identities.source = assigned.source
            and identities.source_record_type = assigned.source_record_type
            and identities.source_id = assigned.source_id
    cross join newest
    where
        assigned.customer_id is null
        or (
            assigned.customer_id <> identities.customer_id
            and newest.decided_on <= {{ as_of_date() }}
        )
)

select * from final
