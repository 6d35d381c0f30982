with

source as (
    select * from {{ source('hubspot', 'contacts__property_history') }}
),

final as (
    select
        _dlt_parent_id as contact_row_id,
        _dlt_list_idx as change_number,
        property,
        lower(value) as property_value,
        changed_at
    from source
)

select * from final
