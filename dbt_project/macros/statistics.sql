{# Intervals of 95 %, two-sided. Numbers are taken and given as floating point. #}
{% macro normal_quantile() -%}
    1.959963984540054
{%- endmacro %}


{# One end of Wilson's score interval of a proportion: E. B. Wilson, "Probable inference, the law of
   succession, and statistical inference", JASA 22 (1927), pages 209-212. `end` is low or high;
   null without any trial. #}
{% macro wilson_end(successes, trials, end) -%}
    {%- set z = normal_quantile() -%}
    (
        (
            {{ successes }} + {{ z }} * {{ z }} / 2
            {{ '-' if end == 'low' else '+' }} {{ z }} * sqrt(
                cast({{ successes }} as {{ dbt.type_float() }})
                * ({{ trials }} - {{ successes }}) / nullif({{ trials }}, 0)
                + {{ z }} * {{ z }} / 4
            )
        ) / ({{ trials }} + {{ z }} * {{ z }})
    )
{%- endmacro %}


{# The quantile of Student's t by its Cornish-Fisher expansion: Abramowitz and Stegun, Handbook of
   Mathematical Functions, 26.7.5. Right to 0.001 from 9 degrees of freedom, to 0.00001 from 29. #}
{% macro student_quantile(degrees_of_freedom) -%}
    {%- set z = normal_quantile() | float -%}
    (
        {{ z }}
        + {{ (z ** 3 + z) / 4 }} / {{ degrees_of_freedom }}
        + {{ (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96 }} / power({{ degrees_of_freedom }}, 2)
        + {{ (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384 }}
        / power({{ degrees_of_freedom }}, 3)
        + {{ (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / 92160 }}
        / power({{ degrees_of_freedom }}, 4)
    )
{%- endmacro %}
