{# A number from 0 up to and not including 100, with two decimals, that depends on the text only.
   Used to draw holdouts: the same customer, segment and salt always give the same number. #}
{% macro percent_bucket(text) -%}
    {{ return(adapter.dispatch('percent_bucket', 'kundenkreis')(text)) }}
{%- endmacro %}

{% macro default__percent_bucket(text) -%}
    (mod(abs(hash({{ text }})), 10000) / 100.0)
{%- endmacro %}

{% macro postgres__percent_bucket(text) -%}
    (mod(cast(cast('x' || substr({{ dbt.hash(text) }}, 1, 8) as bit(32)) as bigint), 10000) / 100.0)
{%- endmacro %}

{% macro duckdb__percent_bucket(text) -%}
    (mod(cast('0x' || substr({{ dbt.hash(text) }}, 1, 8) as bigint), 10000) / 100.0)
{%- endmacro %}


{# What stands for the segment's key where the global holdout is meant; no segment may have it. #}
{% macro global_holdout() -%}
    'global_holdout'
{%- endmacro %}
