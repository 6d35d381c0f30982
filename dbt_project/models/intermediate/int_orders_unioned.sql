{{ config(
    materialized='incremental',
    incremental_strategy='append',
    indexes=[
        {'columns': ['order_id']},
        {'columns': ['source_id']},
        {'columns': ['refunds_order_id']},
    ],
    pre_hook="{{ forget_changed(
        'int_changed_orders', ['source', 'order_id'], 'order_id'
    ) }}",
) }}
{{ after_changed('int_changed_orders') }}
{% set changed = last_build_of('int_changed_orders') -%}
{#- Each source offers its orders in the columns of order_columns(). -#}
{%- set files_order_lines -%}
    select
        'files' as source_system,
        source,
        order_key as order_id,
        max(customer_key) as customer_key,
        max(email) as email,
        null as first_name,
        null as last_name,
        null as country,
        max(status) as status,
        -- Amounts in several currencies cannot be added: no rate will be found for 'EUR+USD'.
        case
            when min(currency) = max(currency) then max(currency)
            else min(currency) || '+' || max(currency)
        end as currency,
        min(ordered_at) as ordered_at,
        sum(line_amount) as total_amount,
        0 as tax_amount,
        0 as shipping_amount,
        0 as shipping_tax_amount,
        null as own_exchange_rate,
        null as payment_method,
        null as newsletter_opt_in,
        sum(discount_amount) as discount_amount,
        0 as discount_tax_amount,
        max(delivered_at) as delivered_at,
        max(refunds_order_key) as refunds_order_id,
        null as phone_e164
    from {{ rows_of_changed(
        ref('stg_files__order_lines') if source_is_enabled('files'),
        changed, 'order_id', 'order_key',
    ) }} as lines
    {{ where_changed(changed, {'source': 'lines.source', 'order_id': 'lines.order_key'}) }}
    group by source, order_key
{%- endset -%}
{%- set files_orders -%}
    select
        'files' as source_system,
        source,
        order_key as order_id,
        customer_key,
        email,
        null as first_name,
        null as last_name,
        null as country,
        status,
        currency,
        ordered_at,
        total_amount,
        0 as tax_amount,
        0 as shipping_amount,
        0 as shipping_tax_amount,
        null as own_exchange_rate,
        null as payment_method,
        null as newsletter_opt_in,
        discount_amount,
        0 as discount_tax_amount,
        delivered_at,
        refunds_order_key as refunds_order_id,
        null as phone_e164
    from {{ rows_of_changed(
        ref('stg_files__orders') if source_is_enabled('files'),
        changed, 'order_id', 'order_key',
    ) }} as orders
    {{ where_changed(changed, {'source': 'orders.source', 'order_id': 'orders.order_key'}) }}
{%- endset -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source_system,
        'woocommerce' as source,
        order_key as order_id,
        customer_key,
        email,
        first_name,
        last_name,
        country,
        status,
        currency,
        ordered_at,
        total_amount,
        tax_amount,
        shipping_amount,
        shipping_tax_amount,
        exchange_rate as own_exchange_rate,
        payment_method,
        newsletter_opt_in,
        discount_without_tax + coalesce(discount_tax_amount, 0) as discount_amount,
        discount_tax_amount,
        completed_at as delivered_at,
        null as refunds_order_id,
        phone_e164
    from {{ rows_of_changed(
        ref('stg_woocommerce__orders') if source_is_enabled('woocommerce'),
        changed, 'order_id', 'order_key',
    ) }} as orders
    {{ where_changed(changed, {'source': "'woocommerce'", 'order_id': 'orders.order_key'}) }}
{%- endset -%}

with

unioned as (
    {{ union_of_enabled_sources(
        {
            'files.order_lines': files_order_lines,
            'files.orders': files_orders,
            'woocommerce': woocommerce,
        },
        order_columns(),
    ) }}
),

relay_domains as (
    select domain from {{ ref('marketplace_relay_domains') }}
),

normalised as (
    select
        *,
        {{ normalised_email('unioned.email') }} as address
    from unioned
    where unioned.ordered_at < {{ as_of_end() }} or unioned.ordered_at is null
),

-- A marketplace's relay address and a tester's address identify nobody.
addressed as (
    select
        *,
        address is not null and not {{ is_test_address('address') }} as identifies_guest
    from normalised
),

final as (
    select
        addressed.source_system,
        addressed.source,
        addressed.order_id,
        -- Who the order belongs to: the account, else the guest behind the billing address.
        case
            when addressed.customer_key is not null then 'customer'
            when addressed.identifies_guest and relay_domains.domain is null then 'guest_order'
        end as source_record_type,
        case
            when addressed.customer_key is not null then addressed.customer_key
            when addressed.identifies_guest and relay_domains.domain is null
                then addressed.order_id
        end as source_id,
        addressed.email,
        addressed.address,
        addressed.first_name,
        addressed.last_name,
        addressed.country,
        addressed.status,
        addressed.currency,
        addressed.ordered_at,
        {{ local_date('addressed.ordered_at') }} as order_date,
        addressed.total_amount,
        coalesce(addressed.tax_amount, 0) as tax_amount,
        coalesce(addressed.shipping_amount, 0) as shipping_amount,
        coalesce(addressed.shipping_tax_amount, 0) as shipping_tax_amount,
        addressed.own_exchange_rate,
        addressed.payment_method,
        addressed.newsletter_opt_in,
        addressed.discount_amount,
        coalesce(addressed.discount_tax_amount, 0) as discount_tax_amount,
        -- A later delivery was not known on the as-of day.
        case when addressed.delivered_at < {{ as_of_end() }} then addressed.delivered_at end
            as delivered_at,
        addressed.refunds_order_id,
        addressed.phone_e164
    from addressed
    left join relay_domains on {{ email_domain('addressed.address') }} = relay_domains.domain
)

select * from final
