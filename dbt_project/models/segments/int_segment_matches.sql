{#- One query per segment of config/segments.yml; `where` is SQL over customer_360. -#}

with

-- A person who objected to profiling, and a known minor, are never members.
customer_360 as (
    select * from {{ ref('customer_360') }}
    where not has_profiling_objection and not is_minor
),

memberships_before as (  -- noqa: ST03
    select * from {{ ref('int_segment_memberships_before') }}
),

final as (
    {%- for segment in var('segments') %}
    select
        {{ sql_text(segment.key) }} as segment,
        customer_id,
        is_contactable,
        not_contactable_because,
        cast({{ segment.get('holdout_percent') or 0 }} as numeric(9, 4)) as holdout_percent
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
        'holdout_percent': 'numeric(9, 4)',
    }) }}
    {%- endfor %}
)

select * from final
