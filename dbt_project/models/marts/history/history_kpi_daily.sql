{{ config(tags=['segment']) }}

with

daily as (
    select * from {{ ref('kpi_daily') }}
),

-- kpi_daily tells every day anew each night; this keeps what the night knew of its own.
final as (
    select
        day as as_of_date,
        customers_reach,
        customers_acquisition,
        customers_dormant_lead,
        customers_conversion,
        customers_development,
        customers_retention,
        customers_loyalty,
        customers_at_risk,
        customers_churned,
        customers_reactivated,
        new_customers,
        reactivated_customers,
        churned_customers,
        churn_rate,
        repeat_purchase_rate,
        orders,
        revenue,
        average_order_value,
        median_days_between_orders,
        net_customer_growth,
        net_customer_growth_30_days,
        churn_alarm
    from daily
    where day = {{ as_of_date() }}
)

select * from final
