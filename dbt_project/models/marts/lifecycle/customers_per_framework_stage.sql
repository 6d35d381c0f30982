with

frameworks as (
    select * from {{ ref('lifecycle_frameworks') }}
),

current_stays as (
    select * from {{ ref('lifecycle_intervals') }}
    where valid_to is null
),

recent_revenue as (
    select
        customer_id,
        sum(revenue) as revenue
    from {{ ref('int_order_days') }}
    where order_date > {{ add_days(as_of_date(), -365) }}
    group by customer_id
),

stage_totals as (
    select
        current_stays.stage,
        count(*) as customers,
        coalesce(sum(recent_revenue.revenue), 0) as revenue
    from current_stays
    left join recent_revenue on current_stays.customer_id = recent_revenue.customer_id
    group by current_stays.stage
),

framework_stages as (
    select
        frameworks.framework,
        frameworks.framework_stage,
        min(frameworks.label_en) as label_en,
        min(frameworks.label_de) as label_de,
        min(frameworks.stage_position) as first_stage_position,
        coalesce(sum(stage_totals.customers), 0) as customers,
        coalesce(sum(stage_totals.revenue), 0) as revenue
    from frameworks
    left join stage_totals on frameworks.stage = stage_totals.stage
    group by frameworks.framework, frameworks.framework_stage
),

final as (
    select
        cast(framework as {{ dbt.type_string() }}) as framework,
        cast(framework_stage as {{ dbt.type_string() }}) as framework_stage,
        cast(
            row_number() over (partition by framework order by first_stage_position) as integer
        ) as framework_position,
        cast(label_en as {{ dbt.type_string() }}) as label_en,
        cast(label_de as {{ dbt.type_string() }}) as label_de,
        cast(customers as integer) as customers,
        cast(
            customers * 1.0 / nullif(sum(customers) over (partition by framework), 0)
            as numeric(9, 4)
        ) as share_of_customers,
        cast(revenue as numeric(18, 4)) as revenue_365d
    from framework_stages
)

select * from final
