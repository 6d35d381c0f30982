{{ config(materialized='table') }}

with

contactability as (
    select * from {{ ref('contactability') }}
    where channel = 'email'
),

-- Where two customers share an address, a single no is a no.
final as (
    select
        address,
        min(customer_id) as customer_id,
        min(case when is_contactable then 1 else 0 end) = 1 as is_contactable,
        max(case when not is_contactable then reason end) as reason,
        max(evidence) as evidence
    from contactability
    group by address
)

select * from final
