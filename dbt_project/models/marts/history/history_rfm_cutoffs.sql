{{ config(tags=['transform']) }}

with

cutoffs as (
    select * from {{ ref('int_rfm_cutoffs') }}
),

final as (
    select
        {{ as_of_date() }} as as_of_date,
        dimension,
        quantile,
        cutoff,
        method
    from cutoffs
    -- A shop without a buyer and without fallback has none.
    where cutoff is not null
)

select * from final
