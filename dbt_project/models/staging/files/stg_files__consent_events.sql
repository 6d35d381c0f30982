with

source as (
    select * from {{ source('files', 'consent_events') }}
),

final as (
    select
        source_name as source,
        email,
        lower(channel) as channel,
        lower(evidence) as evidence,
        occurred_at,
        wording
    from source
)

select * from final
