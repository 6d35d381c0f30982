{{ config(tags=['segment']) }}

with

members as (
    select * from {{ ref('segment_members') }}
),

known as (
    select * from {{ ref('int_segment_memberships_before') }}
),

final as (
    select
        {{ as_of_date() }} as as_of_date,
        coalesce(members.segment, known.segment) as segment,
        coalesce(members.customer_id, known.customer_id) as customer_id,
        case when members.customer_id is null then 'left' else 'entered' end as change
    from members
    full outer join known
        on members.segment = known.segment and members.customer_id = known.customer_id
    where members.customer_id is null or known.customer_id is null
)

select * from final
