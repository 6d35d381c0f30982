-- What the marts say was spent is what the sources say, month by month, also when it is shared over
-- stages; what has no exchange rate is in int_spend_rejected.
{{ config(tags=['segment']) }}

with

spent as (
    select
        {{ first_of_month('spent_on') }} as month,
        sum(amount) as spend
    from {{ ref('int_spend') }}
    where amount is not null
    group by {{ first_of_month('spent_on') }}
),

by_source as (
    select
        month,
        sum(spend) as spend
    from {{ ref('kpi_acquisition_cost') }}
    group by month
),

by_stage as (
    select
        month,
        sum(spend) as spend
    from {{ ref('kpi_acquisition_cost_by_stage') }}
    group by month
)

select
    coalesce(spent.month, by_source.month, by_stage.month) as month,
    spent.spend,
    by_source.spend as spend_by_source,
    by_stage.spend as spend_by_stage
from spent
full outer join by_source on spent.month = by_source.month
full outer join by_stage on coalesce(spent.month, by_source.month) = by_stage.month
where
    coalesce(spent.spend, 0) <> coalesce(by_source.spend, 0)
    or coalesce(spent.spend, 0) <> coalesce(by_stage.spend, 0)
