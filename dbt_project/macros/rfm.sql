{# The score of a value against its four cut points: 1 + the number of cut points strictly below it,
   so equal values always score equally. Recency is reversed: the fewest days score 5.

   value: SQL expression; cutoffs: four SQL expressions in rising order. #}
{% macro rfm_score(value, cutoffs, reversed=false) -%}
    (
        {{ '5' if reversed else '1' }}
        {%- for cutoff in cutoffs %}
        {{ '-' if reversed else '+' }} case when {{ value }} > {{ cutoff }} then 1 else 0 end
        {%- endfor %}
    )
{%- endmacro %}


{# The dimensions of RFM, and the quantiles that are their cut points. #}
{% macro rfm_dimensions() -%}
    {{ return(['recency_days', 'frequency', 'monetary']) }}
{%- endmacro %}

{% macro rfm_quantiles() -%}
    {{ return([0.2, 0.4, 0.6, 0.8]) }}
{%- endmacro %}


{# Columns <dimension>_1 .. <dimension>_4: the quantiles of a relation with the dimensions. #}
{% macro rfm_measured_cutoffs() -%}
    {%- for dimension in rfm_dimensions() -%}
        {%- set outer_loop = loop -%}
        {%- for quantile in rfm_quantiles() %}
        percentile_disc({{ quantile }}) within group (order by {{ dimension }})
            as {{ dimension }}_{{ loop.index }}
        {{- ',' if not (loop.last and outer_loop.last) }}
        {%- endfor -%}
    {%- endfor -%}
{%- endmacro %}


{# The same columns out of one row per dimension and quantile. #}
{% macro rfm_cutoffs_in_a_row() -%}
    {%- for dimension in rfm_dimensions() -%}
        {%- set outer_loop = loop -%}
        {%- for quantile in rfm_quantiles() %}
        max(case when dimension = '{{ dimension }}' and quantile = {{ quantile }} then cutoff end)
            as {{ dimension }}_{{ loop.index }}
        {{- ',' if not (loop.last and outer_loop.last) }}
        {%- endfor -%}
    {%- endfor -%}
{%- endmacro %}
