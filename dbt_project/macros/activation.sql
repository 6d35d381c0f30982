{# One row per segment and audience, from the configured segments. #}
{% macro configured_audiences() -%}
    {%- set rows = [] -%}
    {%- for segment in var('segments') -%}
        {%- for target in segment.destinations if target.destination in var('enabled_destinations') -%}
            {%- do rows.append((segment, target)) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- for segment, target in rows %}
        select
            {{ sql_text(target.destination) }} as destination,
            {{ sql_text(target.audience) }} as audience,
            {{ sql_text(segment.key) }} as segment,
            {{ segment.get('priority', 100) }} as priority,
            cast({{ segment.get('max_change_percent', 30) }} as {{ dbt.type_numeric() }})
                as max_change_percent,
            {{ segment.get('min_size', 0) }} as min_size,
            {{ sql_text(segment.get('initial', 'hold')) }} as initial_sync,
            {{ is_send_window_open(segment) }} as is_send_window_open
        {{ 'union all' if not loop.last }}
    {%- else %}
        {{ empty_relation({
            'destination': dbt.type_string(),
            'audience': dbt.type_string(),
            'segment': dbt.type_string(),
            'priority': dbt.type_int(),
            'max_change_percent': dbt.type_numeric(),
            'min_size': dbt.type_int(),
            'initial_sync': dbt.type_string(),
            'is_send_window_open': 'boolean',
        }) }}
    {%- endfor %}
{%- endmacro %}


{# Whether people may be added to a segment's audiences on the day after the as-of day, on which the
   night delivers. #}
{% macro is_send_window_open(segment) -%}
    {%- set weekdays = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] -%}
    {%- set as_of = modules.datetime.datetime.strptime(as_of_day(), '%Y-%m-%d') -%}
    {%- set weekday = weekdays[(as_of.weekday() + 1) % 7] -%}
    {{ return('true' if weekday in (segment.get('send_on') or weekdays) else 'false') }}
{%- endmacro %}


{# One row per segment that stands for contact by a marketer (`contact: true`), with its place in
   segments.yml. #}
{% macro contact_segments() -%}
    {%- set rows = [] -%}
    {%- for segment in var('segments') if segment.get('contact') -%}
        {%- do rows.append(segment) -%}
    {%- endfor -%}
    {%- for segment in rows %}
        select
            {{ sql_text(segment.key) }} as segment,
            {{ segment.get('priority', 100) }} as priority,
            {{ loop.index }} as position
        {{ 'union all' if not loop.last }}
    {%- else %}
        {{ empty_relation({
            'segment': dbt.type_string(),
            'priority': dbt.type_int(),
            'position': dbt.type_int(),
        }) }}
    {%- endfor %}
{%- endmacro %}


{# One row per segment and attribute it sends. #}
{% macro configured_attributes() -%}
    {%- set rows = [] -%}
    {%- for segment in var('segments') -%}
        {%- for attribute in segment.get('attributes', []) -%}
            {%- do rows.append((segment.key, attribute)) -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- for segment, attribute in rows %}
        select
            {{ sql_text(segment) }} as segment,
            {{ sql_text(attribute) }} as attribute
        {{ 'union all' if not loop.last }}
    {%- else %}
        {{ empty_relation({'segment': dbt.type_string(), 'attribute': dbt.type_string()}) }}
    {%- endfor %}
{%- endmacro %}


{# The names of all attributes that any segment sends, once each. What must never leave the house
   stops the build here, whatever checked the config before. #}
{% macro sent_attributes() -%}
    {%- set names = [] -%}
    {%- for segment in var('segments') -%}
        {%- for attribute in segment.get('attributes', []) -%}
            {%- if attribute in ['age_years', 'birthday', 'date_of_birth', 'days_until_birthday',
                    'email', 'is_contactable', 'next_birthday_on', 'not_contactable_because'] -%}
                {{ exceptions.raise_compiler_error(
                    "Segment '" ~ segment.key ~ "' would send the attribute '" ~ attribute
                    ~ "', which is never sent. Take it out of segments.yml."
                ) }}
            {%- endif -%}
            {%- if not modules.re.match('^[a-z][a-z0-9_]*$', attribute) -%}
                {{ exceptions.raise_compiler_error(
                    "Segment '" ~ segment.key ~ "' names the attribute '" ~ attribute
                    ~ "'. Allowed: a column of customer_360."
                ) }}
            {%- endif -%}
            {%- if attribute not in names -%}{%- do names.append(attribute) -%}{%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(names | sort) }}
{%- endmacro %}


{# The publication this plan belongs to: that of the run. Looked up, because a variable that differs
   from those of the run's other dbt calls would make dbt parse the whole project again. #}
{% macro planned_publication_id() -%}
    {%- set publication_id = var('publication_id', none) -%}
    {%- if publication_id is none and execute and flags.WHICH in ['build', 'run', 'show'] -%}
        {%- set of_run -%}
            select max(publication_id)
            from history.publications
            where dag_run_id = {{ sql_text(var('run_id', none) or '') }}
        {%- endset -%}
        {%- set publication_id = run_query(of_run).columns[0].values()[0] -%}
        {%- if publication_id is none -%}
            {{ exceptions.raise_compiler_error(
                "There is no publication to plan for. `kundenkreis run` plans the publication it"
                ~ " has made; by hand pass --vars '{publication_id: 12}'."
            ) }}
        {%- endif -%}
    {%- endif -%}
    {%- if publication_id is none -%}
        {{ return(0) }}
    {%- endif -%}
    {{ return(publication_id | int) }}
{%- endmacro %}


{# JSON helpers, for objects held as the warehouse's own JSON type. #}
{% macro json_type() -%}
    {{ return(adapter.dispatch('json_type', 'kundenkreis')()) }}
{%- endmacro %}

{% macro default__json_type() -%}json{%- endmacro %}

{% macro postgres__json_type() -%}jsonb{%- endmacro %}


{# A join that yields one row (attribute, value) per key of a JSON object. #}
{% macro join_json_entries(json, alias) -%}
    {{ return(adapter.dispatch('join_json_entries', 'kundenkreis')(json, alias)) }}
{%- endmacro %}

{% macro default__join_json_entries(json, alias) -%}
    cross join lateral json_entries({{ json }}) as {{ alias }}(attribute, value)
{%- endmacro %}

{% macro postgres__join_json_entries(json, alias) -%}
    cross join lateral jsonb_each({{ json }}) as {{ alias }} (attribute, value)
{%- endmacro %}


{# Aggregates: a JSON object out of rows, a JSON list of names in order. Equal contents, equal text. #}
{% macro json_object_of(name, value) -%}
    {{ return(adapter.dispatch('json_object_of', 'kundenkreis')(name, value)) }}
{%- endmacro %}

{% macro default__json_object_of(name, value) -%}
    json_object_agg({{ name }}, {{ value }})
{%- endmacro %}

{% macro postgres__json_object_of(name, value) -%}
    coalesce(jsonb_object_agg({{ name }}, {{ value }}) filter (where {{ name }} is not null), '{}')
{%- endmacro %}

{% macro json_list_of(name) -%}
    {{ return(adapter.dispatch('json_list_of', 'kundenkreis')(name)) }}
{%- endmacro %}

{% macro default__json_list_of(name) -%}
    json_array_agg({{ name }})
{%- endmacro %}

{% macro postgres__json_list_of(name) -%}
    coalesce(
        jsonb_agg({{ name }} order by {{ name }}) filter (where {{ name }} is not null), '[]'
    )
{%- endmacro %}


{# Before a plan is built again for the same publication: forget its rows that were never settled.
   Settled rows stay; the diff no longer holds what was confirmed. #}
{% macro forget_unsettled_plan_rows() -%}
    {%- if is_incremental() -%}
        delete from {{ this }}
        where
            publication_id = {{ planned_publication_id() }}
            and not exists (
                select 1
                from {{ source('delivery', 'ledger') }} as ledger
                where
                    ledger.publication_id = {{ planned_publication_id() }}
                    and ledger.plan_row_id = {{ this }}.plan_row_id
                    and ledger.state in ('confirmed', 'rejected', 'suppressed', 'skipped')
            )
    {%- else -%}
        select 1
    {%- endif -%}
{%- endmacro %}
