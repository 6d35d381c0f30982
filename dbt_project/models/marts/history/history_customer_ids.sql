{{ config(tags=['transform']) }}

with

identities as (
    select * from {{ ref('int_customer_identities') }}
),

assigned as (
    select * from {{ source('history', 'customer_ids') }}
),

-- Only records that have no id yet: an id is assigned once.
final as (
    select
        identities.source,
        identities.source_record_type,
        identities.source_id,
        identities.customer_id,
        {{ as_of_date() }} as assigned_on
    from identities
    left join assigned
        on
            identities.source = assigned.source
            and identities.source_record_type = assigned.source_record_type
            and identities.source_id = assigned.source_id
    where assigned.customer_id is null
)

select * from final
