{# Schemas are taken literally; `marts` means the colour under construction, `intermediate` the schema
   beside it.

   There is no default colour: a mart built into the published colour would drop the published
   views. Without the variable the schema is `marts_schema_is_not_set`, so that `dbt parse` and
   `dbt ls` work, and refuse_published_colour() stops every command that would build there. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- if custom_schema_name is none -%}
        {{ return(target.schema) }}
    {%- elif custom_schema_name == 'marts' -%}
        {{ return(var('marts_schema', none) or 'marts_schema_is_not_set') }}
    {%- elif custom_schema_name == 'intermediate' -%}
        {{ return(intermediate_schema()) }}
    {%- else -%}
        {{ return(custom_schema_name | trim) }}
    {%- endif -%}
{%- endmacro %}
