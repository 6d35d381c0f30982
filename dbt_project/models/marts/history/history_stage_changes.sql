{{ config(tags=['transform']) }}

with

intervals as (
    select * from {{ ref('lifecycle_intervals') }}
    where valid_to is null
),

changes as (
    select * from {{ source('history', 'stage_changes') }}
    where as_of_date < {{ as_of_date() }}
),

ranked as (
    select
        customer_id,
        to_stage,
        row_number() over (partition by customer_id order by as_of_date desc) as recency_rank
    from changes
),

known as (
    select
        customer_id,
        to_stage as stage
    from ranked
    where recency_rank = 1 and to_stage is not null
),

-- What this night says that the last one did not. A null `from_stage` is a customer who was not
-- known, a null `to_stage` one who became part of another customer or was erased.
final as (
    select
        {{ as_of_date() }} as as_of_date,
        coalesce(intervals.customer_id, known.customer_id) as customer_id,
        known.stage as from_stage,
        intervals.stage as to_stage
    from intervals
    full outer join known on intervals.customer_id = known.customer_id
    where
        intervals.stage is null
        or known.stage is null
        or intervals.stage <> known.stage
)

select * from final
