{# The one place that decides what an order is worth and whether it counts (design section 4). #}


{# What the order counts as revenue before refunds, in its own currency. `order` is an alias of
   int_orders_unioned, whose total holds tax and shipping and is after discounts. #}
{% macro order_revenue(order) -%}
    {{ order }}.total_amount
    {%- if not var('revenue_includes_tax') %} - {{ order }}.tax_amount{% endif %}
    {%- if not var('revenue_includes_shipping') %} - {{ order }}.shipping_amount
    {%- if var('revenue_includes_tax') %} - {{ order }}.shipping_tax_amount{% endif -%}
    {%- endif -%}
{%- endmacro %}


{# What was taken off the order's price, as far as it would have been revenue, in its own currency,
   and positive: some exports write it below zero. `order` is an alias of int_orders_unioned; its
   discount holds tax as its total does. #}
{% macro order_discount(order) -%}
    abs(
        {{ order }}.discount_amount
        {%- if not var('revenue_includes_tax') %} - {{ order }}.discount_tax_amount{% endif %}
    )
{%- endmacro %}


{# True for an order that names the order it refunds: a credit note. `order` is an alias of
   int_orders_unioned. A note that is cancelled or a test gives nothing back. #}
{% macro is_credit_note(order) -%}
    {{ order }}.total_amount < 0
    and {{ order }}.refunds_order_id is not null
    and {{ order_status_counts(order) }}
    and not {{ is_test_order(order) }}
{%- endmacro %}


{# True where the order's status is on the allow-list of its source system. #}
{% macro order_status_counts(order) -%}
    (
        {%- for system, statuses in var('counted_order_statuses').items() %}
        ({{ order }}.source_system = {{ sql_text(system) }}
        and coalesce({{ order }}.status, '') in {{ sql_texts(statuses | map('lower') | list) }})
        {{ 'or' if not loop.last }}
        {%- else %}
        1 = 0
        {%- endfor %}
    )
{%- endmacro %}


{# True for an order of somebody who tests the shop; never null. #}
{% macro is_test_order(order) -%}
    (
        coalesce({{ order }}.payment_method, '') in {{
            sql_texts(var('test_payment_methods') | map('lower') | list)
        }}
        or coalesce({{ is_test_address(order ~ '.address') }}, false)
    )
{%- endmacro %}


{# Reporting currency per unit of the order's currency: one, the order's own rate, the rate that it was
   released from quarantine with, a configured rate; null where there is none. #}
{% macro order_exchange_rate(order) -%}
    case
        when {{ order }}.currency = {{ sql_text(var('reporting_currency')) }} then 1
        when {{ order }}.own_exchange_rate > 0 then {{ order }}.own_exchange_rate
        {%- for released in var('released_exchange_rates') %}
        when
            {{ order }}.source = {{ sql_text(released.source) }}
            and {{ order }}.order_id = {{ sql_text(released.order_id) }}
            and {{ order }}.currency = {{ sql_text(released.currency) }}
            then cast({{ sql_text(released.rate) }} as numeric(28, 9))
        {%- endfor %}
        {%- for currency, rate in var('exchange_rates').items() %}
        when {{ order }}.currency = {{ sql_text(currency) }} then {{ rate }}
        {%- endfor %}
    end
{%- endmacro %}


{# Policy revenue of an order: after refunds under `net`, before them under `gross`. #}
{% macro policy_revenue(order) -%}
    {%- if var('refund_policy') == 'net' -%}
        {{ order }}.revenue_after_refunds
    {%- elif var('refund_policy') == 'gross' -%}
        {{ order }}.revenue_before_refunds
    {%- else -%}
        {{ exceptions.raise_compiler_error(
            "dbt variable refund_policy is '" ~ var('refund_policy') ~ "'. Allowed: net, gross."
        ) }}
    {%- endif -%}
{%- endmacro %}


{# Null for an order that counts, otherwise the first reason against it. #}
{% macro order_not_counted_because(order) -%}
    case
        when {{ order }}.status = 'checkout-draft' then 'abandoned_checkout'
        when {{ is_test_order(order) }} then 'test_order'
        when not {{ order_status_counts(order) }} then 'status_not_counted'
        when {{ order }}.customer_id is null and not {{ order }}.is_anonymised then 'no_customer'
        when {{ order }}.revenue_before_refunds < 0 then 'negative_value'
        {%- if var('refund_policy') == 'net' %}
        when
            {{ order }}.revenue_before_refunds > 0 and {{ order }}.revenue_after_refunds <= 0
            then 'fully_refunded'
        {%- endif %}
        {%- if var('zero_value_orders') == 'ignore' %}
        when {{ order }}.revenue_before_refunds = 0 then 'zero_value'
        {%- endif %}
    end
{%- endmacro %}


{# Reporting currency per unit of a currency that is not an order's: one, or a configured rate; null
   where there is none. #}
{% macro configured_exchange_rate(currency) -%}
    case
        when {{ currency }} = {{ sql_text(var('reporting_currency')) }} then 1
        {%- for configured, rate in var('exchange_rates').items() %}
        when {{ currency }} = {{ sql_text(configured) }} then {{ rate }}
        {%- endfor %}
    end
{%- endmacro %}
