{# The first day of the calendar month a day falls in. #}
{% macro first_of_month(day) -%}
    {{ return(adapter.dispatch('first_of_month', 'kundenkreis')(day)) }}
{%- endmacro %}

{% macro default__first_of_month(day) -%}
    cast({{ dbt.date_trunc('month', day) }} as date)
{%- endmacro %}

{% macro postgres__first_of_month(day) -%}
    {#- Without time zone: where a change of clocks skips a midnight, a month would begin late. -#}
    cast(date_trunc('month', cast({{ day }} as timestamp)) as date)
{%- endmacro %}


{# Calendar months from the month of one day to the month of a later one. #}
{% macro months_between(earlier, later) -%}
    cast({{ dbt.datediff(earlier, later, 'month') }} as integer)
{%- endmacro %}


{# The last day of the calendar month that begins on `first_day`, as far as days are counted: of the
   month that is under way it is the as-of day. #}
{% macro last_counted_day(first_day) -%}
    least(
        cast({{ dbt.dateadd('day', -1, dbt.dateadd('month', 1, first_day)) }} as date),
        {{ as_of_date() }}
    )
{%- endmacro %}


{# One row per calendar month from the month of one day to that of another, in a column `month`. #}
{% macro months_from_to(first_day, last_day) -%}
    select distinct {{ first_of_month('days.day') }} as month
    from (
        {{ days_from_to(first_day, last_day) }}
    ) as days
{%- endmacro %}


{# True when the calendar month that begins on `first_day` has ended by the as-of day. #}
{% macro is_complete_month(first_day) -%}
    cast({{ dbt.dateadd('month', 1, first_day) }} as date) <= {{ add_days(as_of_date(), 1) }}
{%- endmacro %}
