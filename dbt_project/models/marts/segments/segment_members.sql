with

matches as (
    select * from {{ ref('int_segment_matches') }}
),

memberships_before as (
    select * from {{ ref('int_segment_memberships_before') }}
),

draws as (
    select * from {{ ref('int_holdout_draws') }}
),

final as (
    select
        cast(matches.segment as {{ dbt.type_string() }}) as segment,
        cast(matches.customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(coalesce(memberships_before.member_since, {{ as_of_date() }}) as date) as member_since,
        cast(
            coalesce(own_draws.is_holdout, false) or coalesce(global_draws.is_holdout, false)
            as boolean
        ) as is_holdout,
        cast(matches.is_contactable as boolean) as is_contactable,
        cast(matches.not_contactable_because as {{ dbt.type_string() }}) as not_contactable_because
    from matches
    left join memberships_before
        on
            matches.segment = memberships_before.segment
            and matches.customer_id = memberships_before.customer_id
    left join draws as own_draws
        on
            matches.segment = own_draws.segment
            and matches.customer_id = own_draws.customer_id
    left join draws as global_draws
        on
            matches.customer_id = global_draws.customer_id
            and global_draws.segment = {{ global_holdout() }}
)

select * from final
