{# An email address as identity compares it: trimmed, in lower case, the domain in its ASCII form; no
   provider tricks. Null where it cannot be an address. #}
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

{% macro postgres__normalised_email(address) -%}
    {%- set cleaned -%}
        btrim(lower({{ address }}), E' \t\r\n\u00A0\u200B')
    {%- endset -%}
    case
        when {{ cleaned }} !~ '^[^@[:space:]]+@[^@[:space:].]+([.][^@[:space:].]+)+$' then null
        when {{ cleaned }} ~ '[^ -~]'
            then split_part({{ cleaned }}, '@', 1)
                || '@' || staging.ascii_domain(split_part({{ cleaned }}, '@', 2))
        else {{ cleaned }}
    end
{%- endmacro %}

{# International domains stay as they were typed: there is no function for their ASCII form. #}
{% macro duckdb__normalised_email(address) -%}
    {%- set cleaned -%}
        trim(lower({{ address }}), chr(32) || chr(9) || chr(13) || chr(10) || chr(160) || chr(8203))
    {%- endset -%}
    case
        when regexp_matches({{ cleaned }}, '^[^@[:space:]]+@[^@[:space:].]+([.][^@[:space:].]+)+$')
            then {{ cleaned }}
    end
{%- endmacro %}


{# The part after the @ of a normalised address. #}
{% macro email_domain(address) -%}
    {{ dbt.split_part(address, "'@'", 2) }}
{%- endmacro %}


{# True for an address of somebody who tests the shop; null without an address. #}
{% macro is_test_address(address) -%}
    {{ email_domain(address) }} in {{ sql_texts(var('test_email_domains') | map('lower') | list) }}
{%- endmacro %}
