{# An acquisition source as spend and customers are matched by it: trimmed, without regard to case;
   `unknown` where there is none. #}
{% macro acquisition_source_key(acquisition_source) -%}
    coalesce(nullif(lower(trim({{ acquisition_source }})), ''), 'unknown')
{%- endmacro %}
