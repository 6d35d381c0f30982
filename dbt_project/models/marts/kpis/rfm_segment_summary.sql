with

rfm as (
    select * from {{ ref('customer_rfm') }}
),

codes as (
    select * from {{ ref('rfm_segments') }}
),

-- The seed repeats a segment's texts in each of its codes.
segments as (
    select
        rfm_segment,
        min(label_en) as label_en,
        min(label_de) as label_de,
        min(action_en) as action_en,
        min(action_de) as action_de
    from codes
    group by rfm_segment
),

totals as (
    select
        rfm_segment,
        count(*) as customers,
        sum(recency_days) as recency_days,
        sum(frequency) as orders,
        sum(monetary) as revenue
    from rfm
    group by rfm_segment
),

-- A segment without customers stays in the table: a chart must not lose a colour.
counted as (
    select
        segments.*,
        coalesce(totals.customers, 0) as customers,
        totals.recency_days,
        totals.orders,
        coalesce(totals.revenue, 0) as revenue,
        sum(totals.customers) over () as customers_of_all
    from segments
    left join totals on segments.rfm_segment = totals.rfm_segment
),

final as (
    select
        cast(rfm_segment as {{ dbt.type_string() }}) as rfm_segment,
        {{ as_of_date() }} as as_of_date,
        cast(label_en as {{ dbt.type_string() }}) as label_en,
        cast(label_de as {{ dbt.type_string() }}) as label_de,
        cast(action_en as {{ dbt.type_string() }}) as action_en,
        cast(action_de as {{ dbt.type_string() }}) as action_de,
        cast(customers as integer) as customers,
        cast(customers * 1.0 / nullif(customers_of_all, 0) as numeric(9, 4)) as customers_share,
        cast(recency_days * 1.0 / nullif(customers, 0) as numeric(18, 4)) as mean_recency_days,
        cast(orders * 1.0 / nullif(customers, 0) as numeric(18, 4)) as mean_frequency,
        cast(revenue / nullif(customers, 0) as numeric(18, 4)) as mean_monetary,
        cast(revenue as numeric(18, 4)) as revenue
    from counted
)

select * from final
