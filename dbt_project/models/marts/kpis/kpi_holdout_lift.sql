{%- set days = var('holdout_lift_days') %}
{%- set fewest = var('holdout_lift_min_customers') %}

with

draws as (
    select * from {{ source('history', 'holdout_draws') }}
    where salt = {{ sql_text(var('holdout_salt')) }}
),

publications as (
    select * from {{ source('history', 'publications') }}
),

merged_customers as (
    select * from {{ ref('int_merged_customers') }}
),

customers as (
    select * from {{ ref('customers') }}
),

order_days as (
    select * from {{ ref('int_order_days') }}
),

-- Draws by chance whose window is over. What was recorded again for a merge is the same draw, and
-- from a backfilled day nothing was sent.
complete as (
    select
        draws.segment,
        draws.customer_id as drawn_customer_id,
        coalesce(merged_customers.customer_id, draws.customer_id) as customer_id,
        draws.drawn_on,
        draws.is_holdout,
        draws.holdout_percent
    from draws
    left join merged_customers on draws.customer_id = merged_customers.merged_customer_id
    where
        draws.holdout_percent > 0
        and draws.as_of_date = draws.drawn_on
        and draws.drawn_on <= {{ add_days(as_of_date(), -days) }}
        and draws.as_of_date in (select publications.as_of_date from publications)
),

-- Arms of different shares were drawn at different times, so their people are not alike (Simpson's
-- paradox): only one percentage is compared.
percentages as (
    select
        segment,
        holdout_percent,
        row_number() over (
            partition by segment order by drawn_on desc, holdout_percent desc
        ) as recency_rank
    from complete
),

ranked as (
    select
        complete.*,
        row_number() over (
            partition by complete.segment, complete.customer_id
            order by complete.drawn_on, complete.drawn_customer_id
        ) as entry_number
    from complete
    inner join percentages
        on
            complete.segment = percentages.segment
            and complete.holdout_percent = percentages.holdout_percent
            and percentages.recency_rank = 1
    inner join customers on complete.customer_id = customers.customer_id
),

-- By intention to treat: whoever was drawn counts in that arm, whatever happened later.
assigned as (
    select * from ranked
    where entry_number = 1
),

outcomes as (
    select
        assigned.segment,
        assigned.customer_id,
        assigned.drawn_on,
        assigned.is_holdout,
        assigned.holdout_percent,
        case when count(order_days.order_date) > 0 then 1 else 0 end as converted,
        coalesce(sum(order_days.revenue), 0) as revenue
    from assigned
    left join order_days
        on
            assigned.customer_id = order_days.customer_id
            and assigned.drawn_on < order_days.order_date
            and {{ add_days('assigned.drawn_on', days) }} >= order_days.order_date
    group by
        assigned.segment,
        assigned.customer_id,
        assigned.drawn_on,
        assigned.is_holdout,
        assigned.holdout_percent
),

segments as (
    select {{ global_holdout() }} as segment
    {%- for segment in var('segments') %}
    union
    select {{ sql_text(segment.key) }} as segment
    {%- endfor %}
    union
    select segment
    from outcomes
),

-- Of each arm: how many, how many of them bought, and mean and variance of their revenue.
counted as (
    select
        segments.segment,
        {%- for arm, condition in [('treated', 'not outcomes.is_holdout'),
                                   ('holdout', 'outcomes.is_holdout')] %}
        coalesce(sum(case when {{ condition }} then 1 else 0 end), 0) as {{ arm }}_customers,
        coalesce(sum(case when {{ condition }} then outcomes.converted end), 0)
            as {{ arm }}_converted,
        coalesce(sum(case when {{ condition }} then outcomes.revenue end), 0) as {{ arm }}_revenue,
        avg(case when {{ condition }} then outcomes.revenue end) as {{ arm }}_mean,
        cast(
            var_samp(case when {{ condition }} then outcomes.revenue end) as {{ dbt.type_float() }}
        ) as {{ arm }}_variance,
        {%- endfor %}
        min(outcomes.holdout_percent) as holdout_percent,
        min(outcomes.drawn_on) as first_drawn_on,
        max(outcomes.drawn_on) as last_drawn_on
    from segments
    left join outcomes on segments.segment = outcomes.segment
    group by segments.segment
),

