{# The value of `column` in the first row by `order_by` that has one. #}
{% macro first_known(column, order_by) -%}
    {{ return(adapter.dispatch('first_known', 'kundenkreis')(column, order_by)) }}
{%- endmacro %}

{% macro default__first_known(column, order_by) -%}
    array_agg({{ column }}) within group (order by {{ order_by }})[0]
{%- endmacro %}

{% macro postgres__first_known(column, order_by) -%}
    (array_agg({{ column }} order by {{ order_by }}) filter (where {{ column }} is not null))[1]
{%- endmacro %}

{% macro duckdb__first_known(column, order_by) -%}
    first({{ column }} order by {{ order_by }}) filter (where {{ column }} is not null)
{%- endmacro %}


{# True when the condition holds for any row of the group. #}
{% macro any_true(condition) -%}
    max(case when {{ condition }} then 1 else 0 end) = 1
{%- endmacro %}


{# Fresh statistics, so that the models that read this table within the same night plan well. #}
{% macro analyze_table() -%}
    {{ return(adapter.dispatch('analyze_table', 'kundenkreis')()) }}
{%- endmacro %}

{% macro default__analyze_table() -%}
{%- endmacro %}

{#- What a night adds to a table that is built upon does not change what the planner knows of it; the
    server's own analyzing follows when much has been added. -#}
{% macro postgres__analyze_table() -%}
    {%- set materialized = config.get('materialized') -%}
    {%- if materialized == 'table' or (materialized == 'incremental' and not builds_on_last_build()) -%}
        analyze {{ this }}
    {%- endif -%}
{%- endmacro %}


{# Aggregate: the distinct texts of a group, sorted, with commas between; null without any. #}
{% macro comma_separated(column) -%}
    {{ return(adapter.dispatch('comma_separated', 'kundenkreis')(column)) }}
{%- endmacro %}

{% macro default__comma_separated(column) -%}
    listagg(distinct {{ column }}, ',') within group (order by {{ column }})
{%- endmacro %}

{% macro postgres__comma_separated(column) -%}
    string_agg(distinct {{ column }}, ',' order by {{ column }})
{%- endmacro %}

{% macro duckdb__comma_separated(column) -%}
    string_agg(distinct {{ column }}, ',' order by {{ column }})
{%- endmacro %}


{# Aggregate: a text that is the same for the same set of texts, in whatever order; null without any.
   Each text once. #}
{% macro checksum(expression) -%}
    {{ return(adapter.dispatch('checksum', 'kundenkreis')(expression)) }}
{%- endmacro %}

{% macro default__checksum(expression) -%}
    {{ dbt.hash(dbt.listagg(expression, "','", 'order by ' ~ expression)) }}
{%- endmacro %}

{# Without sorting. #}
{% macro postgres__checksum(expression) -%}
    cast(bit_xor(hashtextextended({{ expression }}, 0)) as text)
{%- endmacro %}

{% macro duckdb__checksum(expression) -%}
    cast(bit_xor(hash({{ expression }})) as varchar)
{%- endmacro %}
