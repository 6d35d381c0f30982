-- What delivery remembers. Every statement may run any number of times.
-- The plan itself (activation.plan_rows) is a dbt model.

-- What the connected tools are able and allowed to do, as configured when they were last read.
-- The plan decides by it; one row per destination.
create table if not exists activation.destinations (
    destination text primary key,
    creates_contacts boolean not null,
    max_rejections integer not null,
    states_read_at timestamptz not null,
    run_id text not null
);

-- What each tool says about each of its contacts, read every night and again before sending.
create table if not exists activation.subscriber_states (
    destination text not null,
    address text not null,
    state text not null check (
        state in (
            'subscribed', 'unsubscribed', 'bounced', 'complained', 'pending', 'blocklisted', 'archived'
        )
    ),
    evidence text check (evidence in ('double', 'single')),
    state_changed_at timestamptz,
    vendor_id text,  -- null: the contact is gone from the tool, but what it said still holds
    observed_at timestamptz not null default now(),  -- when we first read this state
    read_at timestamptz not null,
    run_id text not null,
    primary key (destination, address)
);

-- One row per attempt, never deleted by delivery; its state only moves forward:
-- intended -> sent -> confirmed | rejected | unknown. A row that was planned but may not or need
-- not be sent gets one row as well: suppressed | skipped.
create table if not exists activation.ledger (
    attempt_id bigint generated always as identity primary key,
    plan_row_id text not null,
    publication_id bigint not null,
    run_id text not null,
    destination text not null,
    audience text not null,  -- '' for the contact's own attributes
    segment text,
    customer_id text not null,
    operation text not null check (operation in ('upsert', 'add', 'remove')),
    address text not null,
    attributes jsonb not null default '{}',
    payload_hash text not null,
    state text not null check (
        state in ('intended', 'sent', 'confirmed', 'rejected', 'unknown', 'suppressed', 'skipped')
    ),
    reason_code text,
    reason text,
    vendor_reference text,
    intended_at timestamptz not null default clock_timestamp(),
    sent_at timestamptz,
    settled_at timestamptz
);
create index if not exists ledger_plan_row on activation.ledger (plan_row_id, attempt_id);
create index if not exists ledger_publication on activation.ledger (publication_id, destination);

-- What the ledger adds up to, kept in the ledger's transactions. What a tool holds is keyed by
-- address, so a merged or renumbered customer moves nothing; audience '' holds the attributes.
create table if not exists activation.delivered_state (
    destination text not null,
    audience text not null,
    address text not null,
    customer_id text not null,
    segment text,
    is_member boolean not null default false,
    attributes jsonb not null default '{}',
    pending_attributes jsonb not null default '{}',
    payload_hash text,
    in_doubt boolean not null default false,
    was_in_doubt boolean not null default false,  -- before the attempt under way
    creation_attempted_at timestamptz,  -- we may have created the contact: its opt-in is our echo
    confirmed_publication_id bigint,
    confirmed_at timestamptz,
    rejections integer not null default 0,
    rejected_payload_hash text,
    rejected_reason text,
    retry_from_publication_id bigint,
    primary key (destination, audience, address)
);

-- The tools' ids of our audiences.
create table if not exists activation.audiences (
    destination text not null,
    audience text not null,
    vendor_id text not null,
    created_at timestamptz not null default now(),
    -- Until a first delivery came to its end, the size guard treats the audience as new.
    first_synced_publication_id bigint,
    primary key (destination, audience)
);

create table if not exists activation.sync_runs (
    sync_run_id bigint generated always as identity primary key,
    run_id text not null,
    publication_id bigint not null,
    destination text not null,
    state text not null check (state in ('running', 'done', 'failed')),
    summary jsonb not null default '{}',
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);

-- Where a tool and our records of it differ: missing (we delivered it, it is gone) and extra
-- (there, but not by us: left alone).
create table if not exists activation.drift (
    run_id text not null,
    publication_id bigint not null,
    destination text not null,
    audience text not null,
    address text not null,
    kind text not null check (kind in ('missing', 'extra')),
    observed_at timestamptz not null default now(),
    primary key (run_id, destination, audience, address)
);

create or replace view activation.audience_state as
select
    delivered_state.destination,
    delivered_state.audience,
    count(*) filter (where delivered_state.is_member) as members,
    count(*) filter (where delivered_state.in_doubt) as in_doubt,
    count(*) filter (where delivered_state.rejections > 0) as rejected,
    max(delivered_state.confirmed_publication_id) as last_confirmed_publication_id,
    max(delivered_state.confirmed_at) as last_confirmed_at
from activation.delivered_state
where delivered_state.audience <> ''
group by delivered_state.destination, delivered_state.audience;
