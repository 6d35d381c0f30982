{{ config(tags=['plan']) }}

-- Nobody is planned to be written to whose address is not contactable today.
select
    plan_rows.plan_row_id,
    plan_rows.customer_id
from {{ ref('plan_rows') }} as plan_rows
left join {{ ref('contactability') }} as contactability
    on
        plan_rows.address = contactability.address
        and contactability.channel = 'email'
        and contactability.is_contactable
where
    plan_rows.publication_id = {{ planned_publication_id() }}
    and plan_rows.operation in ('upsert', 'add')
    and plan_rows.status in ('planned', 'held')
    and contactability.address is null
