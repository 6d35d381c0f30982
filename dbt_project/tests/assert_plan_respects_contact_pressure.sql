{{ config(tags=['plan']) }}
{%- set at_once = var('contact_pressure').get('at_once') %}

with

decided as (
    select * from {{ ref('contact_pressure') }}
),

planned as (
    select * from {{ ref('plan_rows') }}
    where
        publication_id = {{ planned_publication_id() }}
        and operation = 'add'
        and status in ('planned', 'held')
),

-- Nobody is planned to be put into an audience that they had to give up.
given_up as (
    select
        decided.customer_id,
        decided.segment
    from decided
    inner join planned
        on decided.customer_id = planned.customer_id and decided.segment = planned.segment
    where not decided.is_kept
),

too_many as (
    select
        customer_id,
        cast(null as {{ dbt.type_string() }}) as segment
    from decided
    where is_kept
    group by customer_id
    having count(*) > {{ at_once if at_once is not none else 'count(*)' }}
)

select * from given_up
union all
select * from too_many
