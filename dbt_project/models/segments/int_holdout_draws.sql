{%- set global_percent = var('global_holdout_percent') or 0 %}

with

matches as (
    select * from {{ ref('int_segment_matches') }}
),

memberships_before as (
    select * from {{ ref('int_segment_memberships_before') }}
),

merged_customers as (
    select * from {{ ref('int_merged_customers') }}
),

-- With those of this day: where a night is repeated, who was drawn stays drawn, whatever the
-- percentages are by now.
recorded as (
    select * from {{ source('history', 'holdout_draws') }}
    where as_of_date <= {{ as_of_date() }} and salt = {{ sql_text(var('holdout_salt')) }}
),

-- A draw of a segment holds for the stay it was made in, the global one for good.
lasting as (
    select
        recorded.segment,
        coalesce(merged_customers.customer_id, recorded.customer_id) as customer_id,
        recorded.customer_id as drawn_customer_id,
        recorded.as_of_date,
        recorded.drawn_on,
        recorded.is_holdout,
        recorded.holdout_percent,
        merged_customers.customer_id is not null as is_inherited
    from recorded
    left join memberships_before
        on
            recorded.segment = memberships_before.segment
            and recorded.customer_id = memberships_before.customer_id
    left join merged_customers on recorded.customer_id = merged_customers.merged_customer_id
    where
        recorded.segment = {{ global_holdout() }}
        or recorded.as_of_date >= memberships_before.member_since
        or recorded.as_of_date = {{ as_of_date() }}
),

-- Where customers merged who were drawn differently, the remaining one's own draw counts, then the
-- oldest.
ranked as (
    select
        *,
        row_number() over (
            partition by segment, customer_id
            order by is_inherited, drawn_on, as_of_date, drawn_customer_id
        ) as precedence
    from lasting
),

kept as (
    select
        *,
        not is_inherited and as_of_date < {{ as_of_date() }} as is_in_history
    from ranked
    where precedence = 1
),

people as (
    select
        customer_id,
        {{ any_true('is_contactable') }} as is_contactable
    from matches
    group by customer_id
),

-- Only who could be written to is drawn, by nothing but customer, segment and salt.
global_draws as (
    select
        {{ global_holdout() }} as segment,
        people.customer_id,
        coalesce(kept.drawn_on, {{ as_of_date() }}) as drawn_on,
        coalesce(
            kept.is_holdout,
            {{ percent_bucket(sql_text(var('holdout_salt')) ~ " || '||' || people.customer_id") }}
            < {{ global_percent }}
        ) as is_holdout,
        coalesce(kept.holdout_percent, {{ global_percent }}) as holdout_percent,
        coalesce(kept.is_in_history, false) as is_in_history
    from people
    left join kept
        on people.customer_id = kept.customer_id and kept.segment = {{ global_holdout() }}
    where
        {{ global_percent }} > 0
        and (people.is_contactable or kept.customer_id is not null)
),

-- Who gets nothing at all is in neither arm of a segment.
segment_draws as (
    select
        matches.segment,
        matches.customer_id,
        coalesce(kept.drawn_on, {{ as_of_date() }}) as drawn_on,
        coalesce(
            kept.is_holdout,
            {{ percent_bucket(
                sql_text(var('holdout_salt'))
                ~ " || '|' || matches.segment || '|' || matches.customer_id"
            ) }} < matches.holdout_percent
        ) as is_holdout,
        coalesce(kept.holdout_percent, matches.holdout_percent) as holdout_percent,
        coalesce(kept.is_in_history, false) as is_in_history
    from matches
    left join kept
        on matches.segment = kept.segment and matches.customer_id = kept.customer_id
    left join global_draws on matches.customer_id = global_draws.customer_id
    where
        kept.customer_id is not null
        or (matches.is_contactable and not coalesce(global_draws.is_holdout, false))
),

drawn as (
    select * from global_draws
    union all
    select * from segment_draws
),

final as (
    select
        cast(segment as {{ dbt.type_string() }}) as segment,
        cast(customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(drawn_on as date) as drawn_on,
        is_holdout,
        cast(holdout_percent as numeric(9, 4)) as holdout_percent,
        is_in_history
    from drawn
)

select * from final
