{# The expected gap after an order day, in days: the median of the last gaps, clamped.

   order_number: SQL expression, 1 for a customer's first order day.
   gaps: SQL expressions of the last gaps, newest first; only those of earlier order days are set.

   The median of up to five values needs no sort and no sub-select per row: the sum without the
   smallest and the largest leaves the middle of three or four, and the median of five is the
   median of one value and the two inner values of two pairs. (A sub-select per row made up 40 % of
   the whole lifecycle statement at one million customers.) #}
{% macro expected_gap(order_number, gaps) -%}
    {%- if gaps | length < 2 or gaps | length > 5 -%}
        {{ exceptions.raise_compiler_error(
            "dbt variable gap_window_orders is " ~ gaps | length ~ ". Allowed: 2 to 5."
        ) }}
    {%- endif -%}
    greatest(
        {{ var('min_gap_days') }},
        least(
            {{ var('max_gap_days') }},
            case least({{ order_number }} - 1, {{ gaps | length }})
                {%- for count in range(2, gaps | length + 1) %}
                when {{ count }} then {{ _median(gaps[:count]) }}
                {%- endfor %}
                else {{ var('default_gap_days') }}
            end
        )
    )
{%- endmacro %}


{# The median of two to five values that are all set. #}
{% macro _median(values) -%}
    {%- set listed = values | join(', ') -%}
    {%- set inner_sum -%}
        {{ values | join(' + ') }} - least({{ listed }}) - greatest({{ listed }})
    {%- endset -%}
    {%- if values | length == 2 -%}
        ({{ values | join(' + ') }}) / 2.0
    {%- elif values | length == 3 -%}
        {{ inner_sum }}
    {%- elif values | length == 4 -%}
        ({{ inner_sum }}) / 2.0
    {%- else -%}
        {%- set low -%}
            greatest(least({{ values[0] }}, {{ values[1] }}), least({{ values[2] }}, {{ values[3] }}))
        {%- endset -%}
        {%- set high -%}
            least(greatest({{ values[0] }}, {{ values[1] }}), greatest({{ values[2] }}, {{ values[3] }}))
        {%- endset -%}
        {{ values[4] }} + {{ low }} + {{ high }}
        - least({{ values[4] }}, {{ low }}, {{ high }})
        - greatest({{ values[4] }}, {{ low }}, {{ high }})
    {%- endif -%}
{%- endmacro %}


{# Columns gap_1 .. gap_N: this row's gap and those of the rows before it, newest first. #}
{% macro last_gaps(column, count, over) -%}
    {%- for position in range(count) %}
        lag({{ column }}, {{ position }}) over {{ over }} as gap_{{ position + 1 }}
        {{- ',' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
