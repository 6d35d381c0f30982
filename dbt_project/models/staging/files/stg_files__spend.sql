with

source as (
    select * from {{ source('files', 'spend') }}
),

final as (
    select
        source_name as source,
        content_hash,
        row_number as row_number_in_file,
        acquisition_source,
        spent_on,
        upper(currency) as currency,
        amount
    from source
)

select * from final
