{# True when config/sources.yml names this source. #}
{% macro source_is_enabled(name) -%}
    {{ return(name in var('enabled_sources')) }}
{%- endmacro %}


{# One relation out of a query per enabled source, in name order.

   queries: source name -> SQL. Where no source of the list is enabled the result is empty but typed,
   so that whatever is built upon it still works.
   columns: column name -> SQL type, for that empty result and the order of columns. #}
{% macro union_of_enabled_sources(queries, columns) -%}
    {%- set enabled = [] -%}
    {%- for name, query in queries.items() -%}
        {%- if source_is_enabled(name.split('.')[0]) -%}
            {%- do enabled.append(query) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- for query in enabled %}
        select
            {%- for column, type in columns.items() %}
            cast({{ column }} as {{ type }}) as {{ column }}{{ ',' if not loop.last }}
            {%- endfor %}
        from (
            {{ query }}
        ) as enabled_source
        {{ 'union all' if not loop.last }}
    {%- else %}
        {{ empty_relation(columns) }}
    {%- endfor %}
{%- endmacro %}


{# A query with these typed columns and no row. #}
{% macro empty_relation(columns) -%}
        select
            {%- for column, type in columns.items() %}
            cast(null as {{ type }}) as {{ column }}{{ ',' if not loop.last }}
            {%- endfor %}
        where 1 = 0
{%- endmacro %}
