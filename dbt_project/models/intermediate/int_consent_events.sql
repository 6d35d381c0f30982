{#- Every dated or undated fact about an address, from every source, in one vocabulary. -#}
{%- set columns = {
    'source': dbt.type_string(),
    'email': dbt.type_string(),
    'channel': dbt.type_string(),
    'evidence': dbt.type_string(),
    'occurred_at': 'timestamp with time zone',
    'wording': dbt.type_string(),
} -%}
{%- set files -%}
    select
        source,
        email,
        coalesce(channel, 'email') as channel,
        evidence,
        occurred_at,
        wording
    from {{ ref('stg_files__consent_events') if source_is_enabled('files') }}
{%- endset -%}
{%- set woocommerce_customers -%}
    select
        'woocommerce' as source,
        email,
        'email' as channel,
        {{ newsletter_evidence('newsletter_opt_in') }} as evidence,
        newsletter_opt_in_at as occurred_at,
        null as wording
    from {{ ref('stg_woocommerce__customers') if source_is_enabled('woocommerce') }}
{%- endset -%}
{%- set woocommerce_orders -%}
    select
        'woocommerce' as source,
        email,
        'email' as channel,
        {{ newsletter_evidence('newsletter_opt_in') }} as evidence,
        ordered_at as occurred_at,
        null as wording
    from {{ ref('stg_woocommerce__orders') if source_is_enabled('woocommerce') }}
{%- endset -%}
{%- if source_is_enabled('hubspot') -%}
{%- set hubspot_contacts = ref('stg_hubspot__contacts') -%}
{%- set hubspot_changes = ref('stg_hubspot__contact_property_history') -%}
{%- endif -%}
{%- set hubspot_history -%}
    select
        'hubspot' as source,
        contacts.email,
        'email' as channel,
        case
            when changes.property = 'hs_email_optout' and changes.property_value = 'true'
                then 'withdrawn'
            when changes.property = 'hs_emailconfirmationstatus'
                and changes.property_value in ('confirmed', 'double_opt_in')
                then 'double'
            when changes.property = 'hs_emailconfirmationstatus'
                and changes.property_value like '%pending%'
                then 'pending'
        end as evidence,
        changes.changed_at as occurred_at,
        null as wording
    from {{ hubspot_changes }} as changes
    inner join {{ hubspot_contacts }} as contacts
        on changes.contact_row_id = contacts.contact_row_id
    where changes.property in ('hs_email_optout', 'hs_emailconfirmationstatus')
{%- endset -%}
{#- An undated opt-out stands from the contact's last change, the latest it can be. Where that comes
    after the as-of day it may still be older, so it has no date and counts against the person. -#}
{%- set hubspot_optouts -%}
    select
        'hubspot' as source,
        contacts.email,
        'email' as channel,
        'withdrawn' as evidence,
        case when contacts.modified_at < {{ as_of_end() }} then contacts.modified_at end
            as occurred_at,
        null as wording
    from {{ hubspot_contacts }} as contacts
    left join {{ hubspot_changes }} as changes
        on
            contacts.contact_row_id = changes.contact_row_id
            and changes.property = 'hs_email_optout'
            and changes.property_value = 'true'
    where contacts.is_opted_out and changes.contact_row_id is null
{%- endset -%}

with

subscriber_states as (
    select * from {{ source('activation', 'subscriber_states') }}
),

from_sources as (
    {{ union_of_enabled_sources(
        {
            'files': files,
            'hubspot.history': hubspot_history,
            'hubspot.optouts': hubspot_optouts,
            'woocommerce.customers': woocommerce_customers,
            'woocommerce.orders': woocommerce_orders,
        },
        columns,
    ) }}
),

-- What the email tools say of their own subscribers is the best evidence there is. A subscriber
-- without proof of how consent was given, and an archived one, prove nothing.
from_tools as (
    select
        destination as source,
        address as email,
        'email' as channel,
        case state
            when 'subscribed' then evidence
            when 'unsubscribed' then 'withdrawn'
            when 'blocklisted' then 'withdrawn'
            when 'bounced' then 'bounced'
            when 'complained' then 'complained'
            when 'pending' then 'pending'
        end as evidence,
        state_changed_at as occurred_at,
        cast(null as {{ dbt.type_string() }}) as wording
    from subscriber_states
),

unioned as (
    select * from from_sources
    union all
    select * from from_tools
),

final as (
    select
        source,
        {{ normalised_email('email') }} as address,
        channel,
        evidence,
        occurred_at,
        wording
    from unioned
    where
        evidence is not null
        and {{ normalised_email('email') }} is not null
        and (occurred_at < {{ as_of_end() }} or occurred_at is null)
)

select * from final
