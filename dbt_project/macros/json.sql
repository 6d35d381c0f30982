{# A JSON object as text. `pairs` is a dict of key -> SQL expression.
   Equal values give equal text, whatever the order of the keys, so the text may be hashed. #}
{% macro json_object(pairs) -%}
    {{ return(adapter.dispatch('json_object', 'kundenkreis')(pairs)) }}
{%- endmacro %}

{% macro default__json_object(pairs) -%}
    to_json(object_construct_keep_null(
        {%- for key, expression in pairs.items() -%}
        '{{ key }}', {{ expression }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    ))
{%- endmacro %}

{% macro postgres__json_object(pairs) -%}
    cast(jsonb_build_object(
        {%- for key, expression in pairs.items() -%}
        '{{ key }}', {{ expression }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    ) as text)
{%- endmacro %}

{% macro duckdb__json_object(pairs) -%}
    cast(json_object(
        {%- for key, expression in pairs.items() | sort -%}
        '{{ key }}', {{ expression }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    ) as text)
{%- endmacro %}


{# The text value of one key of a JSON object held as text. #}
{% macro json_value(json, key) -%}
    {{ return(adapter.dispatch('json_value', 'kundenkreis')(json, key)) }}
{%- endmacro %}

{% macro default__json_value(json, key) -%}
    json_extract_path_text({{ json }}, '{{ key }}')
{%- endmacro %}

{% macro postgres__json_value(json, key) -%}
    (cast({{ json }} as jsonb) ->> '{{ key }}')
{%- endmacro %}

{% macro duckdb__json_value(json, key) -%}
    json_extract_string({{ json }}, '$.{{ key }}')
{%- endmacro %}
