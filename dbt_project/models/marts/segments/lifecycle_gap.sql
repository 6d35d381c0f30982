{#- Where no email tool is enabled, every segment counts as sent by email: teams read
    segment_members themselves. -#}
{%- set destinations = var('enabled_destinations') -%}
{%- set channels = destinations or ['email'] %}

with

-- Who objected to profiling, and a known minor, is never a member: nobody is to write to them.
customer_360 as (
    select
        customer_id,
        stage,
        is_contactable and not has_profiling_objection and not is_minor as is_contactable
    from {{ ref('customer_360') }}
),

segment_members as (
    select * from {{ ref('segment_members') }}
),

stages_named_by_segments as (
    {{ stages_named_by_segments() }}
),

stage_channels as (
    select
        frameworks.stage,
        frameworks.stage_position,
        channels.channel
    from {{ ref('lifecycle_frameworks') }} as frameworks
    cross join (
        {%- for channel in channels %}
        select {{ sql_text(channel) }} as channel
        {{ 'union all' if not loop.last }}
        {%- endfor %}
    ) as channels
    where frameworks.framework = 'kundenkreis'
),

sent_segments as (
    {%- if destinations %}
    select distinct
        audiences.destination as channel,
        audiences.segment
    from (
        {{ configured_audiences() }}
    ) as audiences
    {%- else %}
    {%- for segment in var('segments') %}
    select
        'email' as channel,
        {{ sql_text(segment.key) }} as segment
    {{ 'union all' if not loop.last }}
    {%- else %}
    {{ empty_relation({'channel': dbt.type_string(), 'segment': dbt.type_string()}) }}
    {%- endfor %}
    {%- endif %}
),

sent_members as (
    select
        sent_segments.channel,
        sent_segments.segment,
        customer_360.customer_id,
        customer_360.stage,
        customer_360.is_contactable
    from segment_members
    inner join sent_segments on segment_members.segment = sent_segments.segment
    inner join customer_360 on segment_members.customer_id = customer_360.customer_id
),

-- A segment serves a stage that its `where` names, also on a day without a member, and every stage
-- that a member is in.
serving as (
    select
        channel,
        stage,
        segment
    from sent_members
    group by channel, stage, segment
    union all
    select
        sent_segments.channel,
        stages_named_by_segments.stage,
        sent_segments.segment
    from sent_segments
    inner join stages_named_by_segments
        on sent_segments.segment = stages_named_by_segments.segment
),

segments_of_stages as (
    select
        channel,
        stage,
        {{ comma_separated('segment') }} as segments
    from serving
    group by channel, stage
),

served_customers as (
    select
        channel,
        stage,
        customer_id
    from sent_members
    where is_contactable
    group by channel, stage, customer_id
),

served_totals as (
    select
        channel,
        stage,
        count(*) as customers
    from served_customers
    group by channel, stage
),

stage_totals as (
    select
        stage,
        count(*) as customers,
        sum(case when is_contactable then 1 else 0 end) as contactable_customers
    from customer_360
    group by stage
),

final as (
    select
        cast(stage_channels.stage as {{ dbt.type_string() }}) as stage,
        cast(stage_channels.channel as {{ dbt.type_string() }}) as channel,
        cast(stage_channels.stage_position as integer) as stage_position,
        cast(segments_of_stages.segments as {{ dbt.type_string() }}) as segments,
        cast(coalesce(stage_totals.customers, 0) as integer) as customers,
        cast(coalesce(stage_totals.contactable_customers, 0) as integer) as contactable_customers,
        cast(coalesce(served_totals.customers, 0) as integer) as served_customers,
        cast(
            coalesce(stage_totals.contactable_customers, 0) - coalesce(served_totals.customers, 0)
            as integer
        ) as not_served_customers,
        segments_of_stages.segments is null as is_gap
    from stage_channels
    left join stage_totals on stage_channels.stage = stage_totals.stage
    left join segments_of_stages
        on
            stage_channels.stage = segments_of_stages.stage
            and stage_channels.channel = segments_of_stages.channel
    left join served_totals
        on
            stage_channels.stage = served_totals.stage
            and stage_channels.channel = served_totals.channel
)

select * from final
