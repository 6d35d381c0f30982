{{ config(materialized='table') }}

with

desired_members as (
    select * from {{ ref('desired_members') }}
    where suppressed_because is null
),

customer_360 as (
    select * from {{ ref('customer_360') }}
),

people as (
    select
        destination,
        address,
        min(customer_id) as customer_id,
        max(evidence) as evidence
    from desired_members
    group by destination, address
),

{% if sent_attributes() -%}
configured_attributes as (
    {{ configured_attributes() }}
),

wanted as (
    select distinct
        desired_members.destination,
        desired_members.address,
        configured_attributes.attribute
    from desired_members
    inner join configured_attributes on desired_members.segment = configured_attributes.segment
),

customer_values as (
    {#- One object per customer, then one row per attribute: the columns differ in type. #}
    select
        customer_360.customer_id,
        entries.attribute,
        entries.value
    from
        customer_360
        {%- set pairs = {} -%}
        {%- for attribute in sent_attributes() -%}
        {%- do pairs.update({attribute: 'customer_360.' ~ attribute}) -%}
    {%- endfor %}
    {{ join_json_entries('cast(' ~ json_object(pairs) ~ ' as ' ~ json_type() ~ ')', 'entries') }}
    where customer_360.customer_id in (select people.customer_id from people)
),

profiles as (
    select
        people.destination,
        people.address,
        {{ json_object_of('wanted.attribute', 'customer_values.value') }} as attributes
    from people
    left join wanted
        on people.destination = wanted.destination and people.address = wanted.address
    left join customer_values
        on
            people.customer_id = customer_values.customer_id
            and wanted.attribute = customer_values.attribute
    group by people.destination, people.address
),
{%- else -%}
profiles as (
    select
        destination,
        address,
        cast('{}' as {{ json_type() }}) as attributes
    from people
),
{%- endif %}

final as (
    select
        people.destination,
        people.address,
        people.customer_id,
        people.evidence,
        profiles.attributes
    from people
    inner join profiles
        on people.destination = profiles.destination and people.address = profiles.address
)

select * from final
