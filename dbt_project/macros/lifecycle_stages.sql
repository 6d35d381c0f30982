{# The canonical stages, in the order of a customer's life. #}
{% macro lifecycle_stages() -%}
    {{ return([
        'reach', 'acquisition', 'dormant_lead', 'conversion', 'development', 'retention', 'loyalty',
        'at_risk', 'churned', 'reactivated',
    ]) }}
{%- endmacro %}


{# The transition matrix between two days: one row per stage at the end of `from_date` and at the end
   of `to_date`, with the customers. Who was not known on `from_date` comes from `not_known`.

   from_date, to_date: SQL dates, the first before the second, the second up to the as-of day. #}
{% macro lifecycle_matrix(from_date, to_date) -%}
    {%- set intervals = ref('lifecycle_intervals') -%}
    select
        coalesce(before.stage, 'not_known') as from_stage,
        after.stage as to_stage,
        count(*) as customers
    from {{ intervals }} as after
    left join {{ intervals }} as before
        on
            after.customer_id = before.customer_id
            and before.valid_from <= {{ from_date }}
            and (before.valid_to > {{ from_date }} or before.valid_to is null)
    where
        after.valid_from <= {{ to_date }}
        and (after.valid_to > {{ to_date }} or after.valid_to is null)
    group by coalesce(before.stage, 'not_known'), after.stage
{%- endmacro %}


{# One row per configured segment and stage that its `where` names: `stage = '...'` or
   `stage in ('...', '...')`. Columns: segment, stage. #}
{% macro stages_named_by_segments() -%}
    {%- set rows = [] -%}
    {%- for segment in var('segments') -%}
        {%- set comparisons = modules.re.findall(
            "(?i)(?<![a-z0-9_])stage\\s*(?:=|in\\s*\\()\\s*((?:'[^']*'\\s*,?\\s*)+)", segment.where
        ) -%}
        {%- for comparison in comparisons -%}
            {%- for stage in modules.re.findall("'([^']*)'", comparison) -%}
                {%- if (segment.key, stage) not in rows -%}
                    {%- do rows.append((segment.key, stage)) -%}
                {%- endif -%}
            {%- endfor -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- for segment, stage in rows %}
        select
            {{ sql_text(segment) }} as segment,
            {{ sql_text(stage) }} as stage
        {{ 'union all' if not loop.last }}
    {%- else %}
        {{ empty_relation({'segment': dbt.type_string(), 'stage': dbt.type_string()}) }}
    {%- endfor %}
{%- endmacro %}
