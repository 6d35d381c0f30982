{%- set dimensions = rfm_dimensions() %}

with

buyers as (
    select * from {{ ref('int_rfm_values') }}
),

cutoffs as (
    select * from {{ ref('int_rfm_cutoffs') }}
),

segments as (
    select * from {{ ref('rfm_segments') }}
),

cutoffs_in_a_row as (
    select {{ rfm_cutoffs_in_a_row() }}
    from cutoffs
),

scored as (
    select
        buyers.*,
    {%- for dimension in dimensions %}
        {{ rfm_score(
            'buyers.' ~ dimension,
            [dimension ~ '_1', dimension ~ '_2', dimension ~ '_3', dimension ~ '_4'],
            reversed=(dimension == 'recency_days'),
        ) }} as {{ dimension[0] }}_score{{ ',' if not loop.last }}
    {%- endfor %}
    from buyers
    cross join cutoffs_in_a_row
),

coded as (
    select
        *,
        cast(r_score as {{ dbt.type_string() }})
        || cast(f_score as {{ dbt.type_string() }})
        || cast(m_score as {{ dbt.type_string() }}) as rfm_code
    from scored
),

final as (
    select
        cast(coded.customer_id as {{ dbt.type_string() }}) as customer_id,
        {{ as_of_date() }} as as_of_date,
        cast(coded.recency_days as integer) as recency_days,
        cast(coded.frequency as integer) as frequency,
        cast(coded.monetary as numeric(18, 4)) as monetary,
        cast(coded.r_score as integer) as r_score,
        cast(coded.f_score as integer) as f_score,
        cast(coded.m_score as integer) as m_score,
        cast(coded.rfm_code as {{ dbt.type_string() }}) as rfm_code,
        cast(segments.rfm_segment as {{ dbt.type_string() }}) as rfm_segment
    from coded
    inner join segments on coded.rfm_code = segments.rfm_code
)

select * from final
