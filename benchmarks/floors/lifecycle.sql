-- The lifecycle tables by hand, under the default rules, for PostgreSQL alone.
--
-- Reads int_orders, int_customer_profiles and int_interest_signs from the search path; writes
-- lifecycle_intervals, lifecycle_projections and lifecycle_transitions into schema floor.
-- Parameter: as_of_date.
--
-- What makes it fast: the order days are sorted once, by bytes, and every later window reads them in
-- that order; gaps are whole numbers of half days; a stage that only goes on is dropped before rows
-- are multiplied; what the as-of date decides is left to views.

create unlogged table floor.schedule as
with days as (
    select
        customer_id collate "C" as customer_id,
        order_date
    from int_orders
    where is_counted
    group by customer_id collate "C", order_date
),

numbered as (
    select
        customer_id,
        order_date,
        row_number() over history as number,
        lag(order_date, 1) over history as day_1,
        lag(order_date, 2) over history as day_2,
        lag(order_date, 3) over history as day_3,
        lag(order_date, 4) over history as day_4,
        lag(order_date, 5) over history as day_5,
        lead(order_date) over history as next_date
    from days
    window history as (partition by customer_id order by order_date)
),

-- Twice the median of the last gaps, which is the number of days after which one is at risk.
measured as (
    select
        customer_id,
        order_date,
        number,
        day_1,
        next_date,
        coalesce(day_4 > order_date - 365, false) as is_loyal,
        greatest(28, least(360, case
            when day_5 is not null then 2 * (
                (day_4 - day_5)
                + greatest(
                    least(order_date - day_1, day_1 - day_2), least(day_2 - day_3, day_3 - day_4)
                )
                + least(
                    greatest(order_date - day_1, day_1 - day_2),
                    greatest(day_2 - day_3, day_3 - day_4)
                )
                - least(
                    day_4 - day_5,
                    greatest(
                        least(order_date - day_1, day_1 - day_2),
                        least(day_2 - day_3, day_3 - day_4)
                    ),
                    least(
                        greatest(order_date - day_1, day_1 - day_2),
                        greatest(day_2 - day_3, day_3 - day_4)
                    )
                )
                - greatest(
                    day_4 - day_5,
                    greatest(
                        least(order_date - day_1, day_1 - day_2),
                        least(day_2 - day_3, day_3 - day_4)
                    ),
                    least(
                        greatest(order_date - day_1, day_1 - day_2),
                        greatest(day_2 - day_3, day_3 - day_4)
                    )
                )
            )
            when day_4 is not null then
                order_date - day_4
                - least(order_date - day_1, day_1 - day_2, day_2 - day_3, day_3 - day_4)
                - greatest(order_date - day_1, day_1 - day_2, day_2 - day_3, day_3 - day_4)
            when day_3 is not null then 2 * (
                order_date - day_3
                - least(order_date - day_1, day_1 - day_2, day_2 - day_3)
                - greatest(order_date - day_1, day_1 - day_2, day_2 - day_3)
            )
            when day_2 is not null then order_date - day_2
            else 120
        end)) as at_risk_after
    from numbered
),

entered as (
    select
        customer_id,
        order_date,
        next_date,
        at_risk_after,
        case
            when number = 1 then 'conversion'
            when
                order_date >= day_1 + 2 * lag(at_risk_after) over (
                    partition by customer_id order by order_date
                )
                then 'reactivated'
        end as entry,
        case
            when is_loyal then 'loyalty' when number >= 3 then 'retention' else 'development'
        end as base
    from measured
),

-- The stage that the order day ends in, for the next one to go on from.
ended as (
    select
        *,
        case when entry is null or at_risk_after > 30 then base else entry end as settled_stage,
        case
            when next_date > order_date + 2 * at_risk_after then 'churned'
            when next_date > order_date + at_risk_after then 'at_risk'
            when entry is null or (next_date > order_date + 30 and at_risk_after > 30) then base
            else entry
        end as last_stage
    from entered
),

followed as (
    select
        *,
        lag(last_stage) over (partition by customer_id order by order_date) as stage_before
    from ended
),

-- One bit for each of the four stages an order day can begin: entry, base, at risk, churned. None
-- begins on or after the next order day.
begun as (
    select
        *,
        (entry is not null)::integer
        + 2 * (
            case
                when entry is null then base is distinct from stage_before
                else at_risk_after > 30 and order_date + 30 < coalesce(next_date, 'infinity')
            end
        )::integer
        + 4 * (order_date + at_risk_after < coalesce(next_date, 'infinity'))::integer
        + 8 * (order_date + 2 * at_risk_after < coalesce(next_date, 'infinity'))::integer
            as stages
    from followed
    offset 0
),

