-- Every framework says exactly once what each of our stages is called, names no other stage, and
-- gives each of its own stages one label per language.
{{ config(tags=['transform']) }}

with

frameworks as (
    select * from {{ ref('lifecycle_frameworks') }}
),

stages as (
    {%- for stage in lifecycle_stages() %}
    select
        '{{ stage }}' as stage,
        {{ loop.index }} as stage_position
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

expected as (
    select distinct
        frameworks.framework,
        stages.stage,
        stages.stage_position
    from frameworks
    cross join stages
),

mapped as (
    select
        framework,
        stage,
        min(stage_position) as stage_position,
        count(*) as times
    from frameworks
    group by framework, stage
)

select
    coalesce(expected.framework, mapped.framework) as framework,
    coalesce(expected.stage, mapped.stage) as stage,
    'mapped ' || coalesce(mapped.times, 0) || ' times, or out of place' as fault
from expected
full outer join mapped
    on expected.framework = mapped.framework and expected.stage = mapped.stage
where
    mapped.times is null
    or mapped.times <> 1
    or expected.stage is null
    or expected.stage_position <> mapped.stage_position
union all
select
    framework,
    framework_stage as stage,
    'several labels' as fault
from frameworks
group by framework, framework_stage
having count(distinct label_en) <> 1 or count(distinct label_de) <> 1
