-- RFM by hand: cut points and scored buyers, under the default rules.
--
-- Reads int_orders, int_customer_profiles and the seed rfm_segments from the search path; writes
-- int_rfm_cutoffs and customer_rfm into schema floor. Parameter: as_of_date.
--
-- What makes it fast: one hash aggregate over the orders; recency and frequency have few values, so
-- that their cut points come from counts and only money is sorted.

create unlogged table floor.rfm_values as
select
    orders.customer_id,
    %(as_of_date)s::date - max(orders.order_date) as recency_days,
    count(*)::integer as frequency,
    sum(orders.revenue)::numeric(18, 4) as monetary
from int_orders as orders
where orders.is_counted
group by orders.customer_id;

delete from floor.rfm_values
using int_customer_profiles as profiles
where rfm_values.customer_id = profiles.customer_id and profiles.has_profiling_objection;

create unlogged table floor.int_rfm_cutoffs as
with quantiles as (
    select
        '{0.2,0.4,0.6,0.8}'::numeric[] as quantile,
        '{0.2,0.4,0.6,0.8}'::double precision[] as position
),

counted as (
    select 'recency_days' as dimension, recency_days as value, count(*) as buyers
    from floor.rfm_values
    group by recency_days
    union all
    select 'frequency', frequency, count(*)
    from floor.rfm_values
    group by frequency
),

ranked as (
    select
        dimension,
        value,
        sum(buyers) over (partition by dimension order by value) as buyers_up_to,
        sum(buyers) over (partition by dimension) as buyers_of_all
    from counted
),

of_counts as (
    select
        ranked.dimension,
        quantile.quantile,
        min(ranked.value)::numeric(18, 4) as cutoff
    from ranked
    cross join quantiles
    cross join lateral unnest(quantiles.quantile) as quantile
    where ranked.buyers_up_to >= quantile.quantile * ranked.buyers_of_all
    group by ranked.dimension, quantile.quantile
),

measured as (
    select
        percentile_disc('{0.2,0.4,0.6,0.8}'::double precision[])
        within group (order by monetary) as cutoffs
    from floor.rfm_values
),

of_money as (
    select
        'monetary' as dimension,
        listed.quantile,
        listed.cutoff::numeric(18, 4) as cutoff
    from measured
    cross join quantiles
    cross join lateral unnest(quantiles.quantile, measured.cutoffs) as listed (quantile, cutoff)
),

measured_cutoffs as (
    select * from of_counts
    union all
    select * from of_money
),

-- Where the quantiles collapse, the fixed cut points stand in.
fallbacks (dimension, quantile, cutoff) as (
    values
    ('recency_days', 0.2, 30.0), ('recency_days', 0.4, 90), ('recency_days', 0.6, 180),
    ('recency_days', 0.8, 365), ('frequency', 0.2, 1), ('frequency', 0.4, 2),
    ('frequency', 0.6, 3), ('frequency', 0.8, 5), ('monetary', 0.2, 25), ('monetary', 0.4, 50),
    ('monetary', 0.6, 100), ('monetary', 0.8, 250)
),

distinct_cutoffs as (
    select
        dimension,
        count(distinct cutoff) as number
    from measured_cutoffs
    group by dimension
)

select
    measured_cutoffs.dimension,
    measured_cutoffs.quantile::numeric(4, 2) as quantile,
    case
        when distinct_cutoffs.number < 3 then fallbacks.cutoff else measured_cutoffs.cutoff
    end::numeric(18, 4) as cutoff,
    case when distinct_cutoffs.number < 3 then 'fallback' else 'quantiles' end as method
from measured_cutoffs
inner join distinct_cutoffs on measured_cutoffs.dimension = distinct_cutoffs.dimension
inner join fallbacks
    on
        measured_cutoffs.dimension = fallbacks.dimension
        and measured_cutoffs.quantile = fallbacks.quantile;

create table floor.customer_rfm as
with cutoffs as (
    select
        array_agg(cutoff order by cutoff) filter (where dimension = 'recency_days') as recency_days,
        array_agg(cutoff order by cutoff) filter (where dimension = 'frequency') as frequency,
        array_agg(cutoff order by cutoff) filter (where dimension = 'monetary') as monetary
    from floor.int_rfm_cutoffs
),

scored as (
    select
        buyers.customer_id,
        buyers.recency_days,
        buyers.frequency,
        buyers.monetary,
        5
        - (buyers.recency_days > cutoffs.recency_days[1])::integer
        - (buyers.recency_days > cutoffs.recency_days[2])::integer
        - (buyers.recency_days > cutoffs.recency_days[3])::integer
        - (buyers.recency_days > cutoffs.recency_days[4])::integer as r_score,
        1
        + (buyers.frequency > cutoffs.frequency[1])::integer
        + (buyers.frequency > cutoffs.frequency[2])::integer
        + (buyers.frequency > cutoffs.frequency[3])::integer
        + (buyers.frequency > cutoffs.frequency[4])::integer as f_score,
        1
        + (buyers.monetary > cutoffs.monetary[1])::integer
        + (buyers.monetary > cutoffs.monetary[2])::integer
        + (buyers.monetary > cutoffs.monetary[3])::integer
        + (buyers.monetary > cutoffs.monetary[4])::integer as m_score
    from floor.rfm_values as buyers
    cross join cutoffs
),

coded as (
    select
        *,
        r_score::text || f_score::text || m_score::text as rfm_code
    from scored
)

select
    coded.customer_id,
    %(as_of_date)s::date as as_of_date,
    coded.recency_days,
    coded.frequency,
    coded.monetary,
    coded.r_score,
    coded.f_score,
    coded.m_score,
    coded.rfm_code,
    segments.rfm_segment
from coded
inner join rfm_segments as segments on coded.rfm_code = segments.rfm_code;

analyze floor.customer_rfm;
