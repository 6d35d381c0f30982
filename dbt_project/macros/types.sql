{# dbt.type_float() of 8 bytes, as it is in Postgres; dbt's own yields 4 bytes on DuckDB. #}
{% macro duckdb__type_float() -%}
    double
{%- endmacro %}


{# A floating point number as an amount: numeric(18, 4). #}
{% macro amount_of_float(expression) -%}
    {{ return(adapter.dispatch('amount_of_float', 'kundenkreis')(expression)) }}
{%- endmacro %}

{% macro default__amount_of_float(expression) -%}
    cast({{ expression }} as numeric(18, 4))
{%- endmacro %}

{# PostgreSQL's own cast prints and parses the number, which takes four times as long. A bigint holds
   more ten-thousandths than a numeric(18, 4). #}
{% macro postgres__amount_of_float(expression) -%}
    cast(cast(cast(round(({{ expression }}) * 10000) as bigint) as numeric) * 0.0001 as numeric(18, 4))
{%- endmacro %}
