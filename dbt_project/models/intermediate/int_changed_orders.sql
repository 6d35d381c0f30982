{{ config(enabled=var('built_as_of_date', none) is not none) }}
{#- The last build of this colour has not seen these orders as they are now. Empty in a full build,
    where nobody asks. -#}
{%- set columns = {'source': dbt.type_string(), 'order_id': dbt.type_string()} -%}
{%- set files_order_lines -%}
    select
        lines.source,
        lines.order_key as order_id,
        lines.refunds_order_key as refunds_order_id,
        lines.ordered_at < {{ as_of_end() }} or lines.ordered_at is null as is_visible
    from {{ ref('stg_files__order_lines') if source_is_enabled('files') }} as lines
    where {{ is_new_since_last_build(
        'files',
        'lines.loaded_at',
        ['lines.ordered_at', 'lines.delivered_at'],
        'timestamp with time zone',
    ) }}
{%- endset -%}
{%- set files_orders -%}
    select
        orders.source,
        orders.order_key as order_id,
        orders.refunds_order_key as refunds_order_id,
        orders.ordered_at < {{ as_of_end() }} or orders.ordered_at is null as is_visible
    from {{ ref('stg_files__orders') if source_is_enabled('files') }} as orders
    where {{ is_new_since_last_build(
        'files',
        'orders.loaded_at',
        ['orders.ordered_at', 'orders.delivered_at'],
        'timestamp with time zone',
    ) }}
{%- endset -%}
{%- set woocommerce_orders -%}
    select
        'woocommerce' as source,
        orders.order_key as order_id,
        null as refunds_order_id,
        orders.ordered_at < {{ as_of_end() }} or orders.ordered_at is null as is_visible
    from {{ ref('stg_woocommerce__orders') if source_is_enabled('woocommerce') }} as orders
    where {{ is_new_since_last_build(
        'woocommerce', 'orders.load_id', ['orders.ordered_at', 'orders.completed_at']
    ) }}
{%- endset -%}
{%- set woocommerce_refunds -%}
    select
        'woocommerce' as source,
        refunds.order_key as order_id,
        null as refunds_order_id,
        false as is_visible
    from {{ ref('stg_woocommerce__refunds') if source_is_enabled('woocommerce') }} as refunds
    where {{ is_new_since_last_build('woocommerce', 'refunds.load_id', ['refunds.refunded_at']) }}
{%- endset -%}
{%- set present_files_order_lines -%}
    select
        source,
        order_key as order_id
    from {{ ref('stg_files__order_lines') if source_is_enabled('files') }}
    group by source, order_key
    having min(ordered_at) < {{ as_of_end() }} or min(ordered_at) is null
{%- endset -%}
{%- set present_files_orders -%}
    select
        source,
        order_key as order_id
    from {{ ref('stg_files__orders') if source_is_enabled('files') }}
    where ordered_at < {{ as_of_end() }} or ordered_at is null
{%- endset -%}
{%- set present_woocommerce_orders -%}
    select
        'woocommerce' as source,
        order_key as order_id
    from {{ ref('stg_woocommerce__orders') if source_is_enabled('woocommerce') }}
    where ordered_at < {{ as_of_end() }} or ordered_at is null
{%- endset -%}
{%- set present -%}
    {{ union_of_enabled_sources(
        {
            'files.order_lines': present_files_order_lines,
            'files.orders': present_files_orders,
            'woocommerce': present_woocommerce_orders,
        },
        columns,
    ) }}
{%- endset -%}
{%- set count_of_files_order_lines -%}
    select count(*) as rows_count
    from ({{ present_files_order_lines }}) as present
{%- endset -%}
{%- set count_of_files_orders -%}
    {{ count_without_later(
        ref('stg_files__orders') if source_is_enabled('files'), 'ordered_at'
    ) }}
{%- endset -%}
{%- set count_of_woocommerce_orders -%}
    {{ count_without_later(
        ref('stg_woocommerce__orders') if source_is_enabled('woocommerce'), 'ordered_at'
    ) }}
{%- endset -%}
{%- set counts_of_present -%}
    {{ union_of_enabled_sources(
        {
            'files.order_lines': count_of_files_order_lines,
            'files.orders': count_of_files_orders,
            'woocommerce': count_of_woocommerce_orders,
        },
        {'rows_count': 'bigint'},
    ) }}
{%- endset -%}
{%- set built = last_build_of('int_orders_unioned') %}

with

changed_rows as (
    {{ union_of_enabled_sources(
        {
            'files.order_lines': files_order_lines,
            'files.orders': files_orders,
            'woocommerce.orders': woocommerce_orders,
            'woocommerce.refunds': woocommerce_refunds,
        },
        dict(columns, refunds_order_id=dbt.type_string(), is_visible='boolean'),
    ) }}
),

changed as (
    select
        source,
        order_id,
        {{ any_true('is_visible') }} as is_visible
    from changed_rows
    group by source, order_id
),

matched as (
    select
        changed.source,
        changed.order_id,
        changed.is_visible and built.order_id is null as is_new,
        built.source_record_type as built_source_record_type,
        built.source_id as built_source_id,
        built.refunds_order_id as built_refunds_order_id
    from changed
    left join {{ built }} as built
        on changed.source = built.source and changed.order_id = built.order_id
),

-- Whether orders are gone shows in their number; only then is it worth while to look for them.
counted as (
    select
        (select coalesce(sum(present.rows_count), 0) from ({{ counts_of_present }}) as present)
        <> (select count(*) from {{ built }})
        + (select coalesce(sum(case when is_new then 1 else 0 end), 0) from matched)
            as are_some_gone
),

-- A file that replaces another may lack some of its orders.
gone as (
    select
        built.source,
        built.order_id,
        built.source_record_type as built_source_record_type,
        built.source_id as built_source_id,
        built.refunds_order_id as built_refunds_order_id
    from {{ built }} as built
    left join ({{ present }}) as present
        on built.source = present.source and built.order_id = present.order_id
    where
        (select are_some_gone from counted)
        and present.order_id is null
),

-- With a credit note changes what is left of the order it names, or named.
credited as (
    select
        source,
        refunds_order_id as order_id
    from changed_rows
    where refunds_order_id is not null
    union
    select
        source,
        built_refunds_order_id as order_id
    from matched
    where built_refunds_order_id is not null
    union
    select
        source,
        built_refunds_order_id as order_id
    from gone
    where built_refunds_order_id is not null
),

final as (
    select
        source,
        order_id,
        built_source_record_type,
        built_source_id
    from matched
    union
    select
        source,
        order_id,
        built_source_record_type,
        built_source_id
    from gone
    union
    select
        credited.source,
        credited.order_id,
        built.source_record_type as built_source_record_type,
        built.source_id as built_source_id
    from credited
    left join {{ built }} as built
        on credited.source = built.source and credited.order_id = built.order_id
)

select * from final
