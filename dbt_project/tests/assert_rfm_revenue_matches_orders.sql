-- What the counted orders of scored customers are worth is what RFM says they are worth.
{{ config(tags=['transform'], enabled=(var('rfm_window_days') is none)) }}

with

counted as (
    select sum(orders.revenue) as revenue
    from {{ ref('int_orders') }} as orders
    inner join {{ ref('customers') }} as customers on orders.customer_id = customers.customer_id
    where orders.is_counted and not customers.has_profiling_objection
),

scored as (
    select sum(monetary) as revenue
    from {{ ref('customer_rfm') }}
)

select
    counted.revenue as counted_revenue,
    scored.revenue as scored_revenue
from counted
cross join scored
where coalesce(counted.revenue, 0) <> coalesce(scored.revenue, 0)
