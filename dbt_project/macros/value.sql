{# The last days, which the second fit of the task `predict` does not see and is measured by. #}
{% macro value_holdout_days() -%}
    {{ return(90) }}
{%- endmacro %}
