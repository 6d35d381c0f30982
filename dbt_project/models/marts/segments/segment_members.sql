{#- One query per segment of config/segments.yml; `where` is SQL over customer_360. -#}

with

-- A person who objected to profiling, and a known minor, are never members.
customer_360 as (
    select * from {{ ref('customer_360') }}
    where not has_profiling_objection and not is_minor
),

memberships_before as (
    select * from {{ ref('int_segment_memberships_before') }}
),

matching as (
    {%- for segment in var('segments') %}
    select
        {{ sql_text(segment.key) }} as segment,
        customer_id,
        is_contactable,
        not_contactable_because,
        {{ segment.get('holdout_percent') or 0 }} as holdout_percent
    from customer_360
    where (
        (
            {{ segment.where }}
        )
        {%- if segment.get('min_stay_days') %}
        or customer_id in (
            select memberships_before.customer_id
            from memberships_before
            where
                memberships_before.segment = {{ sql_text(segment.key) }}
                and memberships_before.member_since
                > {{ add_days(as_of_date(), -segment.min_stay_days) }}
        )
        {%- endif %}
    )
    and {{ has_required_columns(segment, ref('customer_360')) }}
    {{ 'union all' if not loop.last }}
    {%- else %}
    {{ empty_relation({
        'segment': dbt.type_string(),
        'customer_id': dbt.type_string(),
        'is_contactable': 'boolean',
        'not_contactable_because': dbt.type_string(),
        'holdout_percent': 'numeric',
    }) }}
    {%- endfor %}
),

-- The draw depends on nothing but customer, segment and salt, so it is the same every night, and it
-- survives a merge because the customer id does. Only who could be written to is held out.
drawn as (
    select
        *,
        is_contactable and (
            {{ percent_bucket(
                sql_text(var('holdout_salt')) ~ " || '|' || segment || '|' || customer_id"
            ) }} < holdout_percent
            {%- if var('global_holdout_percent') > 0 %}
            or {{ percent_bucket(sql_text(var('holdout_salt')) ~ " || '||' || customer_id") }}
            < {{ var('global_holdout_percent') }}
            {%- endif %}
        ) as is_holdout
    from matching
),

final as (
    select
        cast(drawn.segment as {{ dbt.type_string() }}) as segment,
        cast(drawn.customer_id as {{ dbt.type_string() }}) as customer_id,
        cast(coalesce(memberships_before.member_since, {{ as_of_date() }}) as date) as member_since,
        cast(drawn.is_holdout as boolean) as is_holdout,
        cast(drawn.is_contactable as boolean) as is_contactable,
        cast(drawn.not_contactable_because as {{ dbt.type_string() }}) as not_contactable_because
    from drawn
    left join memberships_before
        on
            drawn.segment = memberships_before.segment
            and drawn.customer_id = memberships_before.customer_id
)

select * from final
