{# What makes two source records one person (design section 4, Identity). Each macro takes the alias of
   a relation with the columns of int_source_records_unioned. #}


{# The node a record stands for: its address, which every record with that address shares; without
   one that identifies a person the record itself. #}
{% macro identity_key(record) -%}
    case
        when {{ record }}.address is not null and not {{ record }}.is_relay_address
            then 'address:' || {{ record }}.address
        else {{ record_key(record ~ '.source', record ~ '.source_record_type', record ~ '.source_id') }}
    end
{%- endmacro %}


{# A source record as a node. #}
{% macro record_key(source, source_record_type, source_id) -%}
    'record:' || {{ source }} || '|' || {{ source_record_type }} || '|' || {{ source_id }}
{%- endmacro %}


{# The node of a telephone number. A household shares a number, so the surname has to be equal too;
   null where either is missing, or telephone edges are off. #}
{% macro telephone_key(record) -%}
    {%- if var('identity_phone_edges') -%}
    case
        when trim({{ record }}.last_name) <> ''
            then 'telephone:' || {{ record }}.phone_e164 || '|' || lower(trim({{ record }}.last_name))
    end
    {%- else -%}
    cast(null as {{ dbt.type_string() }})
    {%- endif -%}
{%- endmacro %}


{# The node of the record that this one names as its counterpart in another source; null without. #}
{% macro link_key(record) -%}
    {{ record_key(
        record ~ '.linked_source', record ~ '.linked_record_type', record ~ '.linked_source_id'
    ) }}
{%- endmacro %}


{# CTEs up to `settled`: the connected components of the CTE `edges` (left_key, right_key), one row per
   node, named by the smallest node of its component.

   Each round a node takes the smallest name among its neighbours', then the name of its name; so
   names spread at twice the distance each round, and the work stays in proportion to the edges. What
   is not settled after the rounds is a chain of hundreds: no person. #}
{% macro connected_components(rounds=10) -%}
neighbours as (
    select
        left_key as node,
        right_key as neighbour
    from edges
    union
    select
        right_key as node,
        left_key as neighbour
    from edges
),

named_0 as (
    select distinct
        node,
        node as component
    from neighbours
),
{% for round in range(1, rounds + 1) %}
near_{{ round }} as (
    select
        neighbours.node,
        least(min(own.component), min(named.component)) as component
    from neighbours
    inner join named_{{ round - 1 }} as named on neighbours.neighbour = named.node
    inner join named_{{ round - 1 }} as own on neighbours.node = own.node
    group by neighbours.node
),

named_{{ round }} as (
    select
        near.node,
        least(near.component, named.component) as component
    from near_{{ round }} as near
    inner join near_{{ round }} as named on near.component = named.node
),
{% endfor %}
settled as (
    select
        own.node,
        own.component,
        max(case when own.component <> named.component then 1 else 0 end) = 0 as is_settled
    from named_{{ rounds }} as own
    inner join neighbours on own.node = neighbours.node
    inner join named_{{ rounds }} as named on neighbours.neighbour = named.node
    group by own.node, own.component
)
{%- endmacro %}