-- Only now are rows multiplied.
stays as (
    select
        *,
        unnest(
            case stages
                when 1 then '{1}' when 2 then '{2}' when 3 then '{1,2}' when 4 then '{3}'
                when 5 then '{1,3}' when 6 then '{2,3}' when 7 then '{1,2,3}'
                when 12 then '{3,4}' when 13 then '{1,3,4}' when 14 then '{2,3,4}'
                else '{1,2,3,4}'
            end::integer[]
        ) as position
    from begun
    where stages > 0
),

dated as (
    select
        customer_id,
        case position
            when 1 then entry when 2 then base when 3 then 'at_risk' else 'churned'
        end as stage,
        order_date + case position
            when 1 then 0
            when 2 then case when entry is null then 0 else 30 end
            when 3 then at_risk_after
            else 2 * at_risk_after
        end as valid_from,
        case position
            when 1 then case entry when 'conversion' then 'first_order' else 'order_after_churn' end
            when 2 then case when entry is null then 'order' else 'entry_stage_ended' end
            else 'no_order_since'
        end as entered_because,
        case position
            when 1 then stage_before
            when 2 then coalesce(entry, stage_before)
            when 3 then settled_stage
            else 'at_risk'
        end as stage_before
    from stays
)

-- The rows come in the order of the one sort, so that the next row is the next stage.
select
    customer_id collate "default" as customer_id,
    stage,
    valid_from,
    case when lead(customer_id) over () = customer_id then lead(valid_from) over () end as valid_to,
    entered_because,
    stage_before
from dated;

-- Before the first order, whose day ends the last stage of these.
create unlogged table floor.before_orders as
with first_orders as (
    select
        customer_id,
        valid_from as first_date
    from floor.schedule
    where stage = 'conversion'
),

steps as (
    select
        known.customer_id,
        known.day,
        max(known.sign) as sign,
        first_orders.first_date
    from (
        select customer_id, first_seen_on as day, null as sign from int_customer_profiles
        union all
        select customer_id, sign_on, sign from int_interest_signs
    ) as known
    left join first_orders on known.customer_id = first_orders.customer_id
    where first_orders.first_date is null or known.day < first_orders.first_date
    group by known.customer_id, known.day, first_orders.first_date
),

followed as (
    select
        *,
        coalesce(
            lead(day) over (partition by customer_id order by day), first_date
        ) as next_date
    from steps
),

begun as (
    select
        followed.customer_id,
        followed.first_date,
        stay.stage,
        followed.day + stay.after_days as valid_from,
        stay.entered_because,
        lag(stay.stage) over (
            partition by followed.customer_id order by followed.day + stay.after_days
        ) as stage_before
    from followed
    cross join lateral (
        values
        (
            case when followed.sign is null then 'reach' else 'acquisition' end,
            0,
            coalesce(followed.sign, 'first_known')
        ),
        ('dormant_lead', 365, 'no_sign_of_interest')
    ) as stay (stage, after_days, entered_because)
    where followed.next_date is null or followed.day + stay.after_days < followed.next_date
)

select
    customer_id,
    stage,
    valid_from,
    coalesce(
        lead(valid_from) over (partition by customer_id order by valid_from), first_date
    ) as valid_to,
    entered_because,
    stage_before,
    first_date
from begun
where stage_before is distinct from stage;

create index on floor.schedule (customer_id);
create index on floor.before_orders (customer_id);
analyze floor.schedule;
analyze floor.before_orders;

create view floor.lifecycle_intervals as
select
    customer_id,
    stage,
    valid_from,
    case when valid_to <= %(as_of_date)s::date then valid_to end as valid_to,
    entered_because
from floor.schedule
where valid_from <= %(as_of_date)s::date
union all
select
    customer_id,
    stage,
    valid_from,
    case when valid_to <= %(as_of_date)s::date then valid_to end,
    entered_because
from floor.before_orders
where valid_from <= %(as_of_date)s::date;

create view floor.lifecycle_projections as
select
    customer_id,
    stage,
    valid_from as from_date
from floor.schedule
where valid_from > %(as_of_date)s::date
union all
select
    customer_id,
    stage,
    valid_from
from floor.before_orders
where valid_from > %(as_of_date)s::date;

create view floor.lifecycle_transitions as
select
    customer_id,
    stage_before as from_stage,
    stage as to_stage,
    valid_from as changed_on
from floor.schedule
where stage_before is not null and valid_from <= %(as_of_date)s::date
union all
select
    customer_id,
    stage_before,
    stage,
    valid_from
from floor.before_orders
where stage_before is not null and valid_from <= %(as_of_date)s::date
union all
select
    customer_id,
    stage,
    'conversion',
    first_date
from floor.before_orders
where valid_to = first_date;
