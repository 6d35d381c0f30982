-- A better value never scores worse, equal values score equally, and the mean value rises with the
-- score: the ranges of a dimension's scores do not touch. For recency fewer days are better.
{{ config(tags=['transform']) }}

with

-- One pass over the customers; there are at most 125 codes.
codes as (
    select
        r_score,
        f_score,
        m_score,
        count(*) as customers,
        min(-recency_days) as lowest_recency,
        max(-recency_days) as highest_recency,
        sum(-recency_days) as total_recency,
        min(frequency) as lowest_frequency,
        max(frequency) as highest_frequency,
        sum(frequency) as total_frequency,
        min(monetary) as lowest_monetary,
        max(monetary) as highest_monetary,
        sum(monetary) as total_monetary
    from {{ ref('customer_rfm') }}
    group by r_score, f_score, m_score
),

measured as (
    {%- for dimension in ['recency', 'frequency', 'monetary'] %}
    select
        '{{ dimension }}' as dimension,
        {{ dimension[0] }}_score as score,
        min(lowest_{{ dimension }}) as lowest,
        max(highest_{{ dimension }}) as highest,
        sum(total_{{ dimension }}) * 1.0 / sum(customers) as mean
    from codes
    group by {{ dimension[0] }}_score
    {{ 'union all' if not loop.last }}
    {%- endfor %}
)

select
    worse.dimension,
    worse.score as worse_score,
    better.score as better_score,
    worse.mean as worse_mean,
    better.mean as better_mean
from measured as worse
inner join measured as better
    on worse.dimension = better.dimension and worse.score < better.score
where worse.highest >= better.lowest or worse.mean >= better.mean
