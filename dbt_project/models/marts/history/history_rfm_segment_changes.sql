{{ config(tags=['transform']) }}

with

rfm as (
    select * from {{ ref('customer_rfm') }}
),

changes as (
    select * from {{ source('history', 'rfm_segment_changes') }}
    where as_of_date < {{ as_of_date() }}
),

ranked as (
    select
        customer_id,
        to_segment,
        row_number() over (partition by customer_id order by as_of_date desc) as recency_rank
    from changes
),

known as (
    select
        customer_id,
        to_segment as rfm_segment
    from ranked
    where recency_rank = 1 and to_segment is not null
),

-- What this night says that the last one did not. A null `from_segment` is a customer who was not
-- scored, a null `to_segment` one who is scored no more: an order refunded or out of the window, an
-- objection to profiling, a merge, an erasure.
final as (
    select
        {{ as_of_date() }} as as_of_date,
        coalesce(rfm.customer_id, known.customer_id) as customer_id,
        known.rfm_segment as from_segment,
        rfm.rfm_segment as to_segment
    from rfm
    full outer join known on rfm.customer_id = known.customer_id
    where
        rfm.rfm_segment is null
        or known.rfm_segment is null
        or rfm.rfm_segment <> known.rfm_segment
)

select * from final
