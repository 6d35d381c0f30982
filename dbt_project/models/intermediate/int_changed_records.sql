{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- The persons' records that the last build of this colour has not seen as they are now. -#}
{%- set columns = {
    'source': dbt.type_string(),
    'source_record_type': dbt.type_string(),
    'source_id': dbt.type_string(),
} -%}
{%- set files -%}
    select
        customers.source,
        'customer' as source_record_type,
        customers.customer_key as source_id
    from {{ ref('stg_files__customers') if source_is_enabled('files') }} as customers
{%- endset -%}
{%- set hubspot -%}
    select
        'hubspot' as source,
        'contact' as source_record_type,
        contacts.contact_key as source_id
    from {{ ref('stg_hubspot__contacts') if source_is_enabled('hubspot') }} as contacts
{%- endset -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        'customer' as source_record_type,
        customers.customer_key as source_id
    from {{ ref('stg_woocommerce__customers') if source_is_enabled('woocommerce') }} as customers
{%- endset -%}
{%- set files_changed = files ~ ' where ' ~ is_new_since_last_build(
    'files', 'customers.loaded_at', ['customers.created_at'], 'timestamp with time zone'
) -%}
{%- set hubspot_changed = hubspot ~ ' where ' ~ is_new_since_last_build(
    'hubspot', 'contacts.load_id', ['contacts.created_at']
) -%}
{%- set woocommerce_changed = woocommerce ~ ' where ' ~ is_new_since_last_build(
    'woocommerce', 'customers.load_id', ['customers.created_at']
) %}

with

changed_orders as (
    select * from {{ ref('int_changed_orders') }}
),

orders as (
    select * from {{ ref('int_orders_unioned') }}
),

built as (
    select * from {{ last_build_of('int_source_records_unioned') }}
),

listed_changed as (
    {{ union_of_enabled_sources(
        {
            'files': files_changed,
            'hubspot': hubspot_changed,
            'woocommerce': woocommerce_changed,
        },
        columns,
    ) }}
),

listed as (
    {{ union_of_enabled_sources(
        {'files': files, 'hubspot': hubspot, 'woocommerce': woocommerce}, columns
    ) }}
),

gone as (
    select
        built.source,
        built.source_record_type,
        built.source_id
    from built
    left join listed
        on
            built.source = listed.source
            and built.source_record_type = listed.source_record_type
            and built.source_id = listed.source_id
    where built.is_listed and listed.source_id is null
),

-- Whose the changed orders were, and whose they are now.
owners as (
    select
        source,
        built_source_record_type as source_record_type,
        built_source_id as source_id
    from changed_orders
    where built_source_id is not null
    union all
    select
        orders.source,
        orders.source_record_type,
        orders.source_id
    from orders
    inner join changed_orders
        on orders.source = changed_orders.source and orders.order_id = changed_orders.order_id
    where orders.source_id is not null
),

final as (
    select * from listed_changed
    union
    select * from gone
    union
    select * from owners
)

select * from final
