{#- The strongest first. -#}
{%- set levels = ['double', 'single', 'existing_customer'] -%}
{%- if var('minimum_consent') not in levels -%}
    {{ exceptions.raise_compiler_error(
        "dbt variable minimum_consent is '" ~ var('minimum_consent') ~ "'. Allowed: "
        ~ levels | join(', ') ~ "."
    ) }}
{%- endif -%}
{%- set sufficient = levels[:levels.index(var('minimum_consent')) + 1] -%}

with

addresses as (
    select * from {{ ref('int_customer_addresses') }}
),

events as (
    select * from {{ ref('int_consent_events') }}
),

-- One row per address and channel: email always, another channel where something is known of it.
channels as (
    select
        address,
        'email' as channel
    from addresses
    union
    select distinct
        address,
        channel
    from events
),

address_facts as (
    select
        address,
        channel,
        max(case when evidence = 'double' then occurred_at end) as double_at,
        max(case when evidence = 'single' then occurred_at end) as single_at,
        max(case when evidence = 'existing_customer' then occurred_at end) as existing_customer_at,
        max(case when evidence = 'pending' then occurred_at end) as pending_at,
        max(case when evidence in {{ sql_texts(sufficient) }} then occurred_at end)
            as consented_at,
        max(case when evidence = 'bounced' then occurred_at end) as bounced_at,
        {{ any_true("evidence = 'bounced' and occurred_at is null") }} as has_undated_bounce,
        {{ any_true(
            "evidence in ('double', 'single', 'existing_customer') and occurred_at is null"
        ) }} as has_undated_consent
    from events
    group by address, channel
),

-- A withdrawal or complaint, on whichever of the person's addresses, speaks for the person. One
-- without a date may be the newest fact, so it always counts.
person_facts as (
    select
        addresses.customer_id,
        max(case when events.evidence = 'withdrawn' then events.occurred_at end) as withdrawn_at,
        max(case when events.evidence = 'complained' then events.occurred_at end) as complained_at,
        {{ any_true("events.evidence = 'withdrawn' and events.occurred_at is null") }}
            as has_undated_withdrawal,
        {{ any_true("events.evidence = 'complained' and events.occurred_at is null") }}
            as has_undated_complaint
    from addresses
    inner join events on addresses.address = events.address
    where events.evidence in ('withdrawn', 'complained')
    group by addresses.customer_id
),

facts as (
    select
        addresses.customer_id,
        channels.channel,
        addresses.address,
        addresses.last_seen_on,
        addresses.is_relay_address,
        addresses.is_test_address,
        addresses.is_ambiguous,
        address_facts.consented_at,
        coalesce(address_facts.has_undated_consent, false) as has_undated_consent,
        case
            when address_facts.double_at is not null then 'double'
            when address_facts.single_at is not null then 'single'
            when address_facts.existing_customer_at is not null then 'existing_customer'
            when address_facts.pending_at is not null then 'pending'
        end as evidence,
        coalesce(
            address_facts.double_at,
            address_facts.single_at,
            address_facts.existing_customer_at,
            address_facts.pending_at
        ) as evidence_at,
        -- Only a confirmed opt-in of this address that is newer lifts what speaks against it.
        {%- for owner, verdict, undated in [
            ('person_facts', 'complained', 'has_undated_complaint'),
            ('person_facts', 'withdrawn', 'has_undated_withdrawal'),
            ('address_facts', 'bounced', 'has_undated_bounce'),
        ] %}
        coalesce(
            {{ owner }}.{{ undated }}
            or (
                {{ owner }}.{{ verdict }}_at is not null
                and (
                    address_facts.double_at is null
                    or address_facts.double_at <= {{ owner }}.{{ verdict }}_at
                )
            ),
            false
        ) as is_{{ verdict }},
        {%- endfor %}
        person_facts.complained_at,
        person_facts.withdrawn_at,
        address_facts.bounced_at
    from addresses
    inner join channels on addresses.address = channels.address
    left join address_facts
        on
            channels.address = address_facts.address
            and channels.channel = address_facts.channel
    left join person_facts on addresses.customer_id = person_facts.customer_id
),

judged as (
    select
        *,
        case
            when is_relay_address then 'marketplace_relay'
            when is_test_address then 'test_address'
            when is_ambiguous then 'ambiguous_identity'
            when is_complained then 'complained'
            when is_withdrawn then 'withdrawn'
            when is_bounced then 'bounced'
            when consented_at is not null then null
            when evidence = 'pending' then 'consent_pending'
            when evidence is not null then 'consent_too_weak'
            when has_undated_consent then 'consent_undated'
            else 'consent_unknown'
        end as blocked_because
    from facts
),

ranked as (
    select
        *,
        row_number() over (
            partition by customer_id, channel
            order by
                case when blocked_because is null then 0 else 1 end asc,
                case when blocked_because is null then consented_at end desc nulls last,
                last_seen_on desc,
                address asc
        ) as preference
    from judged
),

final as (
    select
        customer_id,
        channel,
        address,
        blocked_because is null as is_contactable,
        coalesce(blocked_because, 'consent_' || evidence) as reason,
        -- The fact that decided: what speaks against the address, else the consent.
        case
            when blocked_because in ('complained', 'withdrawn', 'bounced') then blocked_because
            else evidence
        end as evidence,
        case blocked_because
            when 'complained' then complained_at
            when 'withdrawn' then withdrawn_at
            when 'bounced' then bounced_at
            else evidence_at
        end as evidence_at,
        -- The newest contactable address of a customer is the one that is sent.
        preference = 1 and blocked_because is null as is_preferred,
        preference
    from ranked
)

select * from final
