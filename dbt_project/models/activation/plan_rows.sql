{{
    config(
        materialized='incremental',
        incremental_strategy='append',
        on_schema_change='fail',
        full_refresh=false,
        pre_hook="{{ forget_unsettled_plan_rows() }}",
    )
}}

{%- set rejected = "coalesce(rejected_reason, 'rejected')" %}

with

membership_changes as (
    select * from {{ ref('membership_changes') }}
),

profile_changes as (
    select
        *,
        {{ dbt.hash('attributes') }} as payload_hash
    from {{ ref('profile_changes') }}
),

profile_rows as (
    select
        destination,
        cast(null as {{ dbt.type_string() }}) as audience,
        cast(null as {{ dbt.type_string() }}) as segment,
        customer_id,
        'upsert' as operation,
        address,
        attributes,
        changed_fields,
        payload_hash,
        case
            when
                rejections >= coalesce(max_rejections, 5) and rejected_payload_hash = payload_hash
                then 'skipped'
            when
                retry_from_publication_id > {{ planned_publication_id() }}
                and rejected_payload_hash = payload_hash
                then 'skipped'
            when is_held then 'held'
            else 'planned'
        end as status,
        case
            when
                rejections >= coalesce(max_rejections, 5) and rejected_payload_hash = payload_hash
                then {{ dbt.concat(["'parked: '", rejected]) }}
            when
                retry_from_publication_id > {{ planned_publication_id() }}
                and rejected_payload_hash = payload_hash
                then {{ dbt.concat(["'waits_for_retry: '", rejected]) }}
            when is_held then 'audience_held'
            when is_repeated then 'repeated'
            when is_new then 'new_contact'
            else 'attributes_changed'
        end as status_reason,
        may_create
    from profile_changes
),

membership_rows as (
    select
        destination,
        audience,
        segment,
        customer_id,
        operation,
        address,
        '{}' as attributes,
        '[]' as changed_fields,
        {{ dbt.hash(dbt.concat(['destination', "'|'", 'audience', "'|'",
            "coalesce(address, '')"])) }} as payload_hash,
        status,
        status_reason,
        may_create
    from membership_changes
),

all_rows as (
    select * from profile_rows
    union all
    select * from membership_rows
),

identified as (
    select
        {{ dbt.hash(dbt.concat([
            "'" ~ planned_publication_id() ~ "|'",
            'destination', "'|'",
            "coalesce(audience, '')", "'|'",
            'operation', "'|'",
            "coalesce(address, '')", "'|'",
            "case when address is null then customer_id else '' end",
        ])) }} as plan_row_id,
        *
    from all_rows
),

final as (
    select
        cast(plan_row_id as {{ dbt.type_string() }}) as plan_row_id,
        cast({{ planned_publication_id() }} as {{ dbt.type_bigint() }}) as publication_id,
        cast({{ sql_text(var('run_id', none) or '') }} as {{ dbt.type_string() }}) as run_id,
        cast(destination as {{ dbt.type_string() }}) as destination,
        cast(audience as {{ dbt.type_string() }}) as audience,
        cast(segment as {{ dbt.type_string() }}) as segment,
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(operation as {{ dbt.type_string() }}) as operation,
        cast(address as {{ dbt.type_string() }}) as address,
        cast(attributes as {{ dbt.type_string() }}) as attributes,
        cast(changed_fields as {{ dbt.type_string() }}) as changed_fields,
        cast(payload_hash as {{ dbt.type_string() }}) as payload_hash,
        cast(status as {{ dbt.type_string() }}) as status,
        cast(status_reason as {{ dbt.type_string() }}) as status_reason,
        cast({{ dbt.current_timestamp() }} as {{ dbt.type_timestamp() }}) as planned_at,
        cast(may_create as {{ dbt.type_boolean() }}) as may_create
    from identified
    {%- if is_incremental() %}
    -- A row of this publication that was settled already stays as it is.
    where
        plan_row_id not in (
            select already_planned.plan_row_id
            from {{ this }} as already_planned
            where already_planned.publication_id = {{ planned_publication_id() }}
        )
    {%- endif %}
)

select * from final
