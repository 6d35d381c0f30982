with

order_days as (
    select * from {{ ref('int_order_days') }}
),

first_orders as (
    select
        customer_id,
        {{ first_of_month('order_date') }} as cohort_month
    from order_days
    where order_day_number = 1
),

cohorts as (
    select
        cohort_month,
        count(*) as customers
    from first_orders
    group by cohort_month
),

first_month as (
    select min(cohort_month) as first_month
    from cohorts
),

months as (
    {{ months_from_to('(select first_month from first_month)', as_of_date()) }}
),

monthly_orders as (
    select
        first_orders.cohort_month,
        {{ first_of_month('order_days.order_date') }} as month,
        sum(order_days.revenue) as revenue,
        -- A customer's first order day of a month counts the customer, and no other does.
        sum(
            case
                when
                    {{ first_of_month('order_days.previous_order_date') }}
                    = {{ first_of_month('order_days.order_date') }}
                    then 0
                else 1
            end
        ) as active
    from order_days
    inner join first_orders on order_days.customer_id = first_orders.customer_id
    group by first_orders.cohort_month, {{ first_of_month('order_days.order_date') }}
),

monthly as (
    select
        cohorts.cohort_month,
        months.month,
        cohorts.customers,
        coalesce(monthly_orders.active, 0) as active,
        coalesce(monthly_orders.revenue, 0) as revenue,
        sum(coalesce(monthly_orders.revenue, 0))
            over (partition by cohorts.cohort_month order by months.month) as cumulative_revenue
    from cohorts
    inner join months on cohorts.cohort_month <= months.month
    left join monthly_orders
        on
            cohorts.cohort_month = monthly_orders.cohort_month
            and months.month = monthly_orders.month
),

final as (
    select
        cast(cohort_month as date) as cohort_month,
        {{ months_between('cohort_month', 'month') }} as months_since_first_order,
        cast(month as date) as month,
        cast(customers as integer) as customers,
        cast(active as integer) as active,
        cast(active * 1.0 / customers as numeric(9, 4)) as retention_rate,
        cast(revenue as numeric(18, 4)) as revenue,
        cast(cumulative_revenue as numeric(18, 4)) as cumulative_revenue,
        cast(cumulative_revenue / customers as numeric(18, 4)) as cumulative_revenue_per_customer,
        {{ is_complete_month('month') }} as is_complete
    from monthly
)

select * from final
