{{ config(materialized='ephemeral', tags=['segment']) }}

with

changes as (
    select * from {{ source('history', 'segment_membership_changes') }}
    where as_of_date < {{ as_of_date() }}
),

ranked as (
    select
        segment,
        customer_id,
        change,
        as_of_date as member_since,
        row_number() over (
            partition by segment, customer_id order by as_of_date desc
        ) as recency_rank
    from changes
),

final as (
    select
        segment,
        customer_id,
        member_since
    from ranked
    where recency_rank = 1 and change = 'entered'
)

select * from final
