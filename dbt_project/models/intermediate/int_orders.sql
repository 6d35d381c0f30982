{{ config(
    materialized='incremental',
    incremental_strategy='append',
    unlogged=false,
    indexes=[
        {'columns': ['order_id']},
        {'columns': ['customer_id']},
    ],
    pre_hook="{{ forget_changed(
        'int_recomputed_orders', ['source', 'order_id'], 'order_id'
    ) }}",
) }}
{{ after_changed('int_recomputed_orders') }}
{% set recomputed = last_build_of('int_recomputed_orders') %}

with

unioned as (
    select * from {{ rows_of_changed(
        ref('int_orders_unioned'), recomputed, 'order_id'
    ) }} as orders
    {{ where_changed(recomputed, {'source': 'orders.source', 'order_id': 'orders.order_id'}) }}
),

identities as (
    select * from {{ rows_of_changed(
        ref('int_customer_identities'), 'unioned', 'source_id'
    ) }} as identities
),

-- Their customer was erased: nobody's revenue, but revenue.
anonymised as (
    select * from {{ source('privacy', 'anonymised_orders') }}
),

refunds as (
    select
        source,
        order_id,
        sum(refunded_amount) as refunded_amount
    from {{ rows_of_changed(
        ref('int_refunds_unioned'), recomputed, 'order_id'
    ) }} as refunds
    {{ where_changed(recomputed, {'source': 'refunds.source', 'order_id': 'refunds.order_id'}) }}
    group by source, order_id
),

priced as (
    select
        *,
        {{ order_revenue('unioned') }} as own_revenue,
        {{ order_discount('unioned') }} as own_discount,
        {{ order_exchange_rate('unioned') }} as exchange_rate
    from unioned
),

-- What cannot be priced or dated is in int_orders_rejected.
usable as (
    select * from priced
    where exchange_rate is not null and total_amount is not null and ordered_at is not null
),

converted as (
    select
        usable.*,
        identities.customer_id,
        anonymised.order_id is not null as is_anonymised,
        cast(usable.own_revenue * usable.exchange_rate as numeric(18, 4)) as revenue_before_refunds,
        -- A refund takes its share of what the policy counts (tax and shipping may be left out).
        cast(
            greatest(
                usable.own_revenue
                - coalesce(
                    refunds.refunded_amount * usable.own_revenue / nullif(usable.total_amount, 0), 0
                ),
                least(usable.own_revenue, 0)
            ) * usable.exchange_rate as numeric(18, 4)
        ) as revenue_after_refunds,
        cast(usable.own_discount * usable.exchange_rate as numeric(18, 4)) as discount
    from usable
    left join identities
        on
            usable.source = identities.source
            and usable.source_record_type = identities.source_record_type
            and usable.source_id = identities.source_id
    left join refunds
        on
            usable.source = refunds.source
            and usable.order_id = refunds.order_id
    left join anonymised
        on
            usable.source = anonymised.source
            and usable.order_id = anonymised.order_id
),

judged as (
    select
        *,
        {{ policy_revenue('converted') }} as revenue,
        {{ order_not_counted_because('converted') }} as not_counted_because
    from converted
),

final as (
    select
        source_system,
        source,
        order_id,
        customer_id,
        address,
        order_date,
        ordered_at,
        status,
        currency,
        exchange_rate,
        revenue_before_refunds,
        revenue_after_refunds,
        revenue,
        not_counted_because is null as is_counted,
        not_counted_because,
        cast(revenue_before_refunds - revenue_after_refunds as numeric(18, 4)) as refunded_amount,
        discount as discount_amount,
        delivered_at
    from judged
)

select * from final
{{ side_by_side('customer_id') }}