estimated as (
    select
        *,
        treated_customers >= {{ fewest }} and holdout_customers >= {{ fewest }} as is_enough,
        cast(treated_converted as {{ dbt.type_float() }}) / nullif(treated_customers, 0)
            as treated_rate,
        cast(holdout_converted as {{ dbt.type_float() }}) / nullif(holdout_customers, 0)
            as holdout_rate,
        {%- for arm in ['treated', 'holdout'] %}
        {%- for end in ['low', 'high'] %}
        {{ wilson_end(arm ~ '_converted', arm ~ '_customers', end) }} as {{ arm }}_rate_{{ end }},
        {%- endfor %}
        {{ arm }}_variance / nullif({{ arm }}_customers, 0) as {{ arm }}_squared_error,
        {%- endfor %}
        treated_mean - holdout_mean as revenue_difference
    from counted
),

-- Welch's degrees of freedom. Where all revenue is the same nothing can be said.
spread as (
    select
        *,
        treated_rate - holdout_rate as rate_difference,
        case
            when treated_squared_error + holdout_squared_error > 0
                then sqrt(treated_squared_error + holdout_squared_error)
        end as standard_error,
        case
            when is_enough and treated_squared_error + holdout_squared_error > 0
                then power(treated_squared_error + holdout_squared_error, 2) / (
                    power(treated_squared_error, 2) / (treated_customers - 1)
                    + power(holdout_squared_error, 2) / (holdout_customers - 1)
                )
        end as degrees_of_freedom
    from estimated
),

bounded as (
    select
        segment,
        case when is_enough then rate_difference end as rate_difference,
        case
            when is_enough
                then rate_difference - sqrt(
                    power(treated_rate - treated_rate_low, 2)
                    + power(holdout_rate_high - holdout_rate, 2)
                )
        end as rate_difference_low,
        case
            when is_enough
                then rate_difference + sqrt(
                    power(treated_rate_high - treated_rate, 2)
                    + power(holdout_rate - holdout_rate_low, 2)
                )
        end as rate_difference_high,
        case when is_enough then revenue_difference end as revenue_difference,
        revenue_difference - {{ student_quantile('degrees_of_freedom') }} * standard_error
            as revenue_difference_low,
        revenue_difference + {{ student_quantile('degrees_of_freedom') }} * standard_error
            as revenue_difference_high
    from spread
),

final as (
    select
        cast(spread.segment as {{ dbt.type_string() }}) as segment,
        {{ as_of_date() }} as as_of_date,
        {{ days }} as window_days,
        cast(spread.holdout_percent as numeric(9, 4)) as holdout_percent,
        cast(spread.first_drawn_on as date) as first_drawn_on,
        cast(spread.last_drawn_on as date) as last_drawn_on,
        {%- for arm in ['treated', 'holdout'] %}
        cast(spread.{{ arm }}_customers as integer) as {{ arm }}_customers,
        cast(spread.{{ arm }}_converted as integer) as {{ arm }}_converted,
        cast(spread.{{ arm }}_rate as numeric(9, 4)) as {{ arm }}_conversion_rate,
        cast(spread.{{ arm }}_revenue as numeric(18, 4)) as {{ arm }}_revenue,
        cast(spread.{{ arm }}_mean as numeric(18, 4)) as {{ arm }}_revenue_per_customer,
        {%- endfor %}
        cast(
            (spread.treated_customers + spread.holdout_customers) * spread.holdout_percent / 100
            as numeric(18, 4)
        ) as expected_holdout_customers,
        cast(bounded.rate_difference as numeric(9, 4)) as conversion_rate_difference,
        cast(bounded.rate_difference_low as numeric(9, 4)) as conversion_rate_difference_low,
        cast(bounded.rate_difference_high as numeric(9, 4)) as conversion_rate_difference_high,
        bounded.rate_difference_low > 0 or bounded.rate_difference_high < 0
            as conversion_rate_difference_excludes_zero,
        cast(bounded.revenue_difference as numeric(18, 4)) as revenue_per_customer_difference,
        cast(bounded.revenue_difference_low as numeric(18, 4))
            as revenue_per_customer_difference_low,
        cast(bounded.revenue_difference_high as numeric(18, 4))
            as revenue_per_customer_difference_high,
        bounded.revenue_difference_low > 0 or bounded.revenue_difference_high < 0
            as revenue_per_customer_difference_excludes_zero
    from spread
    inner join bounded on spread.segment = bounded.segment
)

select * from final
