{# Dates of a group in one column, so that a later day can be compared with them without reading the
   rows again. The first stands at position 1. #}


{# Aggregate: the dates of the rows of a group for which a condition holds, the earliest first. #}
{% macro sorted_dates(column, condition) -%}
    {{ return(adapter.dispatch('sorted_dates', 'kundenkreis')(column, condition)) }}
{%- endmacro %}

{% macro default__sorted_dates(column, condition) -%}
    array_sort(array_agg(case when {{ condition }} then {{ column }} end))
{%- endmacro %}

{% macro postgres__sorted_dates(column, condition) -%}
    array_agg({{ column }} order by {{ column }}) filter (where {{ condition }})
{%- endmacro %}

{% macro duckdb__sorted_dates(column, condition) -%}
    array_agg({{ column }} order by {{ column }}) filter (where {{ condition }})
{%- endmacro %}


{# How many of the dates are a day or come before it. #}
{% macro dates_until(dates, day) -%}
    {{ return(adapter.dispatch('dates_until', 'kundenkreis')(dates, day)) }}
{%- endmacro %}

{% macro default__dates_until(dates, day) -%}
    array_size(filter({{ dates }}, one_date -> one_date <= {{ day }}))
{%- endmacro %}

{# A binary search: the dates are the lower bounds of buckets. #}
{% macro postgres__dates_until(dates, day) -%}
    width_bucket({{ day }}, {{ dates }})
{%- endmacro %}

{% macro duckdb__dates_until(dates, day) -%}
    len(list_filter({{ dates }}, lambda one_date: one_date <= {{ day }}))
{%- endmacro %}


{# How many of the dates come after a day. #}
{% macro dates_after(dates, day) -%}
    {{ adapter.dispatch('dates_count', 'kundenkreis')(dates) }} - {{ dates_until(dates, day) }}
{%- endmacro %}

{% macro default__dates_count(dates) -%}
    array_size({{ dates }})
{%- endmacro %}

{% macro postgres__dates_count(dates) -%}
    cardinality({{ dates }})
{%- endmacro %}

{% macro duckdb__dates_count(dates) -%}
    len({{ dates }})
{%- endmacro %}


{# The last of the dates up to a day; null where all come after it. #}
{% macro last_date_until(dates, day) -%}
    {{ return(adapter.dispatch('last_date_until', 'kundenkreis')(dates, day)) }}
{%- endmacro %}

{% macro default__last_date_until(dates, day) -%}
    get({{ dates }}, {{ dates_until(dates, day) }} - 1)
{%- endmacro %}

{# There is no date at position 0. #}
{% macro postgres__last_date_until(dates, day) -%}
    ({{ dates }})[{{ dates_until(dates, day) }}]
{%- endmacro %}

{% macro duckdb__last_date_until(dates, day) -%}
    ({{ dates }})[{{ dates_until(dates, day) }}]
{%- endmacro %}
