{# What a colour already holds, and what has come since (design: Warehouse).

   Models that grow with history are incremental: the rows of what changed are deleted and built
   anew, everything else stays. The runner says with the variable built_as_of_date that the colour's
   last build may be built upon; without it every model is built in full (dbt_project.yml). #}


{# The schema beside a marts colour that holds its intermediate tables. #}
{% macro intermediate_schema() -%}
    {%- set marts_schema = var('marts_schema', none) or 'marts_schema_is_not_set' -%}
    {{ return('intermediate_' ~ marts_schema.removeprefix('marts_')) }}
{%- endmacro %}


{# A model as the last build of this colour left it. Not a ref(): a model that says what changed
   reads what a model after it is going to change. #}
{% macro last_build_of(model) -%}
    {{ return(intermediate_schema() ~ '.' ~ model) }}
{%- endmacro %}


{# The first moment that the last build of this colour did not count. #}
{% macro built_as_of_end() -%}
    {{ return(end_of_day(var('built_as_of_date'))) }}
{%- endmacro %}


{# True for a raw row that the last build of this colour cannot have seen as it is now.

   source_name: as in sources.yml. load_id: column that names the load that wrote the row.
   moments: columns before which the row did not count.

   The loads are literals, so that the planner knows how few rows they wrote. #}
{% macro is_new_since_last_build(source_name, load_id, moments=[], load_id_type='text') -%}
    (
        {{ load_id }} is null
        {%- for load in var('new_loads').get(source_name, []) %}
        or {{ load_id }} = cast({{ sql_text(load) }} as {{ load_id_type }})
        {%- endfor %}
        {%- for moment in moments %}
        or ({{ moment }} >= {{ built_as_of_end() }} and {{ moment }} < {{ as_of_end() }})
        {%- endfor %}
    )
{%- endmacro %}


{# Before a model's changed rows are added: forget them as they were.

   changed: model with the keys of what is built anew. keys: its columns, also the model's. #}
{% macro forget_changed(changed, keys) -%}
    {%- if builds_on_last_build() and is_incremental() -%}
        delete from {{ this }} as built
        where exists (
            select 1
            from {{ last_build_of(changed) }} as changed
            where
                {%- for key in keys %}
                changed.{{ key }} = built.{{ key }}{{ ' and' if not loop.last }}
                {%- endfor %}
        )
    {%- else -%}
        select 1
    {%- endif -%}
{%- endmacro %}


{# Restricts a query to what is built anew; nothing in a full build.

   changed: relation with the keys of what changed. keys: its column -> expression of the query. #}
{% macro where_changed(changed, keys, clause='where') -%}
    {%- if builds_on_last_build() and is_incremental() -%}
    {%- set equals = [] -%}
    {%- for key, expression in keys.items() -%}
        {%- do equals.append('changed.' ~ key ~ ' = ' ~ expression) -%}
    {%- endfor -%}
    {{ clause }} exists (select 1 from {{ changed }} as changed where {{ equals | join(' and ') }})
    {%- endif -%}
{%- endmacro %}


{# True where this night builds upon the colour's last build, in models that are tables. #}
{% macro builds_on_last_build() -%}
    {{ return(var('built_as_of_date', none) is not none) }}
{%- endmacro %}


{# Tells dbt that what changed has to be known first, where there is a last build to stand upon. #}
{% macro after_changed(changed) -%}
    {%- if builds_on_last_build() -%}
        -- depends_on: {{ ref(changed) }}
    {%- endif -%}
{%- endmacro %}
