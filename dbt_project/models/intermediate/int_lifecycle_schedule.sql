{{ config(
    materialized='incremental',
    incremental_strategy='replace_differing',
    unique_key=['customer_id', 'valid_from'],
    meta={
        'changed': 'int_customers_with_changed_stages',
        'changed_keys': ['customer_id'],
        'indexed': 'customer_id',
    },
    unlogged=false,
    indexes=[{'columns': ['customer_id']}],
    pre_hook="{{ looks_up_blocks() }}",
) }}
{{ after_changed('int_customers_with_changed_stages') }}
{% set changed = last_build_of('int_customers_with_changed_stages') %}
{#- Each customer's whole schedule of stages, also beyond the as-of day: what will come without
    another order or sign. It changes only when the customer does. -#}
{%- set entry_days -%}
    case when order_day_number = 1
        then {{ var('new_customer_days') }} else {{ var('reactivated_days') }} end
{%- endset -%}

with

order_days as (
    select * from {{ rows_of_changed(
        ref('int_order_days'), changed, 'customer_id'
    ) }} as order_days
),

-- What changed has been put together with them already.
profiles as (
    {%- if adds_to_last_build() %}
    select * from {{ changed }}
    where first_seen_on is not null
    {%- else %}
    select * from {{ ref('int_customer_profiles') }}
    {%- endif %}
),

signs as (
    select * from {{ ref('int_interest_signs') }} as signs
    {{ where_changed(changed, {'customer_id': 'signs.customer_id'}) }}
),

----------  buyers: the stages after each order day, until the next

entered as (
    select
        *,
        case
            when order_day_number = 1 then 'conversion'
            when
                order_date >= {{ add_days('previous_order_date', 'previous_churned_after_days') }}
                then 'reactivated'
        end as entry_stage,
        case
            when is_loyal then 'loyalty'
            when order_day_number >= {{ var('retention_min_orders') }} then 'retention'
            else 'development'
        end as base_stage
    from order_days
),

-- From which day on each of the four stages would hold. At risk and churned cut an entry stage
-- short, so what would begin later than them never begins.
timed as (
    select
        *,
        case when entry_stage is not null then {{ entry_days }} else 0 end as base_after_days,
        least(at_risk_after_days, churned_after_days) as first_loss_after_days
    from entered
),

-- An order day with each of its four steps: entry, base, at risk, churned; so it is read once.
steps as (
    {%- for step in range(1, 5) %}
    select {{ step }} as step
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

stepped as (
    select
        timed.*,
        steps.step,
        case steps.step
            when 1 then 0
            when 2 then timed.base_after_days
            when 3 then timed.at_risk_after_days
            else timed.churned_after_days
        end as after_days
    from timed
    cross join steps
),

after_orders as (
    select
        customer_id,
        case step
            when 1 then entry_stage
            when 2 then base_stage
            when 3 then 'at_risk'
            else 'churned'
        end as stage,
        {{ add_days('order_date', 'after_days') }} as valid_from,
        case
            when step = 1 and order_day_number = 1 then 'first_order'
            when step = 1 then 'order_after_churn'
            when step = 2 and base_after_days = 0 then 'order'
            when step = 2 then 'entry_stage_ended'
            else 'no_order_since'
        end as entered_because,
        next_order_date as next_date
    from stepped
    where
        case step
            when 1 then entry_stage is not null and base_after_days > 0
            when 2 then base_after_days < first_loss_after_days
            when 3 then at_risk_after_days < churned_after_days
            else true
        end
),

----------  before the first order: known, interested, dormant

first_orders as (
    select
        customer_id,
        order_date as first_order_date
    from order_days
    where order_day_number = 1
),

-- Known since the first record, sign or order, whichever is oldest.
pre_purchase_days as (
    select
        customer_id,
        first_seen_on as known_on,
        cast(null as {{ dbt.type_string() }}) as sign
    from profiles
    union all
    select
        customer_id,
        sign_on as known_on,
        sign
    from signs
),

pre_purchase as (
    select
        pre_purchase_days.customer_id,
        pre_purchase_days.known_on,
        max(pre_purchase_days.sign) as sign,
        first_orders.first_order_date
    from pre_purchase_days
    left join first_orders on pre_purchase_days.customer_id = first_orders.customer_id
    where
        first_orders.first_order_date is null
        or pre_purchase_days.known_on < first_orders.first_order_date
    group by
        pre_purchase_days.customer_id,
        pre_purchase_days.known_on,
        first_orders.first_order_date
),

pre_purchase_steps as (
    select
        *,
        sign is not null as is_interested,
        coalesce(
            lead(known_on) over (partition by customer_id order by known_on), first_order_date
        ) as next_date
    from pre_purchase
),

before_orders as (
    select
        customer_id,
        case when is_interested then 'acquisition' else 'reach' end as stage,
        known_on as valid_from,
        case when is_interested then sign else 'first_known' end as entered_because,
        next_date
    from pre_purchase_steps
    union all
    select
        customer_id,
        'dormant_lead' as stage,
        {{ add_days('known_on', var('dormant_lead_days')) }} as valid_from,
        'no_sign_of_interest' as entered_because,
        next_date
    from pre_purchase_steps
),

----------  the whole schedule

candidates as (
    select * from before_orders
    union all
    select * from after_orders
),

-- What would begin on or after the next order day (or sign) never begins.
happening as (
    select
        *,
        lag(stage) over (partition by customer_id order by valid_from) as previous_stage
    from candidates
    where next_date is null or valid_from < next_date
),

-- Neighbours with the same stage are one stay.
final as (
    select
        customer_id,
        stage,
        valid_from,
        lead(valid_from) over (partition by customer_id order by valid_from) as valid_to,
        entered_because,
        previous_stage
    from happening
    where previous_stage is null or previous_stage <> stage
)

select * from final
