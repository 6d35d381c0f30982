{# An email address as identity compares it: trimmed and in lower case, no provider tricks.
   Null where it cannot be an address. #}
{% macro normalised_email(address) -%}
    {{ return(adapter.dispatch('normalised_email', 'kundenkreis')(address)) }}
{%- endmacro %}

{% macro default__normalised_email(address) -%}
    case
        when lower(trim({{ address }})) like '%_@_%._%'
            and trim({{ address }}) not like '% %'
            and trim({{ address }}) not like '%@%@%'
            then lower(trim({{ address }}))
    end
{%- endmacro %}


{# The part after the @ of a normalised address. #}
{% macro email_domain(address) -%}
    {{ dbt.split_part(address, "'@'", 2) }}
{%- endmacro %}
