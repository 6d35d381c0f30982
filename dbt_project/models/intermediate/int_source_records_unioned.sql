{{ config(
    materialized='incremental',
    incremental_strategy='append',
    indexes=[{'columns': ['source_id']}, {'columns': ['is_listed']}],
    pre_hook="{{ forget_changed(
        'int_changed_records', ['source', 'source_record_type', 'source_id'], 'source_id'
    ) }}",
) }}
{{ after_changed('int_changed_records') }}
{# Every record of a person that a source holds, or that an order shows to exist. -#}
{%- set changed = last_build_of('int_changed_records') -%}
{%- set files -%}
    select
        source,
        'customer' as source_record_type,
        customer_key as source_id,
        email,
        first_name,
        last_name,
        country,
        preferred_language,
        acquisition_source,
        null as birthday,
        created_at,
        created_at as modified_at,
        phone_e164,
        case when linked_customer_key is not null then linked_source end as linked_source,
        case
            when linked_source is null or linked_customer_key is null then null
            when linked_source = 'hubspot' then 'contact'
            else 'customer'
        end as linked_record_type,
        case when linked_source is not null then linked_customer_key end as linked_source_id
    from {{ rows_of_changed(
        ref('stg_files__customers') if source_is_enabled('files'),
        changed, 'source_id', 'customer_key',
    ) }} as customers
    {{ where_changed(changed, {
        'source': 'customers.source',
        'source_record_type': "'customer'",
        'source_id': 'customers.customer_key',
    }) }}
{%- endset -%}
{%- set hubspot -%}
    select
        'hubspot' as source,
        'contact' as source_record_type,
        contact_key as source_id,
        email,
        first_name,
        last_name,
        null as country,
        preferred_language,
        acquisition_source,
        {{ safe_date('date_of_birth') }} as birthday,
        created_at,
        modified_at,
        phone_e164,
        linked_source,
        case when linked_source is not null then 'customer' end as linked_record_type,
        linked_customer_key as linked_source_id
    from {{ rows_of_changed(
        ref('stg_hubspot__contacts') if source_is_enabled('hubspot'),
        changed, 'source_id', 'contact_key',
    ) }} as contacts
    where
        not contacts.is_archived
        {{ where_changed(changed, {
            'source': "'hubspot'",
            'source_record_type': "'contact'",
            'source_id': 'contacts.contact_key',
        }, 'and') }}
{%- endset -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        'customer' as source_record_type,
        customer_key as source_id,
        email,
        first_name,
        last_name,
        country,
        null as preferred_language,
        null as acquisition_source,
        null as birthday,
        created_at,
        modified_at,
        phone_e164,
        null as linked_source,
        null as linked_record_type,
        null as linked_source_id
    from {{ rows_of_changed(
        ref('stg_woocommerce__customers') if source_is_enabled('woocommerce'),
        changed, 'source_id', 'customer_key',
    ) }} as customers
    {{ where_changed(changed, {
        'source': "'woocommerce'",
        'source_record_type': "'customer'",
        'source_id': 'customers.customer_key',
    }) }}
{%- endset -%}
{%- set newest_first = 'orders.ordered_at desc, orders.order_id desc' %}

with

orders as (
    select * from {{ rows_of_changed(ref('int_orders_unioned'), changed, 'source_id') }} as orders
    {{ where_changed(changed, {
        'source': 'orders.source',
        'source_record_type': 'orders.source_record_type',
        'source_id': 'orders.source_id',
    }) }}
),

relay_domains as (
    select domain from {{ ref('marketplace_relay_domains') }}
),

listed as (
    {{ union_of_enabled_sources(
        {'files': files, 'hubspot': hubspot, 'woocommerce': woocommerce}, source_record_columns()
    ) }}
),

listed_by_now as (
    select * from listed
    where created_at < {{ as_of_end() }} or created_at is null
),

-- The buyers behind orders: each guest order by itself, and accounts that the source lists no
-- longer.
guests as (
    select * from orders
    where source_record_type = 'guest_order' and ordered_at is not null
),

accounts_of_orders as (
    select
        orders.source,
        orders.source_record_type,
        orders.source_id,
        {{ first_known('orders.email', newest_first) }} as email,
        {{ first_known('orders.first_name', newest_first) }} as first_name,
        {{ first_known('orders.last_name', newest_first) }} as last_name,
        {{ first_known('orders.country', newest_first) }} as country,
        min(orders.ordered_at) as created_at,
        max(orders.ordered_at) as modified_at,
        {{ first_known('orders.phone_e164', newest_first) }} as phone_e164
    from orders
    left join listed_by_now
        on
            orders.source = listed_by_now.source
            and orders.source_record_type = listed_by_now.source_record_type
            and orders.source_id = listed_by_now.source_id
    where
        orders.source_record_type = 'customer'
        and orders.ordered_at is not null
        and listed_by_now.source_id is null
    group by orders.source, orders.source_record_type, orders.source_id
),

from_orders as (
    select * from accounts_of_orders
    union all
    select
        source,
        source_record_type,
        source_id,
        email,
        first_name,
        last_name,
        country,
        ordered_at as created_at,
        ordered_at as modified_at,
        phone_e164
    from guests
),

unioned as (
    select
        *,
        true as is_listed
    from listed_by_now
    union all
    select
        source,
        source_record_type,
        source_id,
        email,
        first_name,
        last_name,
        country,
        null as preferred_language,
        null as acquisition_source,
        null as birthday,
        created_at,
        modified_at,
        phone_e164,
        null as linked_source,
        null as linked_record_type,
        null as linked_source_id,
        false as is_listed
    from from_orders
),

addressed as (
    select
        *,
        {{ normalised_email('unioned.email') }} as address
    from unioned
),

final as (
    select
        addressed.source,
        addressed.source_record_type,
        addressed.source_id,
        addressed.address,
        relay_domains.domain is not null as is_relay_address,
        addressed.first_name,
        addressed.last_name,
        upper(addressed.country) as country,
        addressed.preferred_language,
        addressed.acquisition_source,
        addressed.birthday,
        {{ local_date('addressed.created_at') }} as known_on,
        addressed.modified_at,
        addressed.phone_e164,
        addressed.linked_source,
        addressed.linked_record_type,
        addressed.linked_source_id,
        addressed.is_listed
    from addressed
    left join relay_domains on {{ email_domain('addressed.address') }} = relay_domains.domain
)

select * from final
