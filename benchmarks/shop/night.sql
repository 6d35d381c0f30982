-- What changed on one more day, as the next load brings it. Of 10,000 persons 80 order, of 10 an old
-- order is corrected, of 5 the account is, and 5 are new: one in a hundred.
-- Parameters: customers (persons at first), night (1, 2, ...), day, load_id, loaded_at.

create temporary table changes on commit drop as
select
    number,
    kind,
    has_second_account,
    mean_order_value,
    benchmark.uniform(number, 1000 + %(night)s) as chance,
    (%(day)s::date)::timestamp at time zone 'Europe/Berlin'
    + benchmark.uniform(number, 2000 + %(night)s) * interval '20 hours' as changed_at
from benchmark.persons
where kind <> 'lead' and benchmark.uniform(number, 1000 + %(night)s) < 0.0095
union all
select
    %(customers)s::bigint * (1 + %(night)s) + position,
    'account',
    false,
    exp(4.0 + 0.5 * benchmark.normal(position, 2000 + %(night)s)),
    1,
    (%(day)s::date)::timestamp at time zone 'Europe/Berlin' + interval '1 hour'
from generate_series(1, greatest(1, %(customers)s::bigint / 2000)) as position;

insert into raw_files.customers (
    source_name, customer_key, email, first_name, last_name, country, preferred_language,
    acquisition_source, created_at, content_hash, row_number, loaded_at, _dlt_load_id, _dlt_id
)
select
    'shop',
    'c' || number,
    'person' || number || '@mail.example',
    'First' || number,
    'Last' || number,
    'DE',
    'de',
    'search',
    changed_at - interval '1 minute',
    'night ' || %(night)s,
    row_number() over (),
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    'c' || number
from changes
where chance = 1;

insert into raw_files.orders (
    source_name, order_key, customer_key, email, ordered_at, status, currency, total_amount,
    content_hash, row_number, loaded_at, _dlt_load_id, _dlt_id
)
select
    'shop',
    'n' || %(night)s || '-' || number,
    case when kind = 'account' then 'c' || number end,
    'person' || number || '@mail.example',
    changed_at,
    'completed',
    'EUR',
    round((mean_order_value * exp(0.4 * benchmark.normal(number, 3000 + %(night)s)))::numeric, 2),
    'night ' || %(night)s,
    row_number() over (),
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    'n' || %(night)s || '-' || number
from changes
where chance < 0.008 or chance = 1;

-- As dlt merges: the old row goes, the new one comes with its load.
with corrected as (
    delete from raw_files.orders
    using changes
    where
        orders.order_key = 'o' || (changes.number * 1000 + 1)
        and changes.chance between 0.008 and 0.009
    returning orders.*
)

insert into raw_files.orders (
    source_name, order_key, customer_key, email, ordered_at, status, currency, total_amount,
    content_hash, row_number, loaded_at, _dlt_load_id, _dlt_id
)
select
    source_name, order_key, customer_key, email, ordered_at,
    case when status = 'completed' then 'refunded' else 'completed' end,
    currency, total_amount, content_hash, row_number,
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    'n' || %(night)s || '-' || order_key
from corrected;

with corrected as (
    delete from raw_files.customers
    using changes
    where
        customers.customer_key = 'c' || changes.number
        and changes.chance between 0.009 and 0.0095
    returning customers.*
)

insert into raw_files.customers (
    source_name, customer_key, email, first_name, last_name, country, preferred_language,
    acquisition_source, created_at, content_hash, row_number, loaded_at, _dlt_load_id, _dlt_id
)
select
    source_name, customer_key, email, first_name, last_name || '-Neu', country,
    preferred_language, acquisition_source, created_at, content_hash, row_number,
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    'n' || %(night)s || '-' || customer_key
from corrected;
