-- No order is lost and none is doubled between the sources, the marts and quarantine.
{{ config(tags=['transform']) }}

with

landed as (
    select
        source,
        count(*) as orders_count
    from {{ ref('int_orders_unioned') }}
    group by source
),

accounted as (
    select source from {{ ref('orders') }}
    union all
    select source from {{ ref('int_orders_rejected') }}
),

accounted_by_source as (
    select
        source,
        count(*) as orders_count
    from accounted
    group by source
)

select
    landed.source,
    landed.orders_count as landed_count,
    accounted_by_source.orders_count as accounted_count
from landed
full outer join accounted_by_source on landed.source = accounted_by_source.source
where coalesce(landed.orders_count, 0) <> coalesce(accounted_by_source.orders_count, 0)
