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
    measured numeric,  -- what was observed, as a number: rows found, counted, or a measurement
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

-- Databases of earlier versions.
alter table quality.gate_results add column if not exists measured numeric;

-- What the gates measure every night to compare later nights with; no personal data. One row per
-- run, table and measure.
create table if not exists quality.measurements (
    run_id text not null,  -- the run that measured
    as_of_date date not null,  -- the day that was computed
    table_name text not null,  -- the table that was measured
    measure text not null,  -- what was measured, as in gates.md
    value numeric not null,  -- its value
    recorded_at timestamptz not null default now(),  -- bookkeeping
    primary key (run_id, table_name, measure)
);
create index if not exists measurements_history
on quality.measurements (as_of_date desc, table_name, measure);

-- How each expectation did, night after night. One row per run, gate and expectation.
create or replace view quality.gate_trend as
select
    expectation_id,  -- our name of the check, as in gates.md
    gate,  -- landing or marts
    table_name,  -- the table that was checked
    severity,  -- critical, warning or info
    as_of_date,  -- the day that was computed
    run_id,  -- the run that checked
    success,  -- the expectation was met
    raised,  -- it could not be evaluated
    observed,  -- what was found
    expected,  -- the limit
    measured,  -- what was observed, as a number
    lag(measured) over so_far as measured_before,  -- the same of the run before
    avg(measured) over fourteen_before as measured_usually,  -- its mean over the 14 runs before
    count(*) filter (where not success) over last_fourteen as failures,  -- of the last 14 runs
    count(*) over last_fourteen as runs,  -- how many these are
    max(as_of_date) filter (where success) over so_far as last_met_on,  -- day it was last met
    row_number() over newest_first = 1 as is_newest,  -- of the expectation's last run
    duration_seconds,  -- of its whole table
    recorded_at  -- when the run checked
from quality.gate_results
window
    so_far as (partition by expectation_id order by recorded_at, run_id),
    newest_first as (partition by expectation_id order by recorded_at desc, run_id desc),
    fourteen_before as (
        partition by expectation_id order by recorded_at, run_id
        rows between 14 preceding and 1 preceding
    ),
    last_fourteen as (
        partition by expectation_id order by recorded_at, run_id
        rows between 13 preceding and current row
    );
