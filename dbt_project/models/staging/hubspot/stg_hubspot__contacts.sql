with

source as (
    select * from {{ source('hubspot', 'contacts') }}
),

final as (
    select
        cast(id as {{ dbt.type_string() }}) as contact_key,
        email,
        firstname as first_name,
        lastname as last_name,
        phone,
        lower(lifecyclestage) as lifecycle_stage,
        lower(hs_lead_status) as lead_status,
        lower(hs_language) as preferred_language,
        lower(hs_analytics_source) as acquisition_source,
        date_of_birth,
        hs_email_optout as is_opted_out,
        lower(hs_emailconfirmationstatus) as confirmation_status,
        coalesce(archived, false) as is_archived,
        createdate as created_at,
        lastmodifieddate as modified_at,
        _dlt_id as contact_row_id,
        phone_e164,
        linked_source,
        linked_customer_key,
        _dlt_load_id as load_id
    from source
)

select * from final
