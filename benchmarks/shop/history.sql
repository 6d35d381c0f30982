-- Three years of a shop, as dlt would have landed it in raw_files up to the end of :last_day.
-- Parameters: customers (persons), last_day, load_id.

create unlogged table benchmark.persons as
with drawn as (
    select
        number,
        case
            when benchmark.uniform(number, 10) < 0.05 then 'lead'  -- never orders
            when benchmark.uniform(number, 10) < 0.10 then 'guest'  -- orders without an account
            else 'account'
        end as kind,
        -- Two accounts of one person share an address.
        benchmark.uniform(number, 11) < 0.02 as has_second_account,
        benchmark.uniform(number, 12) * 1095 as days_observed,
        -- Rates of ordering are Gamma(1/2) distributed: most order rarely, some every few days.
        19.5 * 2 / power(benchmark.normal(number, 13), 2) as mean_gap_days,
        exp(4.0 + 0.5 * benchmark.normal(number, 14)) as mean_order_value,
        -- After each order but the first some are lost, with a chance of their own: close to
        -- Beta(0.7, 12) distributed.
        power(1 - power(benchmark.uniform(number, 15), 1 / 12.0), 1 / 0.7) as loss
    from generate_series(1, %(customers)s::bigint) as series (number)
)

select
    number,
    kind,
    has_second_account,
    ((%(last_day)s::date + 1)::timestamp - days_observed * interval '1 day')
    at time zone 'Europe/Berlin' as began_at,
    mean_gap_days,
    mean_order_value,
    least(
        900,
        1 + ceil(ln(benchmark.uniform(number, 16)) / ln(1 - loss)),
        -- No more than anybody places by then; the later ones are cut off below.
        10 + 2 * days_observed / mean_gap_days
    )::integer as most_orders
from drawn;

analyze benchmark.persons;

insert into raw_files.customers (
    source_name, customer_key, email, first_name, last_name, country, preferred_language,
    acquisition_source, created_at, content_hash, row_number, loaded_at, _dlt_load_id, _dlt_id
)
select
    'shop',
    account.key,
    account.email,
    'First' || persons.number,
    'Last' || persons.number,
    benchmark.choice('{DE,DE,DE,AT,CH}', persons.number, 20),
    benchmark.choice('{de,de,de,en}', persons.number, 21),
    benchmark.choice('{search,search,social,newsletter,referral}', persons.number, 22),
    persons.began_at - benchmark.uniform(persons.number, 23) * interval '20 days',
    'history',
    row_number() over (),
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    'c' || account.key
from benchmark.persons
cross join lateral (
    select 'c' || number as key, 'person' || number || '@mail.example' as email
    union all
    select 'd' || number, ' Person' || number || '@MAIL.example'
    where has_second_account
) as account
where persons.kind <> 'guest';

insert into raw_files.orders (
    source_name, order_key, customer_key, email, ordered_at, status, currency, total_amount,
    content_hash, row_number, loaded_at, _dlt_load_id, _dlt_id
)
with planned as (
    select
        persons.*,
        position,
        number * 1000 + position as key,
        case
            when position = 1 then 0
            else least(5000, -ln(benchmark.uniform(number * 1000 + position, 30)) * mean_gap_days)
        end as gap_days
    from benchmark.persons
    cross join lateral generate_series(1, most_orders) as position
    where kind <> 'lead'
),

timed as (
    select
        *,
        began_at
        + sum(gap_days) over (partition by number order by position) * interval '1 day'
            as ordered_at
    from planned
)

select
    'shop',
    'o' || key,
    case
        -- Some with an account order as guests, by the same address.
        when kind = 'guest' or benchmark.uniform(key, 31) < 0.03 then null
        when has_second_account and benchmark.uniform(key, 32) < 0.5 then 'd' || number
        else 'c' || number
    end,
    'person' || number || '@mail.example',
    ordered_at,
    case
        when benchmark.uniform(key, 33) < 0.02 then 'cancelled'
        when benchmark.uniform(key, 33) < 0.035 then 'refunded'
        else 'completed'
    end,
    'EUR',
    case
        when benchmark.uniform(key, 34) < 0.01 then 0
        else round((mean_order_value * exp(0.4 * benchmark.normal(key, 35)))::numeric, 2)
    end,
    'history',
    row_number() over (),
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    'o' || key
from timed
where ordered_at < (%(last_day)s::date + 1)::timestamp at time zone 'Europe/Berlin';

insert into raw_files.consent_events (
    source_name, email, channel, evidence, occurred_at, content_hash, row_number, loaded_at,
    _dlt_load_id, _dlt_id
)
select
    'newsletter',
    'person' || number || '@mail.example',
    'email',
    evidence,
    began_at + benchmark.uniform(number, 40) * (%(last_day)s::date - began_at),
    'history',
    row_number() over (),
    %(loaded_at)s::timestamptz,
    %(load_id)s,
    evidence || number
from benchmark.persons
cross join lateral (
    select 'double' as evidence
    where benchmark.uniform(number, 41) < 0.5
    union all
    select 'withdrawn'
    where benchmark.uniform(number, 42) < 0.05
    union all
    select 'profiling_objection'
    where benchmark.uniform(number, 43) < 0.002
) as event;
