with

customers as (
    select * from {{ ref('customers') }}
),

contactability as (
    select * from {{ ref('int_contactability') }}
    where channel = 'email' and preference = 1
),

rfm as (
    select * from {{ ref('customer_rfm') }}
),

customer_value as (
    select * from {{ ref('customer_value') }}
),

stages as (
    select * from {{ ref('lifecycle_intervals') }}
    where valid_to is null
),

stages_before as (
    select * from {{ ref('lifecycle_intervals') }}
    where valid_to is not null
),

stage_labels as (
    select * from {{ ref('lifecycle_frameworks') }}
    where framework = 'kundenkreis'
),

rfm_labels as (
    select * from {{ ref('rfm_segments') }}
),

projections as (
    select
        customer_id,
        stage,
        from_date,
        row_number() over (partition by customer_id order by from_date) as coming_rank
    from {{ ref('lifecycle_projections') }}
),

order_facts as (
    select * from {{ ref('int_customer_order_facts') }}
),

spend_trend as (
    select * from {{ ref('int_customer_spend_trend') }}
),

signs as (
    select
        customer_id,
        max(sign_on) as last_sign_on
    from {{ ref('int_interest_signs') }}
    group by customer_id
),

order_days as (
    select * from {{ ref('int_order_days') }}
    where next_order_date is null
),

-- A birthday after the as-of day is a slip of the pen.
birthdays as (
    select
        *,
        case
            when birthday <= {{ as_of_date() }}
                then {{ birthday_in_year('birthday', as_of_year()) }}
        end as birthday_this_year,
        {{ birthday_in_year('birthday', as_of_year() + 1) }} as birthday_next_year
    from customers
),

people as (
    select
        *,
        case
            when birthday_this_year >= {{ as_of_date() }} then birthday_this_year
            when birthday_this_year < {{ as_of_date() }} then birthday_next_year
        end as next_birthday_on,
        case when birthday_this_year > {{ as_of_date() }} then 1 else 0 end as years_not_full
    from birthdays
),

