{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed(
        'int_changed_orders', ['source', 'order_id'], renamed={'order_id': 'record_key'}
    ) }}",
) }}
{{ after_changed('int_changed_orders') }}
{% set changed = last_build_of('int_changed_orders') %}

with

unioned as (
    select * from {{ rows_of_changed(ref('int_orders_unioned'), changed, 'order_id') }} as orders
    {{ where_changed(changed, {'source': 'orders.source', 'order_id': 'orders.order_id'}) }}
),

priced as (
    select
        *,
        {{ order_exchange_rate('unioned') }} as exchange_rate
    from unioned
),

judged as (
    select
        *,
        case
            when ordered_at is null then 'order_without_date'
            when total_amount is null then 'order_without_amount'
            when currency is null then 'order_without_currency'
            else 'no_exchange_rate'
        end as reason_code
    from priced
    where exchange_rate is null or total_amount is null or ordered_at is null
),

final as (
    select
        source,
        'orders' as table_name,
        order_id as record_key,
        reason_code,
        case reason_code
            when 'order_without_date' then 'The order has no date.'
            when 'order_without_amount' then 'The order has no total.'
            when 'order_without_currency' then 'The order has no currency.'
            else
                'The order is in ' || currency || ' and has no exchange rate of its own; '
                || 'exchange_rates in config/model.yml has none for it either.'
        end as reason,
        {{ json_object({
            'order_id': 'order_id',
            'status': 'status',
            'currency': 'currency',
            'total_amount': 'total_amount',
            'ordered_at': 'ordered_at',
        }) }} as payload
    from judged
)

select * from final
