{# The expected gap after an order day, in half days: the median of the last gaps, clamped. Medians of
   whole days are whole half days, and whole numbers are several times as fast as decimal ones.

   order_number: SQL expression, 1 for a customer's first order day.
   gaps: SQL expressions of the last gaps, newest first; only those of earlier order days are set.

   The median of up to five values needs no sort and no sub-select per row: the sum without the
   smallest and the largest leaves the middle of three or four, and the median of five is the
   median of one value and the two inner values of two pairs. (A sub-select per row made up 40 % of
   the whole lifecycle statement at one million customers.) #}
{% macro expected_gap_half_days(order_number, gaps) -%}
    {%- if gaps | length < 2 or gaps | length > 5 -%}
        {{ exceptions.raise_compiler_error(
            "dbt variable gap_window_orders is " ~ gaps | length ~ ". Allowed: 2 to 5."
        ) }}
    {%- endif -%}
    greatest(
        2 * {{ var('min_gap_days') }},
        least(
            2 * {{ var('max_gap_days') }},
            case least({{ order_number }} - 1, {{ gaps | length }})
                {%- for count in range(2, gaps | length + 1) %}
                when {{ count }} then {{ _doubled_median(gaps[:count]) }}
                {%- endfor %}
                else 2 * {{ var('default_gap_days') }}
            end
        )
    )
{%- endmacro %}


{# Twice the median of two to five values that are all set. #}
{% macro _doubled_median(values) -%}
    {%- set listed = values | join(', ') -%}
    {%- set inner_sum -%}
        {{ values | join(' + ') }} - least({{ listed }}) - greatest({{ listed }})
    {%- endset -%}
    {%- if values | length == 2 -%}
        {{ values | join(' + ') }}
    {%- elif values | length == 3 -%}
        2 * ({{ inner_sum }})
    {%- elif values | length == 4 -%}
        {{ inner_sum }}
    {%- else -%}
        {%- set low -%}
            greatest(least({{ values[0] }}, {{ values[1] }}), least({{ values[2] }}, {{ values[3] }}))
        {%- endset -%}
        {%- set high -%}
            least(greatest({{ values[0] }}, {{ values[1] }}), greatest({{ values[2] }}, {{ values[3] }}))
        {%- endset -%}
        2 * (
            {{ values[4] }} + {{ low }} + {{ high }}
            - least({{ values[4] }}, {{ low }}, {{ high }})
            - greatest({{ values[4] }}, {{ low }}, {{ high }})
        )
    {%- endif -%}
{%- endmacro %}


{# factor times the expected gap, rounded up to whole days. The factor is a decimal number: its digits
   become the ratio of two whole numbers, so that nothing is rounded on the way. #}
{% macro days_of_gaps(factor, half_days) -%}
    {%- set digits = (factor | string).split('.') -%}
    {%- set decimals = digits[1] if digits | length == 2 else '' -%}
    {{ return(adapter.dispatch('ceiling_of_ratio', 'kundenkreis')(
        half_days ~ ' * ' ~ ((digits[0] ~ decimals) | int), 2 * 10 ** (decimals | length)
    )) }}
{%- endmacro %}

{% macro default__ceiling_of_ratio(numerator, denominator) -%}
    cast(ceil(cast({{ numerator }} as {{ dbt.type_numeric() }}) / {{ denominator }}) as integer)
{%- endmacro %}

{% macro postgres__ceiling_of_ratio(numerator, denominator) -%}
    {#- Division of whole numbers; none of them is below zero. -#}
    (({{ numerator }} + {{ denominator - 1 }}) / {{ denominator }})
{%- endmacro %}

{% macro duckdb__ceiling_of_ratio(numerator, denominator) -%}
    (({{ numerator }} + {{ denominator - 1 }}) // {{ denominator }})
{%- endmacro %}


{# Columns gap_1 .. gap_N: this row's gap and those of the rows before it, newest first. #}
{% macro last_gaps(column, count, over) -%}
    {%- for position in range(count) %}
        lag({{ column }}, {{ position }}) over {{ over }} as gap_{{ position + 1 }}
        {{- ',' if not loop.last }}
    {%- endfor -%}
{%- endmacro %}