final as (
    select
        cast(people.customer_id as {{ dbt.type_string() }}) as customer_id,
        {{ as_of_date() }} as as_of_date,
        cast(people.email as {{ dbt.type_string() }}) as email,
        cast(people.first_name as {{ dbt.type_string() }}) as first_name,
        cast(people.last_name as {{ dbt.type_string() }}) as last_name,
        cast(stages.stage as {{ dbt.type_string() }}) as stage,
        cast(stages_before.stage as {{ dbt.type_string() }}) as previous_stage,
        cast(stages.valid_from as date) as stage_since,
        cast({{ days_between('stages.valid_from', as_of_date()) }} as integer) as days_in_stage,
        cast(projections.stage as {{ dbt.type_string() }}) as next_stage,
        cast(projections.from_date as date) as next_stage_date,
        cast({{ days_between(as_of_date(), 'projections.from_date') }} as integer)
            as days_until_next_stage,
        cast(rfm.recency_days as integer) as recency_days,
        cast(rfm.frequency as integer) as frequency,
        cast(rfm.monetary as numeric(18, 4)) as monetary,
        cast(rfm.r_score as integer) as r_score,
        cast(rfm.f_score as integer) as f_score,
        cast(rfm.m_score as integer) as m_score,
        cast(rfm.rfm_code as {{ dbt.type_string() }}) as rfm_code,
        cast(rfm.rfm_segment as {{ dbt.type_string() }}) as rfm_segment,
        cast(order_facts.first_order_date as date) as first_order_date,
        cast(order_facts.last_order_date as date) as last_order_date,
        cast(coalesce(order_facts.orders_count, 0) as integer) as orders_count,
        cast(coalesce(order_facts.revenue_total, 0) as numeric(18, 4)) as revenue_total,
        cast(order_facts.average_order_value as numeric(18, 4)) as average_order_value,
        cast(order_days.expected_gap_days as numeric(10, 2)) as expected_gap_days,
        cast(order_facts.last_abandoned_checkout_on as date) as last_abandoned_checkout_on,
        cast(people.first_seen_on as date) as first_seen_on,
        cast(people.acquisition_source as {{ dbt.type_string() }}) as acquisition_source,
        cast(people.preferred_language as {{ dbt.type_string() }}) as preferred_language,
        cast(people.country as {{ dbt.type_string() }}) as country,
        cast(people.birthday as date) as birthday,
        cast(coalesce(contactability.is_contactable, false) as boolean) as is_contactable,
        cast(
            case
                when contactability.customer_id is null then 'no_address'
                when not contactability.is_contactable then contactability.reason
            end as {{ dbt.type_string() }}
        ) as not_contactable_because,
        cast(contactability.evidence_at as timestamp with time zone) as consent_at,
        cast(people.has_profiling_objection as boolean) as has_profiling_objection,
        cast(people.is_minor as boolean) as is_minor,
        cast(stages.entered_because as {{ dbt.type_string() }}) as stage_entered_because,
        cast(signs.last_sign_on as date) as last_sign_of_interest_on,
        cast(contactability.evidence as {{ dbt.type_string() }}) as consent_evidence,
        cast(customer_value.p_alive as {{ dbt.type_float() }}) as p_alive,
        cast(customer_value.expected_orders_90d as {{ dbt.type_float() }}) as expected_orders_90d,
        cast(customer_value.expected_orders_365d as {{ dbt.type_float() }})
            as expected_orders_365d,
        cast(customer_value.clv_90d as numeric(18, 4)) as clv_90d,
        cast(customer_value.clv_365d as numeric(18, 4)) as clv_365d,
        cast(customer_value.expected_next_order_date as date) as expected_next_order_date,
        cast(coalesce(order_facts.orders_not_counted_count, 0) as integer)
            as orders_not_counted_count,
        cast(coalesce(order_facts.abandoned_checkouts_count, 0) as integer)
            as abandoned_checkouts_count,
        cast(order_facts.return_rate as numeric(10, 4)) as return_rate,
        cast(order_facts.refunded_orders_share as numeric(10, 4)) as refunded_orders_share,
        cast(order_facts.discount_share as numeric(10, 4)) as discount_share,
        cast(order_facts.favourite_category as {{ dbt.type_string() }}) as favourite_category,
        cast(order_facts.favourite_category_share as numeric(10, 4)) as favourite_category_share,
        cast(coalesce(order_facts.distinct_products_count, 0) as integer)
            as distinct_products_count,
        cast(coalesce(spend_trend.revenue_last_period, 0) as numeric(18, 4))
            as revenue_last_period,
        cast(coalesce(spend_trend.revenue_previous_period, 0) as numeric(18, 4))
            as revenue_previous_period,
        cast(spend_trend.spend_trend as numeric(18, 4)) as spend_trend,
        cast(
            {{ add_days(
                'order_days.order_date', 'cast(ceil(order_days.expected_gap_days) as integer)'
            ) }} as date
        ) as usual_reorder_date,
        cast({{ days_between('order_facts.last_delivered_on', as_of_date()) }} as integer)
            as days_since_delivery,
        cast(order_facts.last_delivered_on as date) as last_delivered_on,
        cast({{ days_between('order_facts.last_abandoned_checkout_on', as_of_date()) }} as integer)
            as days_since_abandoned_checkout,
        cast(people.next_birthday_on as date) as next_birthday_on,
        cast({{ days_between(as_of_date(), 'people.next_birthday_on') }} as integer)
            as days_until_birthday,
        cast(
            case
                when people.next_birthday_on is not null
                    then
                        {{ dbt.datediff('people.birthday', as_of_date(), 'year') }}
                        - people.years_not_full
            end as integer
        ) as age_years,
        cast(rfm_labels.label_en as {{ dbt.type_string() }}) as rfm_segment_label_en,
        cast(rfm_labels.label_de as {{ dbt.type_string() }}) as rfm_segment_label_de,
        cast(stage_labels.label_en as {{ dbt.type_string() }}) as stage_label_en,
        cast(stage_labels.label_de as {{ dbt.type_string() }}) as stage_label_de,
        cast(customer_value.expected_order_value as numeric(18, 4)) as expected_order_value
    from people
    left join stages on people.customer_id = stages.customer_id
    left join stages_before
        on
            stages.customer_id = stages_before.customer_id
            and stages.valid_from = stages_before.valid_to
    left join stage_labels on stages.stage = stage_labels.stage
    left join projections
        on people.customer_id = projections.customer_id and projections.coming_rank = 1
    left join rfm on people.customer_id = rfm.customer_id
    left join rfm_labels on rfm.rfm_code = rfm_labels.rfm_code
    left join customer_value on people.customer_id = customer_value.customer_id
    left join order_facts on people.customer_id = order_facts.customer_id
    left join spend_trend on people.customer_id = spend_trend.customer_id
    left join order_days on people.customer_id = order_days.customer_id
    left join contactability on people.customer_id = contactability.customer_id
    left join signs on people.customer_id = signs.customer_id
)

select * from final
