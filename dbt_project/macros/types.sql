{# dbt.type_float() of 8 bytes, as it is in Postgres; dbt's own yields 4 bytes on DuckDB. #}
{% macro duckdb__type_float() -%}
    double
{%- endmacro %}
