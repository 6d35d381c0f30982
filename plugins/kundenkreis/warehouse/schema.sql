-- What neither dlt nor dbt creates. Every statement may run any number of times.

create schema if not exists quarantine;
create schema if not exists operations;
create schema if not exists quality;
create schema if not exists history;
create schema if not exists activation;
create schema if not exists marts;

-- Rows that could not be used, with the reason; nothing is dropped. One row per source, table, key,
-- reason and payload.
create table if not exists quarantine.rejected_records (
    record_hash text primary key,  -- of source, table, key, reason and payload
    source text not null,  -- the source that sent the row
    table_name text not null,  -- the table it was meant for
    record_key text,  -- its id in the source
    reason_code text not null,  -- the reason, for counting
    reason text not null,  -- the reason, for reading
    payload jsonb,  -- the row as it came; personal data
    run_id text not null,  -- the last run that rejected it
    first_rejected_at timestamptz not null default now(),  -- bookkeeping
    last_rejected_at timestamptz not null default now(),  -- bookkeeping
    rejected_by text not null default 'extract',  -- extract, or the dbt model that rejected it
    -- open: to be worked off; released: comes back in the next night; closed: worked off
    state text not null default 'open' check (state in ('open', 'released', 'closed')),
    released_at timestamptz,  -- when it was last released
    released_by text,  -- who released it
    release_note text,  -- why
    closed_at timestamptz,  -- when it was closed
    -- released: it came back as released; arrived: the source sent a newer version that loads;
    -- no_longer_rejected: what is read now has no such row any more
    closed_because text check (closed_because in ('released', 'arrived', 'no_longer_rejected'))
);
create index if not exists rejected_records_run on quarantine.rejected_records (run_id, source);
-- Warehouses made before records could be released.
alter table quarantine.rejected_records add column if not exists
    rejected_by text not null default 'extract';
alter table quarantine.rejected_records add column if not exists
    state text not null default 'open' check (state in ('open', 'released', 'closed'));
alter table quarantine.rejected_records add column if not exists released_at timestamptz;
alter table quarantine.rejected_records add column if not exists released_by text;
alter table quarantine.rejected_records add column if not exists release_note text;
alter table quarantine.rejected_records add column if not exists closed_at timestamptz;
alter table quarantine.rejected_records add column if not exists closed_because text
    check (closed_because in ('released', 'arrived', 'no_longer_rejected'));

-- Who released which record, with what corrections, and what became of it. A release holds for as long
-- as the source sends exactly that record. One row per release.
create table if not exists quarantine.releases (
    release_id bigint generated always as identity primary key,  -- rises with each release
    record_hash text not null,  -- as in rejected_records
    released_at timestamptz not null default now(),  -- when
    released_by text not null,  -- who
    note text not null,  -- why
    corrections jsonb not null default '{}',  -- field to the value to use; personal data
    -- waiting: for the next night; loaded: it came back; rejected: it was still wrong; replaced: by a
    -- later release; arrived: the source itself sent it rightly
    outcome text not null default 'waiting' check (
        outcome in ('waiting', 'loaded', 'rejected', 'replaced', 'arrived')
    ),
    outcome_reason text,  -- what was still wrong
    settled_at timestamptz,  -- when the outcome was known
    run_id text  -- the run that settled it
);
create index if not exists releases_record on quarantine.releases (record_hash, release_id);

-- The release that speaks of a record now: its last one. One row per record that was ever released.
create or replace view quarantine.latest_releases as
select
    record_hash,  -- as in rejected_records
    corrections,  -- field to the value to use; personal data
    outcome  -- as in releases
from quarantine.releases
where
    not exists (
        select 1 from quarantine.releases as later
        where
            later.record_hash = releases.record_hash
            and later.release_id > releases.release_id
    );

-- The rates that releases give to single orders; here, so that who needs them need not see the rest.
create or replace view operations.released_exchange_rates as
select
    records.record_hash,
    records.source,
    records.record_key as order_id,
    records.payload ->> 'currency' as currency,
    latest.corrections ->> 'exchange_rate' as rate,
    latest.outcome
from quarantine.rejected_records as records
inner join quarantine.latest_releases as latest using (record_hash)
where
    records.rejected_by = 'int_orders_rejected'
    and records.reason_code = 'no_exchange_rate'
    and latest.corrections ? 'exchange_rate';

