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

   changed: model with the keys of what is built anew. keys: its columns, also the model's.
   indexed: the one of them that the model has an index on, if any. renamed: key -> the model's
   column, where it has another name. #}
{% macro forget_changed(changed, keys, indexed=none, renamed={}) -%}
    {%- if adds_to_last_build() -%}
        {{ looks_up_blocks() }}
        delete from {{ this }} as built
        where {{ _is_changed(changed, keys, indexed, renamed) }}
    {%- else -%}
        select 1
    {%- endif -%}
{%- endmacro %}

{% macro _is_changed(changed, keys, indexed, renamed={}) -%}
    {%- if indexed is not none -%}
    {{ is_one_of('built.' ~ indexed, 'select ' ~ indexed ~ ' from ' ~ last_build_of(changed)) }}
    {{- ' and ' if keys | length > 1 }}
    {%- endif -%}
    {%- if indexed is none or keys | length > 1 -%}
    exists (
        select 1
        from {{ last_build_of(changed) }} as changed
        where
            {%- for key in keys %}
            changed.{{ key }} = built.{{ renamed.get(key, key) }}{{ ' and' if not loop.last }}
            {%- endfor %}
    )
    {%- endif -%}
{%- endmacro %}


{# Incremental strategy `replace_differing`: of the rows with the keys of what changed, those that are
   built anew as they were stay where they are. For models of which a change of one key moves few of
   its rows, and whose indexes or log make each row that is written dear.

   Of the model's configuration: unique_key (columns), and in meta `changed`, `changed_keys` and
   `indexed`, which are the arguments of `forget_changed`. #}
{% macro get_incremental_replace_differing_sql(arg_dict) -%}
    {%- set meta = config.get('meta') -%}
    {%- set is_changed = _is_changed(meta.changed, meta.changed_keys, meta.indexed) -%}
    {%- set columns = arg_dict.dest_columns | map(attribute='quoted') | list -%}
    {%- set unique_key = arg_dict.unique_key -%}

    delete from {{ arg_dict.target_relation }} as built
    where
        {{ is_changed }}
        and not exists (
            select 1
            from {{ arg_dict.temp_relation }} as anew
            where
                {%- for column in unique_key %}
                anew.{{ column }} = built.{{ column }} and
                {%- endfor %}
                {%- for column in columns %}
                (
                    anew.{{ column }} = built.{{ column }}
                    or (anew.{{ column }} is null and built.{{ column }} is null)
                ){{ ' and' if not loop.last }}
                {%- endfor %}
        );

    insert into {{ arg_dict.target_relation }} ({{ columns | join(', ') }})
    select {{ columns | join(', ') }}
    from {{ arg_dict.temp_relation }} as anew
    where not exists (
        select 1
        from {{ arg_dict.target_relation }} as built
        where
            {{ is_changed }}
            {%- for column in unique_key %}
            and anew.{{ column }} = built.{{ column }}
            {%- endfor %}
    )
{%- endmacro %}


{# Restricts a query to what is built anew; nothing in a full build.

   changed: relation with the keys of what changed. keys: its column -> expression of the query. #}
{% macro where_changed(changed, keys, clause='where') -%}
    {%- if adds_to_last_build() -%}
    {%- set equals = [] -%}
    {%- for key, expression in keys.items() -%}
        {%- do equals.append('changed.' ~ key ~ ' = ' ~ expression) -%}
    {%- endfor -%}
    {{ clause }} exists (select 1 from {{ changed }} as changed where {{ equals | join(' and ') }})
    {%- endif -%}
{%- endmacro %}


{# A relation, or in a build upon the last one only its rows with the keys of what changed: found by
   the index on the column.

   changed: relation with the keys. key: its column. column: the relation's, where it has another
   name. Rows that share this one key with what changed are among them: `where_changed` compares the
   other columns of a key. #}
{% macro rows_of_changed(relation, changed, key, column=none) -%}
    {{ look_up(relation, changed, key, column) if adds_to_last_build() else relation }}
{%- endmacro %}


{# The rows of a relation that have one of the keys, found by the index on the column; arguments as
   for `rows_of_changed`. #}
{% macro look_up(relation, changed, key, column=none) -%}
    {{ adapter.dispatch('look_up', 'kundenkreis')(relation, changed, key, column or key) }}
{%- endmacro %}

{% macro default__look_up(relation, changed, key, column) -%}
    (select * from {{ relation }} where {{ column }} in (select {{ key }} from {{ changed }}))
{%- endmacro %}

{# Blocks of 512 keys, in the order in which the index and most tables lie on the disk, so that the rows of
   one block are fetched together and ahead (`looks_up_blocks`). The planner takes any list for ten
   values; `offset 0` leaves it no other way than the index. #}
{% macro postgres__look_up(relation, changed, key, column) -%}
    (
        select looked_up.*
        from (
            select array_agg(numbered.{{ key }}) as list
            from (
                select
                    {{ key }},
                    row_number() over (order by {{ key }}) / 512 as block
                from (select distinct {{ key }} from {{ changed }}) as keys
            ) as numbered
            group by numbered.block
        ) as blocks
        cross join lateral (
            select *
            from {{ relation }} as every_row
            where every_row.{{ column }} = any(blocks.list)
            offset 0
        ) as looked_up
    )
{%- endmacro %}


{# Statement before a query that looks up many rows by an index, in its transaction; nothing in a full
   build. #}
{% macro looks_up_blocks() -%}
    {%- if builds_on_last_build() -%}
        {{ adapter.dispatch('looks_up_blocks', 'kundenkreis')() }}
    {%- endif -%}
{%- endmacro %}

{% macro default__looks_up_blocks() -%}{%- endmacro %}

{# Row after row by the index, PostgreSQL waits for each page that is not in memory; a bitmap of all
   that it needs lets it read ahead. Where a table is sorted by the key it would not choose so. #}
{% macro postgres__looks_up_blocks() -%}
    set local enable_indexscan = off;
{%- endmacro %}


{# True where an indexed column has one of the values of a query that has few. Not without an index:
   every row would be compared with every value. #}
{% macro is_one_of(column, query) -%}
    {{ return(adapter.dispatch('is_one_of', 'kundenkreis')(column, query)) }}
{%- endmacro %}

{% macro default__is_one_of(column, query) -%}
    {{ column }} in ({{ query }})
{%- endmacro %}

{# As a list, which is looked up in the index; a planner that takes the values for too many would turn
   `in` into a join that reads the whole table. #}
{% macro postgres__is_one_of(column, query) -%}
    {{ column }} = any(array({{ query }}))
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


{# True in an incremental model that only builds anew what changed. #}
{% macro adds_to_last_build() -%}
    {{ return(builds_on_last_build() and is_incremental()) }}
{%- endmacro %}


{# After a query: rows of one key side by side, where nights look them up key by key. What a night adds
   lies at the end. #}
{% macro side_by_side(key) -%}
    {%- if not adds_to_last_build() -%}
        order by {{ key }}
    {%- endif -%}
{%- endmacro %}


{# Query: how many rows of a relation count on the as-of day. All without those to come, because both
   are counted in indexes; a moment that is null comes never. #}
{% macro count_without_later(relation, moment) -%}
    select
        (select count(*) from {{ relation }})
        - (select count(*) from {{ relation }} where {{ moment }} >= {{ as_of_end() }})
            as rows_count
{%- endmacro %}
