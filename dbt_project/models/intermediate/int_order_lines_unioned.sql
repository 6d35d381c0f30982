{{ config(materialized='view') }}
{%- set files -%}
    select
        source,
        order_key as order_id,
        line_number,
        product_key as product_id,
        product_name,
        quantity,
        line_amount
    from {{ ref('stg_files__order_lines') if source_is_enabled('files') }}
{%- endset -%}
{%- set woocommerce -%}
    select
        'woocommerce' as source,
        orders.order_key as order_id,
        lines.line_number,
        lines.product_key as product_id,
        lines.product_name,
        lines.quantity,
        lines.amount_without_tax
{%- if var('revenue_includes_tax') %} + coalesce(lines.tax_amount, 0){% endif %} as line_amount
    from {{ ref('stg_woocommerce__order_lines') if source_is_enabled('woocommerce') }} as lines
    inner join {{ ref('stg_woocommerce__orders') if source_is_enabled('woocommerce') }} as orders
        on lines.order_row_id = orders.order_row_id
{%- endset -%}

with

final as (
    {{ union_of_enabled_sources(
        {'files': files, 'woocommerce': woocommerce}, order_line_columns()
    ) }}
)

select * from final
