-- Fails closed: contactable means dated evidence of the required strength and nothing newer against
-- it, checked here against the events by themselves.
{{ config(tags=['transform']) }}
{%- set levels = ['double', 'single', 'existing_customer'] %}

with

contactable as (
    select
        customer_id,
        channel,
        address
    from {{ ref('contactability') }}
    where is_contactable
),

events as (
    select * from {{ ref('int_consent_events') }}
),

consent as (
    select
        contactable.customer_id,
        contactable.channel,
        contactable.address,
        max(case when events.evidence = 'double' then events.occurred_at end) as confirmed_at,
        max(events.occurred_at) as consented_at
    from contactable
    left join events
        on
            contactable.address = events.address
            and contactable.channel = events.channel
            and events.evidence in {{ sql_texts(
                levels[:levels.index(var('minimum_consent')) + 1]
            ) }}
    group by contactable.customer_id, contactable.channel, contactable.address
),

objections as (
    select
        addresses.customer_id,
        addresses.address,
        events.channel,
        events.evidence,
        events.occurred_at
    from {{ ref('contactability') }} as addresses
    inner join events on addresses.address = events.address
    where events.evidence in ('withdrawn', 'complained', 'bounced')
)

select
    consent.customer_id,
    'no dated consent' as fault
from consent
where consent.consented_at is null
union all
select
    consent.customer_id,
    objections.evidence as fault
from consent
inner join objections on consent.customer_id = objections.customer_id
where
    (
        objections.evidence <> 'bounced'
        or (objections.address = consent.address and objections.channel = consent.channel)
    )
    and (
        objections.occurred_at is null
        or consent.confirmed_at is null
        or objections.occurred_at >= consent.confirmed_at
    )
