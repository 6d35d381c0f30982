with

intervals as (
    select * from {{ ref('lifecycle_intervals') }}
),

ordered as (
    select
        customer_id,
        lag(stage) over (partition by customer_id order by valid_from) as from_stage,
        stage as to_stage,
        valid_from as changed_on,
        -- Stage conversion begins with the first counted order, once in a life.
        min(case when stage = 'conversion' then valid_from end) over (partition by customer_id)
            as first_order_date
    from intervals
),

final as (
    select
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(from_stage as {{ dbt.type_string() }}) as from_stage,
        cast(to_stage as {{ dbt.type_string() }}) as to_stage,
        cast(changed_on as date) as changed_on,
        {{ first_of_month('first_order_date') }} as cohort_month
    from ordered
    where from_stage is not null
)

select * from final
