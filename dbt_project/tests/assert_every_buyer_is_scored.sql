-- The eleven segments cover every code: no buyer falls out of customer_rfm.
{{ config(tags=['transform']) }}

select rfm_values.customer_id
from {{ ref('int_rfm_values') }} as rfm_values
left join {{ ref('customer_rfm') }} as customer_rfm
    on rfm_values.customer_id = customer_rfm.customer_id
where customer_rfm.customer_id is null
