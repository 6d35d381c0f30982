-- A better value never scores worse, and equal values score equally: the ranges of the scores of a
-- dimension do not touch. For recency fewer days are better.
{{ config(tags=['transform']) }}

with

rfm as (
    select * from {{ ref('customer_rfm') }}
),

measured as (
    select
        'recency' as dimension,
        r_score as score,
        min(-recency_days) as lowest,
        max(-recency_days) as highest
    from rfm
    group by r_score
    union all
    select
        'frequency' as dimension,
        f_score as score,
        min(frequency) as lowest,
        max(frequency) as highest
    from rfm
    group by f_score
    union all
    select
        'monetary' as dimension,
        m_score as score,
        min(monetary) as lowest,
        max(monetary) as highest
    from rfm
    group by m_score
)

select
    worse.dimension,
    worse.score as worse_score,
    better.score as better_score
from measured as worse
inner join measured as better
    on worse.dimension = better.dimension and worse.score < better.score
where worse.highest >= better.lowest
