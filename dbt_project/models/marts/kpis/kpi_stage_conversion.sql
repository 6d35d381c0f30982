with

intervals as (
    select * from {{ ref('lifecycle_intervals') }}
),

stays as (
    select
        customer_id,
        stage as from_stage,
        {{ first_of_month('valid_from') }} as month,
        valid_from,
        lead(stage) over (partition by customer_id order by valid_from) as to_stage,
        {{ days_between('valid_from', 'valid_to') }} as days
    from intervals
),

-- Of somebody who enters a stage several times in a month, the first stay counts.
numbered as (
    select
        *,
        row_number() over (
            partition by customer_id, from_stage, month order by valid_from
        ) as stay_of_month
    from stays
),

counted as (
    select
        month,
        from_stage,
        to_stage,
        days,
        count(*) as customers
    from numbered
    where stay_of_month = 1
    group by month, from_stage, to_stage, days
),

entries as (
    select
        month,
        from_stage,
        sum(customers) as customers
    from counted
    group by month, from_stage
),

-- Also where nobody took it in a month, so that a rate of zero is told from a month not looked at.
ways as (
    select distinct
        from_stage,
        to_stage
    from counted
    where to_stage is not null
),

ranked as (
    select
        *,
        sum(customers) over (partition by month, from_stage, to_stage order by days)
            as customers_up_to,
        sum(customers) over (partition by month, from_stage, to_stage) as customers_total
    from counted
    where to_stage is not null
),

-- The weighted median of the days that the stays lasted.
conversions as (
    select
        month,
        from_stage,
        to_stage,
        sum(customers) as converted,
        min(case when customers_up_to * 2 >= customers_total then days end) as median_days
    from ranked
    group by month, from_stage, to_stage
),

final as (
    select
        cast(entries.month as date) as month,
        cast(entries.from_stage as {{ dbt.type_string() }}) as from_stage,
        cast(ways.to_stage as {{ dbt.type_string() }}) as to_stage,
        cast(entries.customers as integer) as customers,
        cast(coalesce(conversions.converted, 0) as integer) as converted,
        cast(coalesce(conversions.converted, 0) * 1.0 / entries.customers as numeric(9, 4))
            as conversion_rate,
        cast(conversions.median_days as integer) as median_days
    from entries
    inner join ways on entries.from_stage = ways.from_stage
    left join conversions
        on
            entries.month = conversions.month
            and entries.from_stage = conversions.from_stage
            and ways.to_stage = conversions.to_stage
)

select * from final
