{{ config(indexes=[{'columns': ['customer_id']}]) }}

with

identities as (
    select * from {{ ref('int_customer_identities') }}
),

addresses as (
    select * from {{ ref('int_contactability') }}
    where channel = 'email'
),

events as (
    select * from {{ ref('int_consent_events') }}
),

order_days as (
    select * from {{ ref('int_order_days') }}
),

signs as (
    select * from {{ ref('int_interest_signs') }}
),

-- Whoever objected to profiling is scored and segmented no more.
objections as (
    select distinct addresses.customer_id
    from addresses
    inner join events on addresses.address = events.address
    where events.evidence = 'profiling_objection'
),

first_orders as (
    select
        customer_id,
        order_date as first_order_date
    from order_days
    where order_day_number = 1
),

signs_of_customers as (
    select
        customer_id,
        min(sign_on) as first_sign_on,
        {{ checksum("cast(sign_on as " ~ dbt.type_string() ~ ") || ' ' || sign") }}
            as signs_checksum
    from signs
    group by customer_id
),

newest_first as (
    select
        *,
        row_number() over (
            partition by customer_id
            order by
                modified_at desc nulls last,
                known_on desc,
                source asc,
                source_record_type asc,
                source_id asc
        ) as recency_rank,
        row_number() over (
            partition by customer_id
            order by known_on asc, source asc, source_record_type asc, source_id asc
        ) as age_rank
    from identities
),

attributes as (
    select
        customer_id,
        min(known_on) as known_on,
        {{ first_known('acquisition_source', 'age_rank') }} as acquisition_source,
        {{ first_known('preferred_language', 'recency_rank') }} as preferred_language,
        {{ first_known('country', 'recency_rank') }} as country,
        {{ first_known('first_name', 'recency_rank') }} as first_name,
        {{ first_known('last_name', 'recency_rank') }} as last_name,
        {{ first_known('birthday', 'recency_rank') }} as birthday
    from newest_first
    group by customer_id
),

final as (
    select
        attributes.customer_id,
        -- least() would be null with a null on some databases.
        least(
            attributes.known_on,
            coalesce(first_orders.first_order_date, attributes.known_on),
            coalesce(signs_of_customers.first_sign_on, attributes.known_on)
        ) as first_seen_on,
        attributes.acquisition_source,
        attributes.preferred_language,
        attributes.country,
        addresses.address as email,
        attributes.first_name,
        attributes.last_name,
        attributes.birthday,
        signs_of_customers.signs_checksum,
        objections.customer_id is not null as has_profiling_objection,
        -- Of age on the 18th birthday; one born on 29 February on 1 March.
        coalesce(
            attributes.birthday > cast({{ dbt.dateadd('year', -18, as_of_date()) }} as date), false
        ) as is_minor
    from attributes
    left join first_orders on attributes.customer_id = first_orders.customer_id
    left join signs_of_customers on attributes.customer_id = signs_of_customers.customer_id
    left join addresses
        on attributes.customer_id = addresses.customer_id and addresses.preference = 1
    left join objections on attributes.customer_id = objections.customer_id
)

select * from final
