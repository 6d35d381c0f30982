{#- Each source that knows what was spent offers it in these columns. -#}
{%- set columns = {
    'source': dbt.type_string(),
    'record_key': dbt.type_string(),
    'acquisition_source': dbt.type_string(),
    'spent_on': 'date',
    'currency': dbt.type_string(),
    'own_amount': 'numeric(28,6)',
} -%}
{%- set files -%}
    select
        source,
        content_hash || ':' || cast(row_number_in_file as {{ dbt.type_string() }}) as record_key,
        acquisition_source,
        spent_on,
        currency,
        amount as own_amount
    from {{ ref('stg_files__spend') if source_is_enabled('files') }}
{%- endset %}

with

unioned as (
    {{ union_of_enabled_sources({'files': files}, columns) }}
),

-- The amount is null where there is no rate; int_spend_rejected sets these aside.
final as (
    select
        source,
        record_key,
        {{ acquisition_source_key('acquisition_source') }} as acquisition_source,
        spent_on,
        currency,
        own_amount,
        cast(own_amount * {{ configured_exchange_rate('currency') }} as numeric(18, 4)) as amount
    from unioned
    where spent_on <= {{ as_of_date() }}
)

select * from final
