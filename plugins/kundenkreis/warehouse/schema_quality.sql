-- What the gates found, one row per run, gate and expectation. Holds no personal data.

create schema if not exists quality;

create table if not exists quality.gate_results (
    run_id text not null,
    gate text not null,
    as_of_date date not null,
    table_name text not null,
    expectation text not null,
    expectation_id text not null,
    severity text not null check (severity in ('critical', 'warning', 'info')),
    success boolean not null,
    raised boolean not null,
    observed text,
    expected text,
    duration_seconds numeric(10, 3),
    recorded_at timestamptz not null default now(),
    primary key (run_id, gate, expectation_id)
);
create index if not exists gate_results_history
on quality.gate_results (expectation_id, recorded_at desc);

comment on table quality.gate_results is
'Results of the gates. One row per run, gate and expectation.';
comment on column quality.gate_results.raised is
'The expectation could not be evaluated; counts as critical whatever its severity.';
comment on column quality.gate_results.duration_seconds is
'Seconds the validation of this table took: its expectations are evaluated together.';
