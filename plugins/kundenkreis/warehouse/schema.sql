-- What neither dlt nor dbt creates. Every statement may run any number of times.

create schema if not exists quarantine;
create schema if not exists operations;
create schema if not exists quality;
create schema if not exists history;
create schema if not exists activation;
create schema if not exists marts;

-- Rows that could not be used, with the reason. Nothing is dropped.
create table if not exists quarantine.rejected_records (
    record_hash text primary key,
    source text not null,
    table_name text not null,
    record_key text,
    reason_code text not null,
    reason text not null,
    payload jsonb,
    run_id text not null,
    first_rejected_at timestamptz not null default now(),
    last_rejected_at timestamptz not null default now()
);
create index if not exists rejected_records_run on quarantine.rejected_records (run_id, source);

-- One row: which run builds which colour. A later run takes it over; the earlier one notices.
create table if not exists operations.build_lease (
    only_one boolean primary key default true check (only_one),
    run_id text not null,
    schema_name text not null,
    as_of_date date not null,
    is_backfill boolean not null,
    taken_at timestamptz not null default now()
);

-- Colours whose tables must not be read or built upon (a failed gate, a rollback).
create table if not exists operations.dirty_schemas (
    schema_name text primary key,
    reason text not null,
    since timestamptz not null default now()
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

create table if not exists history.publications (
    publication_id bigint generated always as identity primary key,
    as_of_date date not null,
    dag_run_id text not null,
    schema_name text not null,
    published_at timestamptz not null default now(),
    gate_results jsonb not null default '{}'
);

create table if not exists history.customer_ids (
    source text not null,
    source_record_type text not null,
    source_id text not null,
    customer_id text not null,
    assigned_on date not null,
    primary key (source, source_record_type, source_id)
);
create index if not exists customer_ids_customer on history.customer_ids (customer_id);

create table if not exists history.rfm_cutoffs (
    as_of_date date not null,
    dimension text not null,
    quantile numeric not null,
    cutoff numeric not null,
    method text not null,
    primary key (as_of_date, dimension, quantile)
);

create table if not exists history.stage_changes (
    as_of_date date not null,
    customer_id text not null,
    from_stage text,
    to_stage text,
    publication_id bigint,
    primary key (as_of_date, customer_id)
);

create table if not exists history.segment_membership_changes (
    as_of_date date not null,
    segment text not null,
    customer_id text not null,
    change text not null check (change in ('entered', 'left')),
    publication_id bigint,
    primary key (as_of_date, segment, customer_id)
);
