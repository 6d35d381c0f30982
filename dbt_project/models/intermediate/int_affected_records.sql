{{ config(
    enabled=var('built_as_of_date', none) is not none,
    pre_hook="{{ looks_up_blocks() }}",
) }}
{#- The last build is read where it is joined, not once for all: a CTE that is read several times
    would be written to disk, with every record there is. -#}
{#- A change of one record may connect or part others, so everything that it is or was connected
    with is looked at again. No connection leads out of this set, before or after the change. -#}

{%- set built = last_build_of('int_customer_identities') %}

with

changed as (
    select * from {{ ref('int_changed_records') }}
),

records as (
    select *
    from {{ look_up(ref('int_source_records_unioned'), 'changed', 'source_id') }} as records
),

changed_keys as (
    select
        changed.*,
        {{ record_key('changed.source', 'changed.source_record_type', 'changed.source_id') }}
            as record_key,
        {{ identity_key('records') }} as identity_key,
        {{ telephone_key('records') }} as telephone_key,
        records.linked_source,
        records.linked_record_type,
        records.linked_source_id
    from changed
    left join records
        on
            changed.source = records.source
            and changed.source_record_type = records.source_record_type
            and changed.source_id = records.source_id
),

touched as (
    select built.connection
    from {{ look_up(built, 'changed', 'source_id') }} as built
    inner join changed
        on
            built.source = changed.source
            and built.source_record_type = changed.source_record_type
            and built.source_id = changed.source_id
    union
    select built.connection
    from {{ look_up(built, 'changed_keys', 'identity_key') }} as built
    inner join changed_keys on built.identity_key = changed_keys.identity_key
    {%- if var('identity_phone_edges') %}
    union
    select built.connection
    from {{ built }} as built
    inner join changed_keys on built.telephone_key = changed_keys.telephone_key
    {%- endif %}
    union
    select built.connection
    from {{ built }} as built
    inner join changed_keys
        on
            built.source = changed_keys.linked_source
            and built.source_record_type = changed_keys.linked_record_type
            and built.source_id = changed_keys.linked_source_id
    union
    select built.connection
    from {{ built }} as built
    inner join changed_keys on built.link_key = changed_keys.record_key
    where built.link_key is not null
),

ids_of_touched as (
    select distinct customer_id
    from {{ look_up(built, 'touched', 'connection') }} as built
),

-- The ids that these hold, or got since: another night may have given one of them to a record that
-- has been parted from it.
claimed as (
    select customer_id from ids_of_touched
    union
    select moved.customer_id
    from {{ source('history', 'identity_changes') }} as moved
    inner join ids_of_touched on moved.other_customer_id = ids_of_touched.customer_id
    where moved.as_of_date >= cast('{{ var("built_as_of_date") }}' as date)
    union
    select assigned.customer_id
    from {{ source('history', 'customer_ids') }} as assigned
    inner join changed
        on
            assigned.source = changed.source
            and assigned.source_record_type = changed.source_record_type
            and assigned.source_id = changed.source_id
),

connections as (
    select connection from touched
    union
    select built.connection
    from {{ built }} as built
    where {{ is_one_of('built.customer_id', 'select customer_id from claimed') }}
),

of_built as (
    select
        built.source,
        built.source_record_type,
        built.source_id,
        built.customer_id
    from {{ built }} as built
    where {{ is_one_of('built.connection', 'select connection from connections') }}
),

final as (
    select
        coalesce(of_built.source, changed.source) as source,
        coalesce(of_built.source_record_type, changed.source_record_type) as source_record_type,
        coalesce(of_built.source_id, changed.source_id) as source_id,
        of_built.customer_id as built_customer_id
    from of_built
    full outer join changed
        on
            of_built.source = changed.source
            and of_built.source_record_type = changed.source_record_type
            and of_built.source_id = changed.source_id
)

select * from final
