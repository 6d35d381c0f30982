with

source as (
    select * from {{ source('hubspot', 'deals') }}
),

final as (
    select
        cast(id as {{ dbt.type_string() }}) as deal_key,
        cast(contact_id as {{ dbt.type_string() }}) as contact_key,
        dealstage as deal_stage,
        amount,
        deal_currency_code as currency,
        hs_is_closed as is_closed,
        hs_is_closed_won as is_won,
        coalesce(archived, false) as is_archived,
        createdate as created_at,
        closedate as closed_at
    from source
)

select * from final
