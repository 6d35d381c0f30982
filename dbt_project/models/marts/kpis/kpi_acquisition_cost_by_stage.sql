with

acquisition_cost as (
    select * from {{ ref('kpi_acquisition_cost') }}
),

won_customers as (
    select
        {{ first_of_month('first_order_date') }} as month,
        {{ acquisition_source_key('acquisition_source') }} as acquisition_source,
        stage,
        count(*) as customers,
        sum(revenue_total) as revenue
    from {{ ref('customer_360') }}
    where first_order_date is not null
    group by
        {{ first_of_month('first_order_date') }},
        {{ acquisition_source_key('acquisition_source') }},
        stage
),

split as (
    select
        acquisition_cost.month,
        acquisition_cost.acquisition_source,
        acquisition_cost.spend,
        acquisition_cost.new_customers,
        coalesce(won_customers.stage, 'no_new_customer') as stage,
        coalesce(won_customers.customers, 0) as customers,
        coalesce(won_customers.revenue, 0) as revenue,
        sum(won_customers.customers) over (
            partition by acquisition_cost.month, acquisition_cost.acquisition_source
            order by won_customers.stage
        ) as customers_up_to
    from acquisition_cost
    left join won_customers
        on
            acquisition_cost.month = won_customers.month
            and acquisition_cost.acquisition_source = won_customers.acquisition_source
),

-- Every new customer of a month and source cost the same. The difference of rounded running totals
-- adds up to the spend to the last digit.
shared as (
    select
        *,
        case
            when new_customers = 0 then spend
            else
                round(spend * customers_up_to / new_customers, 4)
                - round(spend * (customers_up_to - customers) / new_customers, 4)
        end as stage_spend
    from split
),

final as (
    select
        cast(month as date) as month,
        cast(acquisition_source as {{ dbt.type_string() }}) as acquisition_source,
        cast(stage as {{ dbt.type_string() }}) as stage,
        cast(stage_spend as numeric(18, 4)) as spend,
        cast(customers as integer) as customers,
        cast(revenue as numeric(18, 4)) as revenue,
        cast(revenue / nullif(customers, 0) as numeric(18, 4)) as revenue_per_customer,
        cast(revenue / nullif(stage_spend, 0) as numeric(18, 4)) as return_on_spend
    from shared
)

select * from final
