{# A text as a SQL literal. #}
{% macro sql_text(value) -%}
    '{{ value | string | replace("'", "''") }}'
{%- endmacro %}


{# A list of texts as SQL literals in brackets. Without any it is (none), which nothing equals. #}
{% macro sql_texts(values) -%}
    ({% for value in values %}{{ sql_text(value) }}{{ ', ' if not loop.last }}{% else %}'(none)'{% endfor %})
{%- endmacro %}
