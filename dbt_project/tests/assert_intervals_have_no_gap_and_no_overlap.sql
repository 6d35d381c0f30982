-- From the day a customer is known, exactly one stage holds on every day: each interval begins
-- where the one before ends, the first on first_seen_on, only the last is open, neighbours differ.
{{ config(tags=['transform']) }}

with

ordered as (
    select
        customer_id,
        stage,
        valid_from,
        valid_to,
        lag(valid_to) over (partition by customer_id order by valid_from) as previous_valid_to,
        lag(stage) over (partition by customer_id order by valid_from) as previous_stage,
        lead(valid_from) over (partition by customer_id order by valid_from) as next_valid_from
    from {{ ref('lifecycle_intervals') }}
),

broken as (
    select
        customer_id,
        valid_from,
        case
            when valid_to is not null and valid_to <= valid_from then 'empty or reversed'
            when previous_stage is not null and previous_valid_to is null then 'two open intervals'
            when previous_valid_to <> valid_from then 'gap or overlap'
            when previous_stage = stage then 'neighbours with the same stage'
            when next_valid_from is null and valid_to is not null then 'no open interval'
        end as fault
    from ordered
),

starts as (
    select
        customers.customer_id,
        customers.first_seen_on,
        min(ordered.valid_from) as starts_on
    from {{ ref('customers') }} as customers
    left join ordered on customers.customer_id = ordered.customer_id
    group by customers.customer_id, customers.first_seen_on
)

select
    customer_id,
    valid_from,
    fault
from broken
where fault is not null
union all
select
    customer_id,
    first_seen_on as valid_from,
    'does not begin on the first known day' as fault
from starts
where starts_on is null or starts_on <> first_seen_on
