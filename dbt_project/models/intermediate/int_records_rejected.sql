with

identities as (
    select * from {{ ref('int_customer_identities') }}
    where is_ambiguous
),

final as (
    select
        source,
        case source_record_type
            when 'contact' then 'contacts'
            when 'guest_order' then 'orders'
            else 'customers'
        end as table_name,
        source_id as record_key,
        'ambiguous_identity' as reason_code,
        'Links or telephone numbers connect this record with more than '
        || '{{ var("identity_max_addresses") }} addresses (identity_max_addresses in '
        || 'config/model.yml). It was not merged: each address stays a customer of its own.'
            as reason,
        {{ json_object({
            'source_record_type': 'source_record_type',
            'source_id': 'source_id',
            'address': 'address',
            'connection': dbt.hash('connection'),
        }) }} as payload
    from identities
)

select * from final
