{{ config(materialized='table') }}

with

held_rows as (
    select * from {{ ref('held_rows') }}
),

delivered_members as (
    select * from {{ source('delivery', 'effective_state') }}
    where audience <> '' and is_member
),

configured_audiences as (
    {{ configured_audiences() }}
),

-- The question names a segment, so each audience has exactly one: the one that fills it now.
segments as (
    select
        destination,
        audience,
        min(segment) as segment
    from configured_audiences
    group by destination, audience
),

sizes as (
    select
        destination,
        audience,
        count(*) as members
    from delivered_members
    group by destination, audience
),

held as (
    select
        publication_id,
        destination,
        audience,
        min(segment) as segment,
        min(held_because) as held_because,
        sum(case when operation = 'add' then 1 else 0 end) as adds,
        sum(case when operation = 'remove' then 1 else 0 end) as removes,
        sum(case when operation = 'upsert' then 1 else 0 end) as updates,
        {{ dbt.listagg(
            dbt.concat(['plan_row_id', 'payload_hash']), "''", 'order by plan_row_id'
        ) }} as planned_rows
    from held_rows
    group by publication_id, destination, audience
),

final as (
    select
        held.publication_id,
        held.destination,
        held.audience,
        coalesce(segments.segment, held.segment) as segment,
        held.held_because,
        cast(coalesce(sizes.members, 0) as {{ dbt.type_bigint() }}) as members,
        cast(held.adds as {{ dbt.type_bigint() }}) as adds,
        cast(held.removes as {{ dbt.type_bigint() }}) as removes,
        cast(held.updates as {{ dbt.type_bigint() }}) as updates,
        {{ dbt.hash('held.planned_rows') }} as plan_hash
    from held
    left join segments
        on held.destination = segments.destination and held.audience = segments.audience
    left join sizes on held.destination = sizes.destination and held.audience = sizes.audience
)

select * from final
