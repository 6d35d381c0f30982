-- What delivery remembers. Every statement may run any number of times.
-- The plan itself (activation.plan_rows) is a dbt model.

-- What the connected tools are able and allowed to do, as configured when they were last read.
-- The plan decides by it. One row per destination.
create table if not exists activation.destinations (
    destination text primary key,  -- the email tool
    creates_contacts boolean not null,  -- create_contacts of destinations.yml
    max_rejections integer not null,  -- max_rejections of destinations.yml
    states_read_at timestamptz not null,  -- when subscriber_states was last read
    run_id text not null  -- the run that read
);

-- What each tool says about each of its contacts, read every night and again before sending. One
-- row per destination and address.
create table if not exists activation.subscriber_states (
    destination text not null,  -- the email tool
    address text not null,  -- the contact, in lower case; personal data
    -- subscribed, unsubscribed, bounced, complained, pending, blocklisted or archived
    state text not null check (
        state in (
            'subscribed', 'unsubscribed', 'bounced', 'complained', 'pending', 'blocklisted', 'archived'
        )
    ),
    evidence text check (evidence in ('double', 'single')),  -- the opt-in the tool can vouch for
    state_changed_at timestamptz,  -- as the tool says; null where it does not
    vendor_id text,  -- null: the contact is gone from the tool, but what it said still holds
    observed_at timestamptz not null default now(),  -- when we first read this state
    read_at timestamptz not null,  -- when the tool was last read
    run_id text not null,  -- the run that read
    -- The address first, here and below: it alone tells most rows apart, so that finding a place in
    -- the index compares one column and not two or three.
    primary key (address, destination)
);

-- Every attempt to change a tool, written when its outcome is known and never deleted by delivery:
-- confirmed, rejected, or unknown where no usable answer came. A row that was planned but may not or
-- need not be sent has one as well: suppressed or skipped. One row per attempt.
create table if not exists activation.ledger (
    attempt_id bigint generated always as identity primary key,  -- rises with each outcome
    plan_row_id text not null,  -- the row of plan_rows
    publication_id bigint not null,  -- the publication that was delivered
    run_id text not null,  -- the run that delivered
    destination text not null,  -- the email tool
    audience text not null,  -- '' for the contact's own attributes
    segment text,  -- key of the segment; null for the contact's own attributes
    customer_id text not null,  -- as in marts.customers
    operation text not null check (operation in ('upsert', 'add', 'remove')),  -- as in plan_rows
    address text not null,  -- the contact; personal data
    attributes jsonb not null default '{}',  -- what was sent; personal data
    payload_hash text not null,  -- as in plan_rows
    -- as said above; intended and sent are written by older versions only
    state text not null check (
        state in ('intended', 'sent', 'confirmed', 'rejected', 'unknown', 'suppressed', 'skipped')
    ),
    reason_code text,  -- the tool's code of a refusal, or why nothing was sent
    reason text,  -- the tool's words, addresses blanked out
    vendor_reference text,  -- the tool's id of a contact that was created
    intended_at timestamptz not null default clock_timestamp(),  -- before the request
    sent_at timestamptz,  -- when the request was made; null: none was, or nobody lived to say so
    settled_at timestamptz,  -- when the outcome was known
    vendor_job_id text  -- the tool's id of the job that worked on the row by itself
);
alter table activation.ledger add column if not exists vendor_job_id text;
alter table activation.ledger reset (fillfactor);
-- Each attempt is found by its own id, or with all of its publication. Those stand together, so that
-- it is enough to know the publications of each part of the table. Who asks for one customer's
-- reads the table: half a second for two million attempts, while an index on the customer would make
-- each attempt dearer by a sixth.
drop index if exists activation.ledger_plan_row;
drop index if exists activation.ledger_publication;
drop index if exists activation.ledger_publications;
create index if not exists ledger_in_order on activation.ledger using brin (
    publication_id, settled_at
) with (autosummarize = on);

-- The contacts of the tools, as they were read and with what deliveries created since, which the tool
-- has not been asked about yet. One row per destination and address.
create or replace view activation.known_contacts as
select
    subscriber_states.destination,  -- the email tool
    subscriber_states.address,  -- the contact; personal data
    subscriber_states.state,  -- as in subscriber_states
    -- the tool's id of the contact; null: it is gone from the tool, but what it said still holds
    subscriber_states.vendor_id
