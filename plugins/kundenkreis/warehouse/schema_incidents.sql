-- What people are told of. Every statement may run any number of times.

-- What went wrong and is told once, however often it is seen; no personal data. One row per
-- incident.
create table if not exists operations.incidents (
    incident_id bigint generated always as identity primary key,  -- rises with each incident
    -- failed_task, failed_gate, held_segment, dead_letters, churn_alarm or late_run
    event text not null,
    subject text not null,  -- the task, gate, segment, source, tool or DAG it is about
    state text not null default 'open' check (state in ('open', 'resolved')),  -- open or resolved
    fingerprint text not null,  -- what makes the same incident news again when it changes
    title text not null,  -- one line for people
    explanation text not null,  -- what, why, and the command to run next
    facts jsonb not null default '{}',  -- numbers and names, for machines
    first_run_id text not null,  -- the run that opened it
    last_run_id text not null,  -- the run that saw it last
    times_seen integer not null default 1,  -- by how many runs
    opened_at timestamptz not null default clock_timestamp(),  -- when it was first seen
    last_seen_at timestamptz not null default clock_timestamp(),  -- when it was last seen
    told_at timestamptz not null default clock_timestamp(),  -- when it was last made a message
    resolved_at timestamptz  -- when a run found that it is over
);
create unique index if not exists incidents_open
on operations.incidents (event, subject) where state = 'open';

-- What is to be sent to whom: written with the incident, sent afterwards, and tried again by the
-- next run where a channel did not take it. One row per incident, channel and occasion.
create table if not exists operations.incident_messages (
    message_id bigint generated always as identity primary key,  -- rises with each message
    incident_id bigint not null,  -- as in incidents
    channel text not null,  -- its name in alerts.yml
    -- opened, changed, reminder or resolved
    occasion text not null check (occasion in ('opened', 'changed', 'reminder', 'resolved')),
    title text not null,  -- one line
    body text not null,  -- the whole message
    created_at timestamptz not null default clock_timestamp(),  -- bookkeeping
    sent_at timestamptz,  -- null: not sent yet
    attempts integer not null default 0,  -- how often it was tried
    problem text  -- why the last attempt failed; no secret
);
create index if not exists incident_messages_unsent
on operations.incident_messages (message_id) where sent_at is null;
