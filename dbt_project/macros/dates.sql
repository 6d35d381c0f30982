{# The last day that counts, as a SQL date. Nothing in this project asks the clock. #}
{% macro as_of_date() -%}
    cast('{{ as_of_day() }}' as date)
{%- endmacro %}


{# The same day as text, checked. While parsing there may be none. #}
{% macro as_of_day() -%}
    {%- set day = var('as_of_date', none) -%}
    {%- if day is none -%}
        {%- if execute and flags.WHICH not in ['parse', 'list', 'ls'] -%}
            {{ exceptions.raise_compiler_error(
                "dbt variable as_of_date is not set. Use `kundenkreis dbt ...`, or pass --vars"
                ~ " '{as_of_date: 2026-01-31}'."
            ) }}
        {%- endif -%}
        {{ return('1970-01-01') }}
    {%- endif -%}
    {%- if not modules.re.match('^[0-9]{4}-[0-9]{2}-[0-9]{2}$', day | string) -%}
        {{ exceptions.raise_compiler_error(
            "dbt variable as_of_date is '" ~ day ~ "'. Allowed: a day such as 2026-01-31."
        ) }}
    {%- endif -%}
    {{ return(day | string) }}
{%- endmacro %}


{# The business day a moment falls on. #}
{% macro local_date(moment) -%}
    {{ return(adapter.dispatch('local_date', 'kundenkreis')(moment)) }}
{%- endmacro %}

{% macro default__local_date(moment) -%}
    cast(convert_timezone('{{ var("business_timezone") }}', {{ moment }}) as date)
{%- endmacro %}

{% macro postgres__local_date(moment) -%}
    cast({{ moment }} at time zone '{{ var("business_timezone") }}' as date)
{%- endmacro %}

{% macro duckdb__local_date(moment) -%}
    cast(timezone('{{ var("business_timezone") }}', {{ moment }}) as date)
{%- endmacro %}


{# The first moment that no longer counts: midnight after the as-of day in the business time zone. #}
{% macro as_of_end() -%}
    {{ return(end_of_day(as_of_day())) }}
{%- endmacro %}


{# The moment at which a day, given as text, ends in the business time zone. #}
{% macro end_of_day(day) -%}
    {{ return(adapter.dispatch('end_of_day', 'kundenkreis')(day)) }}
{%- endmacro %}

{% macro default__end_of_day(day) -%}
    convert_timezone(
        '{{ var("business_timezone") }}',
        'UTC',
        cast({{ add_days("cast('" ~ day ~ "' as date)", 1) }} as timestamp)
    )
{%- endmacro %}

{% macro postgres__end_of_day(day) -%}
    (cast(cast('{{ day }}' as date) + 1 as timestamp) at time zone '{{ var("business_timezone") }}')
{%- endmacro %}

{% macro duckdb__end_of_day(day) -%}
    timezone('{{ var("business_timezone") }}', cast(cast('{{ day }}' as date) + 1 as timestamp))
{%- endmacro %}


{# A day, some days later. dbt.dateadd() yields a timestamp on Postgres and is slow on dates. #}
{% macro add_days(day, days) -%}
    {{ return(adapter.dispatch('add_days', 'kundenkreis')(day, days)) }}
{%- endmacro %}

{% macro default__add_days(day, days) -%}
    cast({{ dbt.dateadd('day', days, day) }} as date)
{%- endmacro %}

{% macro postgres__add_days(day, days) -%}
    ({{ day }} + {{ days }})
{%- endmacro %}

{% macro duckdb__add_days(day, days) -%}
    ({{ day }} + cast({{ days }} as integer))
{%- endmacro %}


{# Whole days from one date to a later one. #}
{% macro days_between(earlier, later) -%}
    {{ return(adapter.dispatch('days_between', 'kundenkreis')(earlier, later)) }}
{%- endmacro %}

{% macro default__days_between(earlier, later) -%}
    {{ dbt.datediff(earlier, later, 'day') }}
{%- endmacro %}

{% macro postgres__days_between(earlier, later) -%}
    ({{ later }} - {{ earlier }})
{%- endmacro %}

{% macro duckdb__days_between(earlier, later) -%}
    ({{ later }} - {{ earlier }})
{%- endmacro %}


{# A text as a date, null where it is none; a wrong day in the CRM must not stop the night. #}
{% macro safe_date(text) -%}
    {{ return(adapter.dispatch('safe_date', 'kundenkreis')(text)) }}
{%- endmacro %}

{% macro default__safe_date(text) -%}
    {{ dbt.safe_cast(text, 'date') }}
{%- endmacro %}

{% macro postgres__safe_date(text) -%}
    {#- Postgres has no safe cast before version 16: the day is checked against its month first. -#}
    case
        when
            {{ text }} ~ '^(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$'
            and cast(substr({{ text }}, 9, 2) as integer) <= extract(
                day from make_date(
                    cast(substr({{ text }}, 1, 4) as integer),
                    cast(substr({{ text }}, 6, 2) as integer),
                    1
                ) + interval '1 month - 1 day'
            )
            then cast({{ text }} as date)
    end
{%- endmacro %}

{% macro duckdb__safe_date(text) -%}
    case
        when regexp_matches({{ text }}, '^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}$')
            then try_cast({{ text }} as date)
    end
{%- endmacro %}


{# One row per day, both ends included, in a column `day`. The ends are SQL expressions. #}
{% macro days_from_to(first_day, last_day) -%}
    {{ return(adapter.dispatch('days_from_to', 'kundenkreis')(first_day, last_day)) }}
{%- endmacro %}

{% macro default__days_from_to(first_day, last_day) -%}
    with recursive days as (
        select {{ first_day }} as day
        union all
        select {{ add_days('day', 1) }} as day
        from days
        where day < {{ last_day }}
    )

    select day
    from days
{%- endmacro %}

{% macro postgres__days_from_to(first_day, last_day) -%}
    select cast(generated.day as date) as day
    -- Without time zone: where a change of clocks skips a midnight, a day would be lost.
    from generate_series(
        cast({{ first_day }} as timestamp), cast({{ last_day }} as timestamp), interval '1 day'
    ) as generated (day)
{%- endmacro %}


{# The birthday in a year, given as a number. Who was born on 29 February has it on 1 March of a year
   without one, as the law has it. #}
{% macro birthday_in_year(birthday, year) -%}
    {{ return(adapter.dispatch('birthday_in_year', 'kundenkreis')(birthday, year)) }}
{%- endmacro %}

{% macro default__birthday_in_year(birthday, year) -%}
    {%- set month = dbt.dateadd(
        'month', 'extract(month from ' ~ birthday ~ ') - 1', "cast('" ~ year ~ "-01-01' as date)"
    ) -%}
    cast({{ dbt.dateadd('day', 'extract(day from ' ~ birthday ~ ') - 1', month) }} as date)
{%- endmacro %}

{% macro postgres__birthday_in_year(birthday, year) -%}
    (
        make_date({{ year }}, cast(extract(month from {{ birthday }}) as integer), 1)
        + cast(extract(day from {{ birthday }}) as integer) - 1
    )
{%- endmacro %}

{% macro duckdb__birthday_in_year(birthday, year) -%}
    (
        make_date({{ year }}, extract(month from {{ birthday }}), 1)
        + cast(extract(day from {{ birthday }}) - 1 as integer)
    )
{%- endmacro %}


{# The year of the as-of day, as a number. #}
{% macro as_of_year() -%}
    {{ return(as_of_day()[:4] | int) }}
{%- endmacro %}