from activation.subscriber_states
union all
select
    created.destination,
    created.address,
    'subscribed' as state,
    created.vendor_reference as vendor_id
from activation.ledger as created
inner join activation.destinations on created.destination = destinations.destination
where
    created.settled_at > destinations.states_read_at
    and created.state = 'confirmed'
    and created.vendor_reference is not null
    and created.address <> ''
    and not exists (
        select 1
        from activation.subscriber_states
        where
            subscriber_states.destination = created.destination
            and subscriber_states.address = created.address
    );

-- The batches on their way to a tool: written before the request, deleted in the transaction that
-- writes what became of their rows. What a killed delivery leaves here may have been carried out or
-- not. The rows are arrays, each as long as plan_row_ids, or null where all would be. One row per
-- batch.
create table if not exists activation.batches_under_way (
    batch_id bigint generated always as identity primary key,  -- rises with each batch
    publication_id bigint not null,  -- the publication that is delivered
    run_id text not null,  -- the run that delivers
    destination text not null,  -- the email tool
    audience text not null,  -- '' for the contacts' own attributes
    operation text not null check (operation in ('upsert', 'add', 'remove')),  -- as in plan_rows
    vendor_job_id text,  -- the tool's id of the job that works on the batch by itself
    intended_at timestamptz not null default clock_timestamp(),  -- before the request
    sent_at timestamptz,  -- when the tool had taken the batch as a job
    plan_row_ids text[] not null,  -- the rows of plan_rows
    segments text[],  -- keys of the segments
    customer_ids text[] not null,  -- as in marts.customers
    addresses text[] not null,  -- the contacts, '' where one was erased; personal data
    attributes text[],  -- what is sent, as JSON, null for nothing; personal data
    payload_hashes text[] not null,  -- as in plan_rows
    are_creations boolean[]  -- the tool did not know the contact
);
-- They live for a second: compressing them would cost more than writing them.
alter table activation.batches_under_way
    alter column plan_row_ids set storage external,
    alter column segments set storage external,
    alter column customer_ids set storage external,
    alter column addresses set storage external,
    alter column attributes set storage external,
    alter column payload_hashes set storage external;

-- The rows of the batches under way, as the ledger will have them. One row per row of a batch.
create or replace view activation.rows_under_way as
select
    batch.batch_id,  -- the batch
    cast(planned.position as bigint) as position,  -- the row's place in the batch, from 1
    cast(planned.plan_row_id as text) as plan_row_id,  -- the row of plan_rows
    batch.publication_id,  -- the publication that is delivered
    batch.run_id,  -- the run that delivers
    batch.destination,  -- the email tool
    batch.audience,  -- '' for the contact's own attributes
    cast(planned.segment as text) as segment,  -- key of the segment
    cast(planned.customer_id as text) as customer_id,  -- as in marts.customers
    batch.operation,  -- as in plan_rows
    cast(planned.address as text) as address,  -- the contact; personal data
    -- what is sent; personal data
    cast(coalesce(planned.attributes, '{}') as jsonb) as attributes,
    cast(planned.payload_hash as text) as payload_hash,  -- as in plan_rows
    -- the tool did not know the contact
    cast(coalesce(planned.is_creation, false) as boolean) as is_creation,
    -- intended, or sent where the tool works on it by itself
    cast(case when batch.vendor_job_id is null then 'intended' else 'sent' end as text) as state,
    batch.vendor_job_id,  -- the tool's id of the job that works on the batch by itself
    batch.intended_at,  -- before the request
    batch.sent_at  -- when the tool had taken the batch as a job
from activation.batches_under_way as batch
cross join lateral unnest(
    batch.plan_row_ids, batch.segments, batch.customer_ids, batch.addresses, batch.attributes,
    batch.payload_hashes, batch.are_creations
) with ordinality as planned (
    plan_row_id, segment, customer_id, address, attributes, payload_hash, is_creation, position
);

