{# Says in the warehouse itself which columns of a mart are personal data, as its YAML does with
   `meta: {pii: true}`: `publish` masks these for everybody without the grant (warehouse/privacy.py).

   It is kept as the comment of the column, because comments belong to the table: they come and go
   with it, and each colour has its own. #}
{% macro mark_personal_data() -%}
    {{ return(adapter.dispatch('mark_personal_data', 'kundenkreis')()) }}
{%- endmacro %}

{% macro default__mark_personal_data() -%}
{%- endmacro %}

{% macro postgres__mark_personal_data() -%}
    {%- for column in model.columns.values() if column.config.meta.get('pii') %}
    comment on column {{ this }}.{{ adapter.quote(column.name) }} is 'Personal data.';
    {%- endfor -%}
{%- endmacro %}
