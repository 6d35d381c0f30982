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

notes as (
    select * from {{ ref('int_orders_unioned') }}
),

-- Read apart from the notes: one relation read twice would be copied first.
refunded_orders as (
    select * from {{ ref('int_orders_unioned') }}
    where total_amount > 0
),

refunds as (
    {{ union_of_enabled_sources({'woocommerce': woocommerce}, columns) }}
),

credit_notes as (
    select * from notes
    where {{ is_credit_note('notes') }}
),

-- What a credit note gives back, in the currency of the order that it names.
credited as (
    select
        credit_notes.source,
        refunded_orders.order_id,
        credit_notes.order_id as refund_id,
        credit_notes.ordered_at as refunded_at,
        case
            when credit_notes.currency = refunded_orders.currency then -credit_notes.total_amount
            else
                -credit_notes.total_amount * {{ order_exchange_rate('credit_notes') }}
                / {{ order_exchange_rate('refunded_orders') }}
        end as refunded_amount
    from credit_notes
    inner join refunded_orders
        on
            credit_notes.source = refunded_orders.source
            and credit_notes.refunds_order_id = refunded_orders.order_id
),

unioned as (
    select * from refunds
    union all
    select
        source,
        order_id,
        refund_id,
        refunded_at,
        cast(refunded_amount as numeric(28, 6)) as refunded_amount
    from credited
    where refunded_amount is not null
),

final as (
    -- A refund acts from its own date.
    select * from unioned
    where refunded_at < {{ as_of_end() }}
)

select * from final
