{{ config(tags=['plan']) }}

-- Nobody who is held out of a segment is planned to be put into its audience.
select
    plan_rows.plan_row_id,
    plan_rows.customer_id
from {{ ref('plan_rows') }} as plan_rows
inner join {{ ref('segment_members') }} as segment_members
    on
        plan_rows.segment = segment_members.segment
        and plan_rows.customer_id = segment_members.customer_id
where
    plan_rows.publication_id = {{ planned_publication_id() }}
    and plan_rows.operation = 'add'
    and plan_rows.status in ('planned', 'held')
    and segment_members.is_holdout
