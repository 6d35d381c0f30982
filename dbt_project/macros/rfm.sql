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
