{%- set dimensions = rfm_dimensions() -%}
{%- set quantiles = rfm_quantiles() -%}
{%- if var('rfm_cutoffs') not in ['quantiles', 'fixed'] -%}
    {{ exceptions.raise_compiler_error(
        "dbt variable rfm_cutoffs is '" ~ var('rfm_cutoffs') ~ "'. Allowed: quantiles, fixed."
    ) }}
{%- endif -%}
{%- set configured = var(
    'rfm_fixed_cutoffs' if var('rfm_cutoffs') == 'fixed' else 'rfm_fallback_cutoffs'
) -%}

with

buyers as (
    select * from {{ ref('int_rfm_values') }}
),

-- By value (percentile_disc), so a cut point is a value that some buyer has. One row: cut points of
-- one dimension share a sort.
measured as (
    select {{ rfm_measured_cutoffs() }}
    from buyers
),

quantiles as (
    {%- for dimension in dimensions %}
    {%- set outer_loop = loop %}
    {%- for quantile in quantiles %}
    select
        '{{ dimension }}' as dimension,
        {{ quantile }} as quantile,
        cast({{ dimension }}_{{ loop.index }} as numeric(18, 4)) as cutoff
    from measured
    {{ 'union all' if not (loop.last and outer_loop.last) }}
    {%- endfor %}
    {%- endfor %}
),

configured_cutoffs as (
    {%- for dimension in dimensions %}
    {%- set outer_loop = loop %}
    {%- for quantile in quantiles %}
    select
        '{{ dimension }}' as dimension,
        {{ quantile }} as quantile,
        cast({{ configured[dimension][loop.index0] }} as numeric(18, 4)) as cutoff
    {{ 'union all' if not (loop.last and outer_loop.last) }}
    {%- endfor %}
    {%- endfor %}
),

distinct_cutoffs as (
    select
        dimension,
        count(distinct cutoff) as cutoffs_count
    from quantiles
    group by dimension
),

-- Where most buyers share a value the quantiles collapse and would give the best score to the
-- merely usual, so the fallback stands in.
final as (
    select
        quantiles.dimension,
        cast(quantiles.quantile as numeric(4, 2)) as quantile,
        {%- if var('rfm_cutoffs') == 'fixed' %}
        configured_cutoffs.cutoff,
        'fixed' as method
        {%- else %}
        case
            when distinct_cutoffs.cutoffs_count < 3 then configured_cutoffs.cutoff
            else quantiles.cutoff
        end as cutoff,
        case when distinct_cutoffs.cutoffs_count < 3 then 'fallback' else 'quantiles' end as method
        {%- endif %}
    from quantiles
    inner join configured_cutoffs
        on
            quantiles.dimension = configured_cutoffs.dimension
            and quantiles.quantile = configured_cutoffs.quantile
    inner join distinct_cutoffs on quantiles.dimension = distinct_cutoffs.dimension
)

select * from final
