{%- set stages = lifecycle_stages() -%}
{%- set buyer_stages = [
    'conversion', 'development', 'retention', 'loyalty', 'at_risk', 'reactivated',
] %}

with

intervals as (
    select * from {{ ref('lifecycle_intervals') }}
),

order_days as (
    select * from {{ ref('int_order_days') }}
),

-- The customers of these were erased; their revenue was made all the same.
anonymous_orders as (
    select * from {{ ref('int_orders') }}
    where is_counted and customer_id is null
),

first_days as (
    select min(valid_from) as first_day
    from intervals
    union all
    select min(order_date) as first_day
    from anonymous_orders
),

first_day as (
    select min(first_day) as first_day
    from first_days
),

days as (
    {{ days_from_to('(select first_day from first_day)', as_of_date()) }}
),

entries as (
    select
        valid_from as day,
        stage,
        count(*) as customers
    from intervals
    group by valid_from, stage
),

exits as (
    select
        valid_to as day,
        stage,
        count(*) as customers
    from intervals
    where valid_to is not null
    group by valid_to, stage
),

-- Entering counts up, leaving counts down; the running total is who is there at the end of a day.
movements as (
    select
        day,
        stage,
        customers as change,
        customers as entered
    from entries
    union all
    select
        day,
        stage,
        -customers as change,
        0 as entered
    from exits
),

daily_movements as (
    select
        day,
        {%- for stage in stages %}
        sum(case when stage = '{{ stage }}' then change else 0 end) as {{ stage }},
        {%- endfor %}
        sum(case when stage = 'conversion' then entered else 0 end) as new_customers,
        sum(case when stage = 'reactivated' then entered else 0 end) as reactivated_customers,
        sum(case when stage = 'churned' then entered else 0 end) as churned_customers
    from movements
    group by day
),

daily_orders as (
    select
        order_date as day,
        sum(orders_count) as orders,
        sum(revenue) as revenue,
        sum(case when order_day_number = 1 then 1 else 0 end) as first_time_buyers,
        sum(case when order_day_number = 2 then 1 else 0 end) as second_time_buyers
    from order_days
    group by order_date
),

daily_anonymous_orders as (
    select
        order_date as day,
        count(*) as orders,
        sum(revenue) as revenue
    from anonymous_orders
    group by order_date
),

daily_gaps as (
    select
        order_date as day,
        gap_days,
        count(*) as gaps
    from order_days
    where gap_days is not null
    group by order_date, gap_days
),

gap_lengths as (
    select distinct gap_days
    from daily_gaps
),

-- The weighted median of the gaps that ended within 30 days. Every day with every length, so that a
-- window of 30 rows is one of 30 days: a join would take each gap 30 times.
gaps_by_day as (
    select
        days.day,
        gap_lengths.gap_days,
        coalesce(daily_gaps.gaps, 0) as gaps
    from days
    cross join gap_lengths
    left join daily_gaps
        on days.day = daily_gaps.day and gap_lengths.gap_days = daily_gaps.gap_days
),

gaps_in_30_days as (
    select
        day,
        gap_days,
        sum(gaps) over (
            partition by gap_days order by day rows between 29 preceding and current row
        ) as gaps
    from gaps_by_day
),

ranked_gaps as (
    select
        day,
        gap_days,
        sum(gaps) over (partition by day order by gap_days) as gaps_up_to,
        sum(gaps) over (partition by day) as gaps_total
    from gaps_in_30_days
    where gaps > 0
),

median_gaps as (
    select
        day,
        min(gap_days) as median_days_between_orders
    from ranked_gaps
    where gaps_up_to * 2 >= gaps_total
    group by day
),

daily as (
    select
        days.day,
        {%- for stage in stages %}
        coalesce(daily_movements.{{ stage }}, 0) as {{ stage }},
        {%- endfor %}
        coalesce(daily_movements.new_customers, 0) as new_customers,
        coalesce(daily_movements.reactivated_customers, 0) as reactivated_customers,
        coalesce(daily_movements.churned_customers, 0) as churned_customers,
        coalesce(daily_orders.orders, 0) + coalesce(daily_anonymous_orders.orders, 0) as orders,
        coalesce(daily_orders.revenue, 0) + coalesce(daily_anonymous_orders.revenue, 0) as revenue,
        coalesce(daily_orders.first_time_buyers, 0) as first_time_buyers,
        coalesce(daily_orders.second_time_buyers, 0) as second_time_buyers,
        median_gaps.median_days_between_orders
    from days
    left join daily_movements on days.day = daily_movements.day
    left join daily_orders on days.day = daily_orders.day
    left join median_gaps on days.day = median_gaps.day
    left join daily_anonymous_orders on days.day = daily_anonymous_orders.day
),

running as (
    select
        day,
        {%- for stage in stages %}
        sum({{ stage }}) over (order by day) as {{ stage }},
        {%- endfor %}
        new_customers,
        reactivated_customers,
        churned_customers,
        orders,
        revenue,
        sum(churned_customers) over last_30_days as churned_in_30_days,
        sum(orders) over last_30_days as orders_in_30_days,
        sum(revenue) over last_30_days as revenue_in_30_days,
        sum(first_time_buyers) over (order by day) as buyers,
        sum(second_time_buyers) over (order by day) as repeat_buyers,
        median_days_between_orders
    from daily
    window last_30_days as (order by day rows between 29 preceding and current row)
),

compared as (
    select
        *,
        new_customers + reactivated_customers - churned_customers as net_customer_growth,
        lag({{ buyer_stages | join(' + ') }}, 30) over (order by day)
            as active_buyers_30_days_before
    from running
),

rated as (
    select
        *,
        sum(net_customer_growth) over last_30_days as net_customer_growth_30_days,
        cast(churned_in_30_days / nullif(active_buyers_30_days_before * 1.0, 0) as numeric(9, 4))
            as churn_rate
    from compared
    window last_30_days as (order by day rows between 29 preceding and current row)
),

alarmed as (
    select
        *,
        {{ churn_rate_alarm_level() }} as churn_rate_alarm_level
    from rated
    window previous_90_days as (order by day rows between 90 preceding and 1 preceding)
),

final as (
    select
        cast(day as date) as day,
        {%- for stage in stages %}
        cast({{ stage }} as integer) as customers_{{ stage }},
        {%- endfor %}
        cast(new_customers as integer) as new_customers,
        cast(reactivated_customers as integer) as reactivated_customers,
        cast(churned_customers as integer) as churned_customers,
        cast(churn_rate as numeric(9, 4)) as churn_rate,
        cast(repeat_buyers / nullif(buyers * 1.0, 0) as numeric(9, 4)) as repeat_purchase_rate,
        cast(orders as integer) as orders,
        cast(revenue as numeric(18, 4)) as revenue,
        cast(revenue_in_30_days / nullif(orders_in_30_days, 0) as numeric(18, 4))
            as average_order_value,
        cast(median_days_between_orders as integer) as median_days_between_orders,
        cast(net_customer_growth as integer) as net_customer_growth,
        cast(net_customer_growth_30_days as integer) as net_customer_growth_30_days,
        coalesce(churn_rate > churn_rate_alarm_level, false) as churn_alarm
    from alarmed
)

select * from final
