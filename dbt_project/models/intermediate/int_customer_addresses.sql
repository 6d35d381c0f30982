with

identities as (
    select * from {{ ref('int_customer_identities') }}
),

orders as (
    select * from {{ ref('int_orders') }}
),

relay_domains as (
    select domain from {{ ref('marketplace_relay_domains') }}
),

of_records as (
    select
        customer_id,
        address,
        max(known_on) as last_seen_on,
        {{ any_true('is_ambiguous') }} as is_ambiguous
    from identities
    where address is not null
    group by customer_id, address
),

-- An account's orders may carry another billing address. It is the account's own as long as no
-- other person is known by it.
of_orders as (
    select
        orders.customer_id,
        orders.address,
        max(orders.order_date) as last_seen_on,
        false as is_ambiguous
    from orders
    left join of_records on orders.address = of_records.address
    where
        orders.customer_id is not null
        and orders.address is not null
        and of_records.address is null
    group by orders.customer_id, orders.address
),

unioned as (
    select * from of_records
    union all
    select * from of_orders
),

final as (
    select
        unioned.customer_id,
        unioned.address,
        unioned.last_seen_on,
        relay_domains.domain is not null as is_relay_address,
        {{ is_test_address('unioned.address') }} as is_test_address,
        -- Connected with too many others, too many for one person, or billed to by two accounts and
        -- so nobody's own.
        unioned.is_ambiguous
        or count(*) over (partition by unioned.customer_id) > {{ var('identity_max_addresses') }}
        or count(*) over (partition by unioned.address) > 1 as is_ambiguous
    from unioned
    left join relay_domains on {{ email_domain('unioned.address') }} = relay_domains.domain
)

select * from final
