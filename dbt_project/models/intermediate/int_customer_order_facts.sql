{{ config(
    materialized='incremental',
    incremental_strategy='append',
    pre_hook="{{ forget_changed('int_customers_with_changed_facts', ['customer_id']) }}",
) }}
{{ after_changed('int_customers_with_changed_facts') }}
{% set changed = last_build_of('int_customers_with_changed_facts') -%}
{#- Nothing here depends on the as-of day but through the events up to it: a customer's row changes
    only when the customer does, or when the shop renames a category. #}

with

orders as (
    select * from {{ rows_of_changed(ref('int_orders'), changed, 'customer_id') }} as orders
    where orders.customer_id is not null
),

-- In a full build not from `orders`: read twice, all of them would be written down first.
counted_orders as (
    select
        orders.source,
        orders.order_id,
        orders.customer_id,
        orders.exchange_rate
    from {{ 'orders' if adds_to_last_build() else ref('int_orders') ~ ' as orders' }}
    where orders.is_counted and orders.customer_id is not null
),

lines as (
    select * from {{ ref('int_order_lines_unioned') }}
),

products as (
    select * from {{ ref('int_products_unioned') }}
),

judged as (
    select
        *,
        -- What would count if nothing had been given back.
        is_counted or not_counted_because = 'fully_refunded' as counts_before_refunds
    from orders
),

totals as (
    select
        customer_id,
        min(case when is_counted then order_date end) as first_order_date,
        max(case when is_counted then order_date end) as last_order_date,
        sum(case when is_counted then 1 else 0 end) as orders_count,
        sum(case when is_counted then revenue end) as revenue_total,
        sum(case when is_counted then 0 else 1 end) as orders_not_counted_count,
        sum(case when not_counted_because = 'abandoned_checkout' then 1 else 0 end)
            as abandoned_checkouts_count,
        sum(case when counts_before_refunds then 1 else 0 end) as orders_before_refunds_count,
        sum(case when counts_before_refunds then revenue_before_refunds end)
            as revenue_before_refunds,
        sum(case when counts_before_refunds then refunded_amount end) as refunded_amount,
        sum(case when counts_before_refunds and refunded_amount > 0 then 1 else 0 end)
            as refunded_orders_count,
        -- Only of orders whose source states a discount, be it none.
        sum(case when is_counted then discount_amount end) as discount_amount,
        sum(
            case when is_counted then discount_amount + revenue_before_refunds end
        ) as revenue_before_discounts,
        max(case when is_counted then delivered_at end) as last_delivered_at,
        max(case when not_counted_because = 'abandoned_checkout' then order_date end)
            as last_abandoned_checkout_on
    from judged
    group by customer_id
),

bought_products as (
    select
        counted_orders.customer_id,
        lines.source,
        lines.product_id,
        sum(lines.line_amount * counted_orders.exchange_rate) as line_amount
    from lines
    inner join counted_orders
        on lines.source = counted_orders.source and lines.order_id = counted_orders.order_id
    group by counted_orders.customer_id, lines.source, lines.product_id
),

bought_categories as (
    select
        bought_products.customer_id,
        products.category,
        sum(bought_products.line_amount) as line_amount,
        count(bought_products.product_id) as products_count
    from bought_products
    left join products
        on
            bought_products.source = products.source
            and bought_products.product_id = products.product_id
    group by bought_products.customer_id, products.category
),

ranked_categories as (
    select
        customer_id,
        category,
        line_amount,
        products_count,
        -- More was given back than bought of it: no favourite, and no part of the whole.
        greatest(line_amount, 0) as bought_amount,
        row_number() over (
            partition by customer_id
            order by
                case when category is null then 1 else 0 end asc,
                line_amount desc,
                category asc
        ) as category_rank
    from bought_categories
),

favourites as (
    select
        customer_id,
        sum(products_count) as distinct_products_count,
        sum(bought_amount) as bought_amount,
        max(case when category_rank = 1 and line_amount > 0 then category end)
            as favourite_category,
        max(case when category_rank = 1 and category is not null then bought_amount end)
            as favourite_amount
    from ranked_categories
    group by customer_id
),

final as (
    select
        totals.customer_id,
        totals.first_order_date,
        totals.last_order_date,
        cast(totals.orders_count as integer) as orders_count,
        cast(coalesce(totals.revenue_total, 0) as numeric(18, 4)) as revenue_total,
        cast(
            totals.revenue_total / nullif(totals.orders_count, 0) as numeric(18, 4)
        ) as average_order_value,
        cast(totals.orders_not_counted_count as integer) as orders_not_counted_count,
        cast(totals.abandoned_checkouts_count as integer) as abandoned_checkouts_count,
        totals.last_abandoned_checkout_on,
        cast(
            totals.refunded_amount / nullif(totals.revenue_before_refunds, 0) as numeric(10, 4)
        ) as return_rate,
        cast(
            1.0 * totals.refunded_orders_count / nullif(totals.orders_before_refunds_count, 0)
            as numeric(10, 4)
        ) as refunded_orders_share,
        cast(
            totals.discount_amount / nullif(totals.revenue_before_discounts, 0) as numeric(10, 4)
        ) as discount_share,
        favourites.favourite_category,
        cast(
            case
                when favourites.favourite_category is not null
                    then favourites.favourite_amount / nullif(favourites.bought_amount, 0)
            end as numeric(10, 4)
        ) as favourite_category_share,
        cast(coalesce(favourites.distinct_products_count, 0) as integer)
            as distinct_products_count,
        {{ local_date('totals.last_delivered_at') }} as last_delivered_on
    from totals
    left join favourites on totals.customer_id = favourites.customer_id
)

select * from final
