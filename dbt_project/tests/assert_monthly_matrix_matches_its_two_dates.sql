-- The last month of lifecycle_matrix_monthly, which adds up changes, is what comparing its two days
-- customer by customer gives.
{{ config(tags=['transform']) }}

with

month_before as (
    select {{ add_days(first_of_month(as_of_date()), -1) }} as ended_on
),

compared as (
    {{ lifecycle_matrix('(select ended_on from month_before)', as_of_date()) }}
),

monthly as (
    select * from {{ ref('lifecycle_matrix_monthly') }}
    where month = {{ first_of_month(as_of_date()) }}
)

select
    coalesce(compared.from_stage, monthly.from_stage) as from_stage,
    coalesce(compared.to_stage, monthly.to_stage) as to_stage,
    compared.customers as compared_customers,
    monthly.customers as monthly_customers
from compared
full outer join monthly
    on compared.from_stage = monthly.from_stage and compared.to_stage = monthly.to_stage
where coalesce(compared.customers, 0) <> coalesce(monthly.customers, 0)
