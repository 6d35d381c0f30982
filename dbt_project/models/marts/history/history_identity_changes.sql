{{ config(tags=['transform']) }}

with

identities as (
    select * from {{ ref('int_customer_identities') }}
),

assigned as (
    select * from {{ source('history', 'customer_ids') }}
),

-- Read apart from the other: one relation read twice would be copied first.
ever_assigned as (
    select customer_id from {{ source('history', 'customer_ids') }}
),

changed as (
    select * from {{ ref('history_customer_ids') }}
),

moved as (
    select
        changed.customer_id,
        assigned.customer_id as other_customer_id,
        cast(count(*) as integer) as records
    from changed
    inner join assigned
        on
            changed.source = assigned.source
            and changed.source_record_type = assigned.source_record_type
            and changed.source_id = assigned.source_id
    where changed.customer_id <> assigned.customer_id
    group by changed.customer_id, assigned.customer_id
),

remaining as (
    select distinct customer_id from identities
    where customer_id in (select moved.other_customer_id from moved)
),

known as (
    select distinct customer_id from ever_assigned
    where customer_id in (select moved.customer_id from moved)
),

judged as (
    select
        moved.*,
        remaining.customer_id is not null as other_remains,
        known.customer_id is not null as was_known
    from moved
    left join remaining on moved.other_customer_id = remaining.customer_id
    left join known on moved.customer_id = known.customer_id
),

final as (
    select
        {{ as_of_date() }} as as_of_date,
        case
            when not other_remains then 'merged'
            when not was_known then 'split'
            else 'moved'
        end as change,
        customer_id,
        other_customer_id,
        records
    from judged
)

select * from final
