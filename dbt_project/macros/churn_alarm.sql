{# The churn rate above which a day raises the alarm: a fixed one, or 1.5 times the mean of the same
   shop's previous 90 days; null while these are not known or nobody churned in them. Reads the
   column churn_rate and the window previous_90_days. #}
{% macro churn_rate_alarm_level() -%}
    {%- if var('churn_rate_alarm_percent') is not none -%}
        {{ var('churn_rate_alarm_percent') }} / 100.0
    {%- else -%}
        case
            when count(churn_rate) over previous_90_days = 90
                then nullif(avg(churn_rate) over previous_90_days, 0) * 1.5
        end
    {%- endif -%}
{%- endmacro %}
