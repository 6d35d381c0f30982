{{ config(materialized='ephemeral', tags=['segment']) }}

with recursive

merge_pairs as (
    select
        other_customer_id,
        customer_id
    from {{ source('history', 'identity_changes') }}
    where change = 'merged'
    union
    select
        other_customer_id,
        customer_id
    from {{ ref('history_identity_changes') }}
    where change = 'merged'
),

customers as (
    select * from {{ ref('customers') }}
),

-- Whoever became part of another may have become part of a third since. `union` ends a circle.
chains as (
    select
        other_customer_id as merged_customer_id,
        customer_id
    from merge_pairs
    union
    select
        chains.merged_customer_id,
        merge_pairs.customer_id
    from chains
    inner join merge_pairs on chains.customer_id = merge_pairs.other_customer_id
),

final as (
    select
        chains.merged_customer_id,
        min(chains.customer_id) as customer_id
    from chains
    inner join customers on chains.customer_id = customers.customer_id
    left join customers as remaining on chains.merged_customer_id = remaining.customer_id
    where remaining.customer_id is null
    group by chains.merged_customer_id
)

select * from final