-- What the ledger adds up to, kept in the ledger's transactions. What a tool holds is keyed by
-- address, so a merged or renumbered customer moves nothing. One row per destination, audience and
-- address.
create table if not exists activation.delivered_state (
    destination text not null,  -- the email tool
    audience text not null,  -- '' for the contact's own attributes
    address text not null,  -- the contact; personal data
    customer_id text not null,  -- whom the address belonged to at the last attempt
    segment text,  -- the segment the last attempt was for
    is_member boolean not null default false,  -- we put the contact into the audience
    attributes jsonb not null default '{}',  -- what the tool confirmed; personal data
    pending_attributes jsonb not null default '{}',  -- what it may hold as well while in doubt
    payload_hash text,  -- of the last confirmed payload
    in_doubt boolean not null default false,  -- an attempt has no answer; it is repeated
    creation_attempted_at timestamptz,  -- we may have created the contact: its opt-in is our echo
    confirmed_publication_id bigint,  -- the publication of the last confirmed attempt
    confirmed_at timestamptz,  -- when it was confirmed
    rejections integer not null default 0,  -- refusals in a row of one payload
    rejected_payload_hash text,  -- that payload
    rejected_reason text,  -- the tool's code
    retry_from_publication_id bigint,  -- not sent again before this publication
    rejected_attempt_id bigint,  -- the row of the ledger that was refused last
    primary key (address, destination, audience)
);

alter table activation.delivered_state set (fillfactor = 80);
alter table activation.delivered_state add column if not exists rejected_attempt_id bigint;
-- Keys from before the address came first.
do $$
begin
    if pg_get_indexdef('activation.delivered_state_pkey'::regclass, 1, false) = 'destination' then
        alter table activation.delivered_state
            drop constraint delivered_state_pkey,
            add primary key (address, destination, audience);
        alter table activation.subscriber_states
            drop constraint subscriber_states_pkey,
            add primary key (address, destination);
    end if;
end
$$;
-- What was refused before this column came.
do $$
begin
    if to_regclass('activation.ledger_rejected') is not null then
        update activation.delivered_state as known
        set rejected_attempt_id = refused.attempt_id
        from (
            select
                ledger.destination,
                ledger.audience,
                ledger.address,
                max(ledger.attempt_id) as attempt_id
            from activation.ledger
            where ledger.state = 'rejected'
            group by ledger.destination, ledger.audience, ledger.address
        ) as refused
        where
            known.rejections > 0
            and known.destination = refused.destination
            and known.audience = refused.audience
            and known.address = refused.address;
        drop index activation.ledger_rejected;
    end if;
end
$$;

-- Attempts that a version without batches_under_way left open: the rows of a job become a batch again,
-- and what no job holds is unknown.
do $$
begin
    if exists (
        select 1
        from pg_attribute
        where
            attrelid = 'activation.delivered_state'::regclass
            and attname = 'was_in_doubt'
            and not attisdropped
    ) then
        lock table activation.ledger, activation.delivered_state in access exclusive mode;
        with submitted as (
            delete from activation.ledger
            where ledger.state = 'sent' and ledger.vendor_job_id is not null
            returning *
        ),
        -- The batch says now that they are in doubt.
        doubted_by_batch as (
            update activation.delivered_state as known
            set in_doubt = known.was_in_doubt
            from submitted
            where
                known.destination = submitted.destination
                and known.audience = submitted.audience
                and known.address = submitted.address
        )
        insert into activation.batches_under_way (
            publication_id, run_id, destination, audience, operation, vendor_job_id, intended_at,
            sent_at, plan_row_ids, segments, customer_ids, addresses, attributes, payload_hashes
        )
        select
            publication_id, run_id, destination, audience, operation, vendor_job_id,
            min(intended_at), min(sent_at),
            array_agg(plan_row_id order by attempt_id),
            array_agg(segment order by attempt_id),
            array_agg(customer_id order by attempt_id),
            array_agg(address order by attempt_id),
            array_agg(cast(attributes as text) order by attempt_id),
            array_agg(payload_hash order by attempt_id)
        from submitted
        group by publication_id, run_id, destination, audience, operation, vendor_job_id
        order by min(attempt_id);

        update activation.ledger
        set state = 'unknown', reason_code = 'interrupted', settled_at = clock_timestamp()
        where ledger.state in ('intended', 'sent');

        update activation.delivered_state
        set pending_attributes = '{}'
        where not delivered_state.in_doubt and delivered_state.pending_attributes <> '{}';

        alter table activation.delivered_state drop column was_in_doubt;
    end if;
