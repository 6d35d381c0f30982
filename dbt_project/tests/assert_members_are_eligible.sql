-- A person who objected to profiling, and a known minor, are in no segment.
{{ config(tags=['segment']) }}

select
    segment_members.segment,
    segment_members.customer_id
from {{ ref('segment_members') }} as segment_members
left join {{ ref('customers') }} as customers
    on segment_members.customer_id = customers.customer_id
where customers.customer_id is null or customers.has_profiling_objection or customers.is_minor