-- One row: which run builds which colour. A later run takes it over; the earlier one notices.
create table if not exists operations.build_lease (
    only_one boolean primary key default true check (only_one),
    run_id text not null,
    schema_name text not null,
    as_of_date date not null,
    is_backfill boolean not null,
    taken_at timestamptz not null default now(),
    renewed_at timestamptz not null default now(),
    is_over boolean not null default false
);
-- Warehouses made before backfills took turns.
alter table operations.build_lease
add column if not exists renewed_at timestamptz not null default now(),
add column if not exists is_over boolean not null default false;

-- Colours whose tables must not be read or built upon (a failed gate, a rollback).
create table if not exists operations.dirty_schemas (
    schema_name text primary key,
    reason text not null,
    since timestamptz not null default now()
);

-- Which publication's tables a colour still holds; gone as soon as a run begins to build it anew.
create table if not exists operations.held_publications (
    schema_name text primary key,
    publication_id bigint not null
);

-- The customer ids that the current publication changed, as they were before it, for a rollback; null
-- where there was none.
create table if not exists operations.customer_ids_before (
    publication_id bigint not null,
    source text not null,
    source_record_type text not null,
    source_id text not null,
    customer_id text,
    primary key (source, source_record_type, source_id)
);

-- Declared contract changes that were published, and so permit nothing any more.
create table if not exists operations.published_contract_changes (
    declaration text primary key,
    publication_id bigint not null
);

-- What each colour holds: a later build may stand upon it. Unlogged like most tables it speaks of, so
-- that a crash of the server empties both.
create unlogged table if not exists operations.build_state (
    schema_name text primary key,
    as_of_date date not null,
    built_as_of_date date,
    new_loads jsonb not null,
    fingerprint text not null,
    run_id text not null
);
create unlogged table if not exists operations.built_loads (
    schema_name text not null,
    source text not null,
    load_id text not null,
    primary key (schema_name, source, load_id)
);

create table if not exists operations.task_results (
    run_id text not null,
    task_id text not null,
    as_of_date date not null,
    state text not null,
    summary jsonb not null,
    started_at timestamptz not null,
    finished_at timestamptz not null default now(),
    primary key (run_id, task_id)
);

-- What readers saw, and since when; the newest row is what they see now. A rollback is a publication
-- as well: it shows an older one again. One row per publication.
create table if not exists history.publications (
    publication_id bigint generated always as identity primary key,  -- rises with each publication
    as_of_date date not null,  -- the day that was computed
    dag_run_id text not null,  -- Airflow's id of the run that built what became readable
    schema_name text not null,  -- the colour that became readable
    published_at timestamptz not null default now(),  -- when readers were turned over
    gate_results jsonb not null default '{}',  -- what gate_marts counted
    restores_publication_id bigint,  -- of a rollback: the publication that is shown again
    rolls_back_publication_id bigint,  -- of a rollback: the publication that was taken back
    rolled_back_by text  -- of a rollback: who asked for it
);
-- Warehouses made before there were rollbacks.
alter table history.publications add column if not exists restores_publication_id bigint;
alter table history.publications add column if not exists rolls_back_publication_id bigint;
alter table history.publications add column if not exists rolled_back_by text;

-- Which customer a record belongs to, assigned once. One row per source record.
create table if not exists history.customer_ids (
    source text not null,  -- where the record comes from
    source_record_type text not null,  -- customer, contact or guest_order
    source_id text not null,  -- the record's id in its source; personal data
    customer_id text not null,  -- the customer it was assigned to
    assigned_on date not null,  -- the as-of day of the night that first saw the record
    primary key (source, source_record_type, source_id)
);
create index if not exists customer_ids_customer on history.customer_ids (customer_id);
create index if not exists customer_ids_assigned_on on history.customer_ids (assigned_on);

-- Which customers became one and which were parted. One row per as-of day and pair of customers.
create table if not exists history.identity_changes (
    as_of_date date not null,  -- the day that was computed
    -- merged: the other customer is part of this one now; split: this customer was a part of the
    -- other one; moved: records of the other one belong to this one now, and both are still there
    change text not null check (change in ('merged', 'split', 'moved')),
    customer_id text not null,  -- whose the records are now
    other_customer_id text not null,  -- whose they were
    records integer not null,  -- how many source records
    publication_id bigint,  -- null: written by a backfill
    primary key (as_of_date, customer_id, other_customer_id)
);

