{{ config(tags=['segment']) }}

with

draws as (
    select * from {{ ref('int_holdout_draws') }}
    where not is_in_history
),

final as (
    select
        {{ as_of_date() }} as as_of_date,
        segment,
        customer_id,
        drawn_on,
        is_holdout,
        holdout_percent,
        cast({{ sql_text(var('holdout_salt')) }} as {{ dbt.type_string() }}) as salt
    from draws
)

select * from final
