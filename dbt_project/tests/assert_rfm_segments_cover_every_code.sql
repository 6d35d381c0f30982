-- The grid of RFM codes has no hole, and every segment has one label and one action per language.
{{ config(tags=['transform']) }}

with

segments as (
    select * from {{ ref('rfm_segments') }}
),

scores as (
    {%- for score in range(1, 6) %}
    select '{{ score }}' as score
    {{ 'union all' if not loop.last }}
    {%- endfor %}
),

codes as (
    select recency.score || frequency.score || monetary.score as rfm_code
    from scores as recency
    cross join scores as frequency
    cross join scores as monetary
),

faults as (
    select
        codes.rfm_code as place,
        'code without a segment' as fault
    from codes
    left join segments on codes.rfm_code = segments.rfm_code
    where segments.rfm_code is null
    union all
    select
        segments.rfm_code as place,
        'not a code of three scores from 1 to 5' as fault
    from segments
    left join codes on segments.rfm_code = codes.rfm_code
    where codes.rfm_code is null
    {%- for column in ['label_en', 'label_de', 'action_en', 'action_de'] %}
    union all
    select
        rfm_segment as place,
        '{{ column }} empty, or not the same in every code' as fault
    from segments
    group by rfm_segment
    having
        min(coalesce(trim({{ column }}), '')) = ''
        or min({{ column }}) <> max({{ column }})
    {%- endfor %}
)

select * from faults
