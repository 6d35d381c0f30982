with

customer_360 as (
    select * from {{ ref('customer_360') }}
),

totals as (
    select
        stage,
        {{ acquisition_source_key('acquisition_source') }} as acquisition_source,
        count(*) as customers,
        sum(case when orders_count > 0 then 1 else 0 end) as buyers,
        sum(orders_count) as orders,
        sum(revenue_total) as revenue,
        avg(clv_365d) as average_clv_365d
    from customer_360
    group by stage, {{ acquisition_source_key('acquisition_source') }}
),

final as (
    select
        cast(stage as {{ dbt.type_string() }}) as stage,
        cast(acquisition_source as {{ dbt.type_string() }}) as acquisition_source,
        cast(customers as integer) as customers,
        cast(buyers as integer) as buyers,
        cast(orders as integer) as orders,
        cast(revenue as numeric(18, 4)) as revenue,
        cast(revenue / customers as numeric(18, 4)) as revenue_per_customer,
        cast(average_clv_365d as numeric(18, 4)) as average_clv_365d,
        cast(revenue / nullif(orders, 0) as numeric(18, 4)) as average_order_value
    from totals
)

select * from final