end
$$;

-- delivered_state as a plan has to take it: what is under way is in doubt, like an attempt without an
-- answer. One row per destination, audience and address.
create or replace view activation.effective_state as
select
    cast(coalesce(known.destination, doubted.destination) as text) as destination,  -- the email tool
    -- '' for the contact's own attributes
    cast(coalesce(known.audience, doubted.audience) as text) as audience,
    -- the contact; personal data
    cast(coalesce(known.address, doubted.address) as text) as address,
    -- whom the address belonged to at the last attempt
    cast(coalesce(doubted.customer_id, known.customer_id) as text) as customer_id,
    -- the segment the last attempt was for
    cast(case when doubted.address is null then known.segment else doubted.segment end as text) as segment,
    -- we put the contact into the audience
    cast(coalesce(known.is_member, false) as boolean) as is_member,
    -- what the tool confirmed; personal data
    cast(coalesce(known.attributes, '{}') as jsonb) as attributes,
    -- what it may hold as well while in doubt; personal data
    cast(coalesce(known.pending_attributes, '{}') || coalesce(doubted.attributes, '{}') as jsonb) as pending_attributes,
    known.payload_hash,  -- of the last confirmed payload
    -- an attempt is under way or has no answer; it is repeated
    cast(coalesce(known.in_doubt, false) or doubted.address is not null as boolean) as in_doubt,
    -- we may have created the contact: its opt-in is our echo
    cast(coalesce(doubted.creation_attempted_at, known.creation_attempted_at) as timestamp with time zone) as creation_attempted_at,
    known.confirmed_publication_id,  -- the publication of the last confirmed attempt
    known.confirmed_at,  -- when it was confirmed
    cast(coalesce(known.rejections, 0) as integer) as rejections,  -- refusals in a row of one payload
    known.rejected_payload_hash,  -- that payload
    known.rejected_reason,  -- the tool's code
    known.retry_from_publication_id,  -- not sent again before this publication
    known.rejected_attempt_id  -- the row of the ledger that was refused last
from activation.delivered_state as known
full outer join (
    select distinct on (rows_under_way.destination, rows_under_way.audience, rows_under_way.address)
        rows_under_way.destination,
        rows_under_way.audience,
        rows_under_way.address,
        rows_under_way.customer_id,
        rows_under_way.segment,
        rows_under_way.attributes,
        case when rows_under_way.is_creation then rows_under_way.intended_at end
            as creation_attempted_at
    from activation.rows_under_way
    where rows_under_way.address <> ''
    order by
        rows_under_way.destination,
        rows_under_way.audience,
        rows_under_way.address,
        rows_under_way.batch_id desc
) as doubted
    on
        known.destination = doubted.destination
        and known.audience = doubted.audience
        and known.address = doubted.address;

-- The tools' ids of our audiences. One row per destination and audience.
create table if not exists activation.audiences (
    destination text not null,  -- the email tool
    audience text not null,  -- its name
    vendor_id text not null,  -- the tool's id of it
    created_at timestamptz not null default now(),  -- when we first used it
    -- Until a first delivery came to its end, the size guard treats the audience as new.
    first_synced_publication_id bigint,
    primary key (destination, audience)
);

-- Each time delivery to a tool began. One row per delivery.
create table if not exists activation.sync_runs (
    sync_run_id bigint generated always as identity primary key,  -- rises with each delivery
    run_id text not null,  -- the run that delivered
    publication_id bigint not null,  -- the publication that was delivered
    destination text not null,  -- the email tool
    -- running, done or failed; a killed delivery stays running
    state text not null check (state in ('running', 'done', 'failed')),
    summary jsonb not null default '{}',  -- counts per audience, operation and state
    started_at timestamptz not null default clock_timestamp(),  -- bookkeeping
    finished_at timestamptz  -- bookkeeping
);

