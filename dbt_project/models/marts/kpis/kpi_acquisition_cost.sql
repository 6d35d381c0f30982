with

spend as (
    select * from {{ ref('int_spend') }}
    where amount is not null
),

buyers as (
    select
        {{ first_of_month('first_order_date') }} as month,
        {{ acquisition_source_key('acquisition_source') }} as acquisition_source,
        revenue_total
    from {{ ref('customer_360') }}
    where first_order_date is not null
),

monthly_spend as (
    select
        {{ first_of_month('spent_on') }} as month,
        acquisition_source,
        sum(amount) as spend
    from spend
    group by {{ first_of_month('spent_on') }}, acquisition_source
),

-- Customers won before anything was known of spend would look as if they had cost nothing.
first_month as (
    select min(month) as first_month
    from monthly_spend
),

new_customers as (
    select
        buyers.month,
        buyers.acquisition_source,
        count(*) as new_customers,
        sum(buyers.revenue_total) as revenue
    from buyers
    inner join first_month on buyers.month >= first_month.first_month
    group by buyers.month, buyers.acquisition_source
),

compared as (
    select
        coalesce(monthly_spend.month, new_customers.month) as month,
        coalesce(monthly_spend.acquisition_source, new_customers.acquisition_source)
            as acquisition_source,
        coalesce(monthly_spend.spend, 0) as spend,
        coalesce(new_customers.new_customers, 0) as new_customers,
        coalesce(new_customers.revenue, 0) as revenue
    from monthly_spend
    full outer join new_customers
        on
            monthly_spend.month = new_customers.month
            and monthly_spend.acquisition_source = new_customers.acquisition_source
),

final as (
    select
        cast(month as date) as month,
        cast(acquisition_source as {{ dbt.type_string() }}) as acquisition_source,
        cast(spend as numeric(18, 4)) as spend,
        cast(new_customers as integer) as new_customers,
        cast(spend / nullif(new_customers, 0) as numeric(18, 4)) as cost_per_new_customer,
        cast(revenue as numeric(18, 4)) as revenue,
        cast(revenue / nullif(spend, 0) as numeric(18, 4)) as return_on_spend,
        {{ is_complete_month('month') }} as is_complete
    from compared
)

select * from final