-- The cut points that parted the RFM scores. One row per as-of day, dimension and quantile.
create table if not exists history.rfm_cutoffs (
    as_of_date date not null,  -- the day that was computed
    dimension text not null,  -- recency_days, frequency or monetary
    quantile numeric not null,  -- 0.2, 0.4, 0.6 or 0.8
    cutoff numeric not null,  -- a value above it scores one more; of recency_days, one less
    method text not null,  -- quantiles; fallback, where they collapsed; fixed, by configuration
    primary key (as_of_date, dimension, quantile)
);

-- What a night said of an RFM segment that the night before did not. One row per as-of day and
-- customer.
create table if not exists history.rfm_segment_changes (
    as_of_date date not null,  -- the day that was computed
    customer_id text not null,  -- as in marts.customers
    from_segment text,  -- null: a customer the night before did not score
    to_segment text,  -- null: a customer who is scored no more
    publication_id bigint,  -- null: written by a backfill
    primary key (as_of_date, customer_id)
);

-- What a night said of a stage that the night before did not. One row per as-of day and customer.
create table if not exists history.stage_changes (
    as_of_date date not null,  -- the day that was computed
    customer_id text not null,  -- as in marts.customers
    from_stage text,  -- null: a customer the night before did not know
    to_stage text,  -- null: a customer who became part of another
    publication_id bigint,  -- null: written by a backfill
    primary key (as_of_date, customer_id)
);

-- Who entered and left a segment. One row per as-of day, segment and customer.
create table if not exists history.segment_membership_changes (
    as_of_date date not null,  -- the day that was computed
    segment text not null,  -- key of the segment in segments.yml
    customer_id text not null,  -- as in marts.customers
    change text not null check (change in ('entered', 'left')),  -- entered or left
    publication_id bigint,  -- null: written by a backfill
    primary key (as_of_date, segment, customer_id)
);

-- Who was drawn into which arm of a segment when they entered it, contactable. The draw holds as long
-- as the stay in the segment, or the salt. One row per as-of day, segment and customer.
create table if not exists history.holdout_draws (
    as_of_date date not null,  -- the day that was computed
    segment text not null,  -- key of the segment in segments.yml, or global_holdout
    customer_id text not null,  -- as in marts.customers
    -- the as-of day of the draw; before as_of_date where the customer it was made for became part
    -- of this one
    drawn_on date not null,
    is_holdout boolean not null,  -- true: gets nothing; false: is treated
    holdout_percent numeric(9, 4) not null,  -- the share that was held out at the draw
    salt text not null,  -- holdout_salt at the draw; another salt draws anew
    publication_id bigint,  -- null: written by a backfill
    primary key (as_of_date, segment, customer_id)
);

-- The as-of day's row of kpi_daily as each night knew it: later orders, refunds and merges change
-- kpi_daily, but not this. One row per as-of day.
create table if not exists history.kpi_daily (
    as_of_date date primary key,  -- the day that was computed
    customers_reach integer not null,  -- as in marts.kpi_daily
    customers_acquisition integer not null,  -- as in marts.kpi_daily
    customers_dormant_lead integer not null,  -- as in marts.kpi_daily
    customers_conversion integer not null,  -- as in marts.kpi_daily
    customers_development integer not null,  -- as in marts.kpi_daily
    customers_retention integer not null,  -- as in marts.kpi_daily
    customers_loyalty integer not null,  -- as in marts.kpi_daily
    customers_at_risk integer not null,  -- as in marts.kpi_daily
    customers_churned integer not null,  -- as in marts.kpi_daily
    customers_reactivated integer not null,  -- as in marts.kpi_daily
    new_customers integer not null,  -- as in marts.kpi_daily
    reactivated_customers integer not null,  -- as in marts.kpi_daily
    churned_customers integer not null,  -- as in marts.kpi_daily
    churn_rate numeric(9, 4),  -- as in marts.kpi_daily
    repeat_purchase_rate numeric(9, 4),  -- as in marts.kpi_daily
    orders integer not null,  -- as in marts.kpi_daily
    revenue numeric(18, 4) not null,  -- as in marts.kpi_daily
    average_order_value numeric(18, 4),  -- as in marts.kpi_daily
    median_days_between_orders integer,  -- as in marts.kpi_daily
    net_customer_growth integer not null,  -- as in marts.kpi_daily
    net_customer_growth_30_days integer not null,  -- as in marts.kpi_daily
    churn_alarm boolean not null,  -- as in marts.kpi_daily
    publication_id bigint  -- null: written by a backfill
);
