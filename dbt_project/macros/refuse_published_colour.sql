{# Runs before everything else: stops a build into the colour that readers are looking at.

   A dbt table swap drops the old table together with the views on it, silently, so building the
   published colour would take the published views away (design section 3). #}
{% macro refuse_published_colour() -%}
    {%- if execute and flags.WHICH in ['build', 'run', 'seed', 'snapshot'] -%}
        {%- set marts_schema = var('marts_schema', none) or 'marts_schema_is_not_set' -%}
        {%- set building = [] -%}
        {%- for unique_id in selected_resources -%}
            {%- set node = graph.nodes.get(unique_id) -%}
            {%- if node and node.resource_type in ['model', 'seed', 'snapshot']
                    and node.schema in [marts_schema, intermediate_schema()] -%}
                {%- do building.append(node.name) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if building -%}
            {%- if marts_schema == 'marts_schema_is_not_set' -%}
                {{ exceptions.raise_compiler_error(
                    "dbt variable marts_schema is not set, but " ~ building | join(', ')
                    ~ " would be built. Use `kundenkreis dbt ...`, which chooses the colour that is"
                    ~ " not published, or pass --vars '{marts_schema: marts_blue}'."
                ) }}
            {%- elif marts_schema not in ['marts_blue', 'marts_green', 'marts_backfill'] -%}
                {{ exceptions.raise_compiler_error(
                    "dbt variable marts_schema is '" ~ marts_schema
                    ~ "'. Allowed: marts_blue, marts_green, marts_backfill."
                ) }}
            {%- elif marts_schema in published_schemas() -%}
                {{ exceptions.raise_compiler_error(
                    "The schema " ~ marts_schema ~ " is published: the views of schema marts stand"
                    ~ " on it and would be dropped. Build the other colour; `kundenkreis dbt ...`"
                    ~ " chooses it."
                ) }}
            {%- endif -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}


{# The schemas that the views of schema `marts` read from, as a list of names. #}
{% macro published_schemas() -%}
    {{ return(adapter.dispatch('published_schemas', 'kundenkreis')()) }}
{%- endmacro %}

{% macro default__published_schemas() -%}
    {{ return([]) }}
{%- endmacro %}

{% macro postgres__published_schemas() -%}
    {%- set query -%}
        select distinct base_namespace.nspname
        from pg_catalog.pg_rewrite as rule
        inner join pg_catalog.pg_class as view on rule.ev_class = view.oid
        inner join pg_catalog.pg_namespace as view_namespace on view.relnamespace = view_namespace.oid
        inner join pg_catalog.pg_depend as dependency
            on rule.oid = dependency.objid
            and dependency.classid = 'pg_catalog.pg_rewrite'::regclass
            and dependency.refclassid = 'pg_catalog.pg_class'::regclass
        inner join pg_catalog.pg_class as base on dependency.refobjid = base.oid
        inner join pg_catalog.pg_namespace as base_namespace on base.relnamespace = base_namespace.oid
        where
            view_namespace.nspname = 'marts'
            and view.relkind = 'v'
            and base.oid <> view.oid
    {%- endset -%}
    {{ return(run_query(query).columns[0].values() | list) }}
{%- endmacro %}
