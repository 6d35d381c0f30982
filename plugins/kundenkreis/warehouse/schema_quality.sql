-- What the gates need.

create schema if not exists quality;

-- What the gates found; no personal data. One row per run, gate and expectation.
create table if not exists quality.gate_results (
    run_id text not null,  -- the run that checked
    gate text not null,  -- landing or marts
    as_of_date date not null,  -- the day that was computed
    table_name text not null,  -- the table that was checked
    expectation text not null,  -- Great Expectations' name of the kind of check
    expectation_id text not null,  -- our name of the check, as in gates.md
    -- critical, warning or info
    severity text not null check (severity in ('critical', 'warning', 'info')),
    success boolean not null,  -- the expectation was met
    raised boolean not null,  -- it could not be evaluated; counts as critical
    observed text,  -- what was found
    expected text,  -- the limit
    duration_seconds numeric(10, 3),  -- of its whole table: its checks are evaluated together
    recorded_at timestamptz not null default now(),  -- bookkeeping
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