-- Where a tool and our records of it differ: missing (we delivered it, it is gone) and extra
-- (there, but not by us: left alone). One row per run, destination, audience and address.
create table if not exists activation.drift (
    run_id text not null,  -- the run that read the audience back
    publication_id bigint not null,  -- the publication it had delivered
    destination text not null,  -- the email tool
    audience text not null,  -- the audience's name
    address text not null,  -- the contact; personal data
    kind text not null check (kind in ('missing', 'extra')),  -- missing or extra
    observed_at timestamptz not null default now(),  -- bookkeeping
    primary key (run_id, destination, audience, address)
);

-- How our audiences stand, by our records. One row per destination and audience.
create or replace view activation.audience_state as
select
    effective_state.destination,  -- the email tool
    effective_state.audience,  -- the audience's name
    count(*) filter (where effective_state.is_member) as members,  -- contacts we put in
    count(*) filter (where effective_state.in_doubt) as in_doubt,  -- contacts to be repeated
    count(*) filter (where effective_state.rejections > 0) as rejected,  -- contacts refused
    -- the publication of the last confirmed change
    max(effective_state.confirmed_publication_id) as last_confirmed_publication_id,
    max(effective_state.confirmed_at) as last_confirmed_at  -- its time
from activation.effective_state
where effective_state.audience <> ''
group by effective_state.destination, effective_state.audience;

-- What people decided about audiences that the size guard held. Only such a row lets a held audience
-- go out, and only with exactly the plan that was decided on. One row per decision and audience.
create table if not exists activation.approvals (
    approval_id bigint generated always as identity primary key,  -- rises with each decision
    publication_id bigint not null,  -- the publication whose plan was decided on
    destination text not null,  -- the email tool
    audience text not null,  -- the audience's name
    segment text not null,  -- key of the segment
    plan_hash text not null,  -- as in held_audiences when it was decided
    decision text not null check (decision in ('approve', 'reject')),  -- approve or reject
    decided_by text not null,  -- who: the login name
    decided_at timestamptz not null default clock_timestamp(),  -- when
    decided_in text not null check (decided_in in ('airflow', 'command line')),  -- where
    note text,  -- why, in the person's own words
    run_id text  -- Airflow's run that asked; null on the command line
);
create index if not exists approvals_audience on activation.approvals (
    publication_id, destination, audience, approval_id
);

-- The decision that counts: the newest. One row per publication, destination and audience.
create or replace view activation.decisions as
select
    approvals.publication_id,  -- the publication whose plan was decided on
    approvals.destination,  -- the email tool
    approvals.audience,  -- the audience's name
    approvals.segment,  -- key of the segment
    approvals.plan_hash,  -- it holds for this plan only
    approvals.decision,  -- approve or reject
    approvals.decided_by,  -- who
    approvals.decided_at,  -- when
    approvals.decided_in,  -- airflow or command line
    approvals.note  -- why
from activation.approvals
where
    not exists (
        select 1
        from activation.approvals as later
        where
            later.publication_id = approvals.publication_id
            and later.destination = approvals.destination
            and later.audience = approvals.audience
            and later.approval_id > approvals.approval_id
    );

-- What the tools refuse, without addresses. One row per destination, audience and refused contact.
create or replace view activation.delivery_errors as
select
    delivered_state.destination,  -- the email tool
    delivered_state.audience,  -- '' for the contact's own attributes
    delivered_state.segment,  -- key of the segment; null for the contact's own attributes
    delivered_state.customer_id,  -- as in marts.customers
    cast(last_rejection.operation as text) as operation,  -- upsert, add or remove
    delivered_state.rejected_reason as reason_code,  -- the tool's code
    delivered_state.rejections as attempts,  -- refusals in a row of one payload
    -- max_rejections of destinations.yml
    cast(destinations.max_rejections as integer) as attempts_allowed,
    -- refused too often: not sent again before its contents change
    cast(delivered_state.rejections >= coalesce(destinations.max_rejections, 5) as boolean) as is_parked,
    -- not sent again before this publication; without effect where it is parked
    delivered_state.retry_from_publication_id,
    -- when it was last refused
    cast(last_rejection.settled_at as timestamp with time zone) as last_rejected_at,
    cast(last_rejection.attempt_id as bigint) as attempt_id  -- the row of the ledger
from activation.delivered_state
left join activation.destinations on destinations.destination = delivered_state.destination
left join activation.ledger as last_rejection
    on delivered_state.rejected_attempt_id = last_rejection.attempt_id
where delivered_state.rejections > 0;
