{# True where each column that the segment requires holds a value for anybody in customer_360, a
   relation; who could be no member counts as well. #}
{% macro has_required_columns(segment, customer_360) -%}
    {%- for column in segment.get('requires', []) -%}
        {%- if not modules.re.match('^[a-z][a-z0-9_]*$', column) -%}
            {{ exceptions.raise_compiler_error(
                "Segment '" ~ segment.key ~ "' requires '" ~ column
                ~ "'. Allowed: columns of customer_360."
            ) }}
        {%- endif %}
        exists (
            select 1
            from {{ customer_360 }} as everybody
            where everybody.{{ column }} is not null
        )
        {{- ' and ' if not loop.last }}
    {%- else -%}
        1 = 1
    {%- endfor -%}
{%- endmacro %}
