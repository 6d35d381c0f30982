{#- Dated signs of interest: account, opt-in, lead status, deal, checkout begun. -#}
{%- set columns = {
    'source': dbt.type_string(),
    'source_record_type': dbt.type_string(),
    'source_id': dbt.type_string(),
    'sign': dbt.type_string(),
    'occurred_at': 'timestamp with time zone',
} -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        'customer' as source_record_type,
        customer_key as source_id,
        'account_created' as sign,
        created_at as occurred_at
    from {{ ref('stg_woocommerce__customers') if source_is_enabled('woocommerce') }}
{%- endset -%}
{%- if source_is_enabled('hubspot') -%}
{%- set hubspot_contacts = ref('stg_hubspot__contacts') -%}
{%- set hubspot_changes = ref('stg_hubspot__contact_property_history') -%}
{%- endif -%}
{%- set hubspot_changed_leads -%}
    select
        'hubspot' as source,
        'contact' as source_record_type,
        contacts.contact_key as source_id,
        'lead_status' as sign,
        changes.changed_at as occurred_at
    from {{ hubspot_changes }} as changes
    inner join {{ hubspot_contacts }} as contacts
        on changes.contact_row_id = contacts.contact_row_id
    where
        (
            changes.property = 'hs_lead_status'
            and coalesce(changes.property_value, '') not in ('', 'unqualified', 'bad_timing')
        )
        or (
            changes.property = 'lifecyclestage'
            and changes.property_value in (
                'lead', 'marketingqualifiedlead', 'salesqualifiedlead', 'opportunity'
            )
        )
{%- endset -%}
{#- An undated lead status stands from the contact's creation, the earliest it can be. -#}
{%- set hubspot_undated_leads -%}
    select
        'hubspot' as source,
        'contact' as source_record_type,
        contacts.contact_key as source_id,
        'lead_status' as sign,
        contacts.created_at as occurred_at
    from {{ hubspot_contacts }} as contacts
    left join {{ hubspot_changes }} as changes
        on
            contacts.contact_row_id = changes.contact_row_id
            and changes.property = 'hs_lead_status'
    where
        changes.contact_row_id is null
        and coalesce(contacts.lead_status, '') not in ('', 'unqualified', 'bad_timing')
{%- endset -%}
{%- set hubspot_deals -%}
    select
        'hubspot' as source,
        'contact' as source_record_type,
        contact_key as source_id,
        'open_deal' as sign,
        created_at as occurred_at
    from {{ ref('stg_hubspot__deals') if source_is_enabled('hubspot') }}
    where contact_key is not null and not is_archived
{%- endset -%}

with

identities as (
    select * from {{ ref('int_customer_identities') }}
),

orders as (
    select * from {{ ref('int_orders') }}
),

addresses as (
    select * from {{ ref('int_customer_addresses') }}
),

consent_events as (
    select * from {{ ref('int_consent_events') }}
),

of_records as (
    {{ union_of_enabled_sources(
        {
            'woocommerce': woocommerce,
            'hubspot.changes': hubspot_changed_leads,
            'hubspot.contacts': hubspot_undated_leads,
            'hubspot.deals': hubspot_deals,
        },
        columns,
    ) }}
),

signs as (
    select
        identities.customer_id,
        {{ local_date('of_records.occurred_at') }} as sign_on,
        of_records.sign
    from of_records
    inner join identities
        on
            of_records.source = identities.source
            and of_records.source_record_type = identities.source_record_type
            and of_records.source_id = identities.source_id
    where of_records.occurred_at < {{ as_of_end() }}
    union all
    select
        addresses.customer_id,
        {{ local_date('consent_events.occurred_at') }} as sign_on,
        'opt_in' as sign
    from consent_events
    inner join addresses on consent_events.address = addresses.address
    where
        consent_events.evidence in ('pending', 'single', 'double')
        and consent_events.occurred_at is not null
    union all
    select
        customer_id,
        order_date as sign_on,
        'checkout_begun' as sign
    from orders
    where
        customer_id is not null
        -- Whoever tried to buy: also where the payment failed, or all of it was refunded. A
        -- negative value is a credit note.
        and not_counted_because in (
            'abandoned_checkout', 'status_not_counted', 'fully_refunded', 'zero_value'
        )
        and revenue_before_refunds >= 0
),

final as (
    select
        customer_id,
        sign_on,
        min(sign) as sign
    from signs
    group by customer_id, sign_on
)

select * from final
