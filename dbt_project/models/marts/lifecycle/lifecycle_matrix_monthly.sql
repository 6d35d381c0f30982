with

intervals as (
    select * from {{ ref('lifecycle_intervals') }}
),

first_day as (
    select min(valid_from) as first_day
    from intervals
),

months as (
    {{ months_from_to('(select first_day from first_day)', as_of_date()) }}
),

-- Only the stays in which a month ends (the as-of day ends the last one): of these, each begins in
-- the first month that ends in it, and the one before it held until the end of the month before.
month_end_stays as (
    select
        {{ first_of_month('valid_from') }} as month,
        lag(stage) over (partition by customer_id order by valid_from) as from_stage,
        stage as to_stage
    from intervals
    where
        valid_to is null
        or {{ first_of_month('valid_to') }} > {{ first_of_month('valid_from') }}
),

arrivals as (
    select
        month,
        coalesce(from_stage, 'not_known') as from_stage,
        to_stage,
        count(*) as customers
    from month_end_stays
    group by month, coalesce(from_stage, 'not_known'), to_stage
),

movements as (
    select
        month,
        to_stage as stage,
        customers as change,
        0 as departures
    from arrivals
    union all
    select
        month,
        from_stage as stage,
        -customers as change,
        customers as departures
    from arrivals
    where from_stage <> 'not_known'
),

monthly_movements as (
    select
        month,
        stage,
        sum(change) as change,
        sum(departures) as departures
    from movements
    group by month, stage
),

stages as (
    select distinct stage
    from movements
),

-- The running total is who is in a stage at the end of a month.
stocks as (
    select
        months.month,
        stages.stage,
        coalesce(monthly_movements.departures, 0) as departures,
        sum(coalesce(monthly_movements.change, 0))
            over (partition by stages.stage order by months.month)
        - coalesce(monthly_movements.change, 0) as customers_at_start
    from months
    cross join stages
    left join monthly_movements
        on months.month = monthly_movements.month and stages.stage = monthly_movements.stage
),

moves as (
    select
        month,
        from_stage,
        to_stage,
        customers
    from arrivals
    union all
    -- Who did not leave the stage at all.
    select
        month,
        stage as from_stage,
        stage as to_stage,
        customers_at_start - departures as customers
    from stocks
),

matrix as (
    select
        month,
        from_stage,
        to_stage,
        sum(customers) as customers
    from moves
    group by month, from_stage, to_stage
    having sum(customers) > 0
),

final as (
    select
        cast(month as date) as month,
        cast({{ last_counted_day('month') }} as date) as counted_until,
        cast(from_stage as {{ dbt.type_string() }}) as from_stage,
        cast(to_stage as {{ dbt.type_string() }}) as to_stage,
        cast(customers as integer) as customers,
        -- Everybody in a stage at the start is in exactly one row.
        cast(
            customers * 1.0 / sum(customers) over (partition by month, from_stage) as numeric(9, 4)
        ) as share_of_from_stage
    from matrix
)

select * from final
