{{ config(materialized='view') }}
{%- set columns = {
    'source': dbt.type_string(),
    'order_id': dbt.type_string(),
    'refund_id': dbt.type_string(),
    'refunded_at': 'timestamp with time zone',
    'refunded_amount': 'numeric(28,6)',
} -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        order_key as order_id,
        refund_key as refund_id,
        refunded_at,
        refunded_amount
    from {{ ref('stg_woocommerce__refunds') if source_is_enabled('woocommerce') }}
{%- endset -%}

with

unioned as (
    {{ union_of_enabled_sources({'woocommerce': woocommerce}, columns) }}
),

final as (
    -- A refund acts from its own date.
    select * from unioned
    where refunded_at < {{ as_of_end() }}
)

select * from final
