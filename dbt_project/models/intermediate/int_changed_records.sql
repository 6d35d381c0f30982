{{ config(
    enabled=var('built_as_of_date', none) is not none,
    pre_hook="{{ looks_up_blocks() }}",
) }}
{#- The persons' records that the last build of this colour has not seen as they are now. -#}
{%- set columns = {
    'source': dbt.type_string(),
    'source_record_type': dbt.type_string(),
    'source_id': dbt.type_string(),
    'is_visible': 'boolean',
} -%}
{%- set files -%}
    select
        customers.source,
        'customer' as source_record_type,
        customers.customer_key as source_id,
        customers.created_at < {{ as_of_end() }} or customers.created_at is null as is_visible
    from {{ ref('stg_files__customers') if source_is_enabled('files') }} as customers
{%- endset -%}
{%- set hubspot -%}
    select
        'hubspot' as source,
        'contact' as source_record_type,
        contacts.contact_key as source_id,
        not contacts.is_archived
        and (contacts.created_at < {{ as_of_end() }} or contacts.created_at is null) as is_visible
    from {{ ref('stg_hubspot__contacts') if source_is_enabled('hubspot') }} as contacts
{%- endset -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        'customer' as source_record_type,
        customers.customer_key as source_id,
        customers.created_at < {{ as_of_end() }} or customers.created_at is null as is_visible
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
) -%}
{#- Written where they are read: a CTE that is read twice would be copied first. -#}
{%- set listed -%}
    {{ union_of_enabled_sources(
        {'files': files, 'hubspot': hubspot, 'woocommerce': woocommerce}, columns
    ) }}
{%- endset -%}
{%- set count_of_files -%}
    {{ count_without_later(
        ref('stg_files__customers') if source_is_enabled('files'), 'created_at'
    ) }}
{%- endset -%}
{%- set count_of_hubspot -%}
    select count(*) as rows_count
    from ({{ hubspot }}) as contacts
    where contacts.is_visible
{%- endset -%}
{%- set count_of_woocommerce -%}
    {{ count_without_later(
        ref('stg_woocommerce__customers') if source_is_enabled('woocommerce'), 'created_at'
    ) }}
{%- endset -%}
{%- set counts_of_listed -%}
    {{ union_of_enabled_sources(
        {
            'files': count_of_files,
            'hubspot': count_of_hubspot,
            'woocommerce': count_of_woocommerce,
        },
        {'rows_count': 'bigint'},
    ) }}
{%- endset -%}
{%- set built = last_build_of('int_source_records_unioned') %}

with

changed_orders as (
    select * from {{ ref('int_changed_orders') }}
),

orders as (
    select * from {{ look_up(ref('int_orders_unioned'), 'changed_orders', 'order_id') }} as orders
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

matched as (
    select
        listed_changed.source,
        listed_changed.source_record_type,
        listed_changed.source_id,
        case when listed_changed.is_visible then 1 else 0 end
        - case when built.source_id is not null then 1 else 0 end as additional_records
    from listed_changed
    left join {{ built }} as built
        on
            listed_changed.source = built.source
            and listed_changed.source_record_type = built.source_record_type
            and listed_changed.source_id = built.source_id
            and built.is_listed
),

-- Whether records are gone shows in their number; only then is it worth while to look for them.
counted as (
    select
        (select coalesce(sum(listed.rows_count), 0) from ({{ counts_of_listed }}) as listed)
        <> (
            select count(*)
            from {{ built }} as built
            where built.is_listed
        )
        + (select coalesce(sum(matched.additional_records), 0) from matched) as are_some_gone
),

gone as (
    select
        built.source,
        built.source_record_type,
        built.source_id
    from {{ built }} as built
    left join ({{ listed }}) as listed
        on
            built.source = listed.source
            and built.source_record_type = listed.source_record_type
            and built.source_id = listed.source_id
    where
        (select counted.are_some_gone from counted)
        and built.is_listed
        and listed.source_id is null
),

-- Whose the changed orders were, and whose they are now.
owners as (
    select
        source,
        built_source_record_type as source_record_type,
        built_source_id as source_id
    from changed_orders
    where built_source_id is not null
    union
    select
        orders.source,
        orders.source_record_type,
        orders.source_id
    from orders
    inner join changed_orders
        on orders.source = changed_orders.source and orders.order_id = changed_orders.order_id
    where orders.source_id is not null
),

-- What a source says of a person itself, no order changes.
known_by_orders as (
    select
        owners.source,
        owners.source_record_type,
        owners.source_id
    from owners
    left join {{ look_up(built, 'owners', 'source_id') }} as built
        on
            owners.source = built.source
            and owners.source_record_type = built.source_record_type
            and owners.source_id = built.source_id
            and built.is_listed
    where built.source_id is null
),

final as (
    select
        source,
        source_record_type,
        source_id
    from matched
    union
    select * from gone
    union
    select * from known_by_orders
)

select * from final
