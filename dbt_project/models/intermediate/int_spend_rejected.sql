{{ config(materialized='view') }}

with

spend as (
    select * from {{ ref('int_spend') }}
    where amount is null
),

final as (
    select
        source,
        'spend' as table_name,
        record_key,
        'no_exchange_rate' as reason_code,
        'What was spent is in ' || currency || ', for which exchange_rates in config/model.yml has '
        || 'no rate.' as reason,
        {{ json_object({
            'acquisition_source': 'acquisition_source',
            'spent_on': 'spent_on',
            'currency': 'currency',
            'amount': 'own_amount',
        }) }} as payload
    from spend
)

select * from final
