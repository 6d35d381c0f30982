{#- The last build of this colour has not seen these orders as they are now. Empty in a full build,
    where nobody asks. -#}
{%- set columns = {'source': dbt.type_string(), 'order_id': dbt.type_string()} -%}
{%- set files_order_lines -%}
    select
        lines.source,
        lines.order_key as order_id
    from {{ ref('stg_files__order_lines') if source_is_enabled('files') }} as lines
    where {{ is_new_since_last_build(
        'files', 'lines.loaded_at', ['lines.ordered_at'], 'timestamp with time zone'
    ) }}
{%- endset -%}
{%- set files_orders -%}
    select
        orders.source,
        orders.order_key as order_id
    from {{ ref('stg_files__orders') if source_is_enabled('files') }} as orders
    where {{ is_new_since_last_build(
        'files', 'orders.loaded_at', ['orders.ordered_at'], 'timestamp with time zone'
    ) }}
{%- endset -%}
{%- set woocommerce_orders -%}
    select
        'woocommerce' as source,
        orders.order_key as order_id
    from {{ ref('stg_woocommerce__orders') if source_is_enabled('woocommerce') }} as orders
    where {{ is_new_since_last_build('woocommerce', 'orders.load_id', ['orders.ordered_at']) }}
{%- endset -%}
{%- set woocommerce_refunds -%}
    select
        'woocommerce' as source,
        refunds.order_key as order_id
    from {{ ref('stg_woocommerce__refunds') if source_is_enabled('woocommerce') }} as refunds
    where {{ is_new_since_last_build('woocommerce', 'refunds.load_id', ['refunds.refunded_at']) }}
{%- endset -%}
{%- set all_files_order_lines -%}
    select distinct
        source,
        order_key as order_id
    from {{ ref('stg_files__order_lines') if source_is_enabled('files') }}
{%- endset -%}
{%- set all_files_orders -%}
    select
        source,
        order_key as order_id
    from {{ ref('stg_files__orders') if source_is_enabled('files') }}
{%- endset -%}
{%- set all_woocommerce_orders -%}
    select
        'woocommerce' as source,
        order_key as order_id
    from {{ ref('stg_woocommerce__orders') if source_is_enabled('woocommerce') }}
{%- endset -%}

with

{% if builds_on_last_build() -%}
built as (
    select * from {{ last_build_of('int_orders_unioned') }}
),

changed_rows as (
    {{ union_of_enabled_sources(
        {
            'files.order_lines': files_order_lines,
            'files.orders': files_orders,
            'woocommerce.orders': woocommerce_orders,
            'woocommerce.refunds': woocommerce_refunds,
        },
        columns,
    ) }}
),

present as (
    {{ union_of_enabled_sources(
        {
            'files.order_lines': all_files_order_lines,
            'files.orders': all_files_orders,
            'woocommerce': all_woocommerce_orders,
        },
        columns,
    ) }}
),

-- A file that replaces another may lack some of its orders.
gone as (
    select
        built.source,
        built.order_id
    from built
    left join present on built.source = present.source and built.order_id = present.order_id
    where present.order_id is null
),

changed as (
    select * from changed_rows
    union
    select * from gone
),

final as (
    select
        changed.source,
        changed.order_id,
        built.source_record_type as built_source_record_type,
        built.source_id as built_source_id
    from changed
    left join built on changed.source = built.source and changed.order_id = built.order_id
)
{%- else -%}
final as (
    {{ empty_relation(dict(
        columns,
        built_source_record_type=dbt.type_string(),
        built_source_id=dbt.type_string(),
    )) }}
)
{%- endif %}

select * from final
