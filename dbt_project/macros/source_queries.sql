{# The columns every source offers its orders in. #}
{% macro order_columns() -%}
    {{ return({
        'source_system': dbt.type_string(),
        'source': dbt.type_string(),
        'order_id': dbt.type_string(),
        'customer_key': dbt.type_string(),
        'email': dbt.type_string(),
        'first_name': dbt.type_string(),
        'last_name': dbt.type_string(),
        'country': dbt.type_string(),
        'status': dbt.type_string(),
        'currency': dbt.type_string(),
        'ordered_at': 'timestamp with time zone',
        'total_amount': 'numeric(28,6)',
        'tax_amount': 'numeric(28,6)',
        'shipping_amount': 'numeric(28,6)',
        'shipping_tax_amount': 'numeric(28,6)',
        'own_exchange_rate': 'numeric(28,10)',
        'payment_method': dbt.type_string(),
        'newsletter_opt_in': dbt.type_string(),
        'discount_amount': 'numeric(28,6)',
        'discount_tax_amount': 'numeric(28,6)',
        'delivered_at': 'timestamp with time zone',
        'refunds_order_id': dbt.type_string(),
        'phone_e164': dbt.type_string(),
    }) }}
{%- endmacro %}


{# The columns every source offers its order lines in. #}
{% macro order_line_columns() -%}
    {{ return({
        'source': dbt.type_string(),
        'order_id': dbt.type_string(),
        'line_number': 'bigint',
        'product_id': dbt.type_string(),
        'product_name': dbt.type_string(),
        'quantity': 'numeric(18,4)',
        'line_amount': 'numeric(28,6)',
    }) }}
{%- endmacro %}


{# The columns every source offers its persons in. The last three name the record of the same person
   in another source; a record has at most one such link. #}
{% macro source_record_columns() -%}
    {{ return({
        'source': dbt.type_string(),
        'source_record_type': dbt.type_string(),
        'source_id': dbt.type_string(),
        'email': dbt.type_string(),
        'first_name': dbt.type_string(),
        'last_name': dbt.type_string(),
        'country': dbt.type_string(),
        'preferred_language': dbt.type_string(),
        'acquisition_source': dbt.type_string(),
        'birthday': 'date',
        'created_at': 'timestamp with time zone',
        'modified_at': 'timestamp with time zone',
        'phone_e164': dbt.type_string(),
        'linked_source': dbt.type_string(),
        'linked_record_type': dbt.type_string(),
        'linked_source_id': dbt.type_string(),
    }) }}
{%- endmacro %}


{# What a shop's newsletter field says about consent, null where it says nothing.
   A box that was left empty is neither consent nor withdrawal. #}
{% macro newsletter_evidence(value) -%}
    case
        when {{ value }} in ('double', 'confirmed', 'double_opt_in') then 'double'
        when {{ value }} in ('pending', 'unconfirmed') then 'pending'
        when {{ value }} in ('single', 'yes', 'true', '1', 'subscribed') then 'single'
        when {{ value }} in ('existing_customer') then 'existing_customer'
        when {{ value }} in ('withdrawn', 'unsubscribed', 'opt_out') then 'withdrawn'
    end
{%- endmacro %}
