with

source as (
    select * from {{ source('files', 'consent_events') }}
),

final as (
    select
        source_name as source,
        email,
        lower(trim(channel)) as channel,
        lower(trim(evidence)) as evidence,
        occurred_at,
        wording
    from source
)

select * from final
