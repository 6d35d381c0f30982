{{ after_changed('int_affected_records') }}

with

records as (
    select
        records.*,
        {{ identity_key('records') }} as identity_key,
        {{ telephone_key('records') }} as telephone_key,
        {{ record_key('records.source', 'records.source_record_type', 'records.source_id') }}
            as record_key,
        {{ link_key('records') }} as link_key
    from {{ ref('int_source_records_unioned') }} as records
    {% if builds_on_last_build() -%}
    inner join {{ ref('int_affected_records') }} as affected
        on
            records.source = affected.source
            and records.source_record_type = affected.source_record_type
            and records.source_id = affected.source_id
    {%- endif %}
),

edges as (
    select
        identity_key as left_key,
        telephone_key as right_key
    from records
    where telephone_key is not null
    union
    select
        records.identity_key as left_key,
        linked.identity_key as right_key
    from records
    inner join records as linked on records.link_key = linked.record_key
    where records.link_key is not null and records.identity_key <> linked.identity_key
),

{{ connected_components() }},

sized as (
    select
        component,
        sum(case when node like 'address:%' then 1 else 0 end) as addresses,
        max(case when is_settled then 0 else 1 end) as is_unsettled
    from settled
    group by component
),

final as (
    select
        settled.node as identity_key,
        settled.component,
        sized.addresses > {{ var('identity_max_addresses') }} or sized.is_unsettled = 1
            as is_ambiguous
    from settled
    inner join sized on settled.component = sized.component
    where settled.node not like 'telephone:%'
)

select * from final
