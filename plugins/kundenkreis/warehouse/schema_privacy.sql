-- What is kept of persons who were erased. Every statement may run any number of times.

create schema if not exists privacy;

-- The certificate of an erasure: when, by whom and how much; no personal data. The hash is an HMAC
-- whose key is outside the warehouse. One row per erasure.
create table if not exists privacy.erasures (
    erasure_id bigint generated always as identity primary key,  -- its number
    -- request: a person asked for it; retention: a lead without sign of life, config/retention.yml
    kind text not null check (kind in ('request', 'retention')),
    subject_hash text not null,  -- of the address or customer id that was asked for
    requested_by text not null,  -- who started it
    requested_at timestamptz not null default now(),  -- when
    effective_at timestamptz not null,  -- what is dated up to then does not come back
    addresses integer not null,  -- how many addresses the person had
    records integer not null,  -- how many source records
    customers integer not null,  -- how many customer ids
    orders integer not null,  -- how many orders stay, without the person
    key_check text not null,  -- which key was used, without telling it
    state text not null default 'pending' check (state in ('pending', 'done')),  -- pending or done
    completed_at timestamptz  -- when nothing was left
);

-- Where an erasure has been, so that one that was interrupted goes on from there. One row per
-- erasure and place.
create table if not exists privacy.erasure_places (
    erasure_id bigint not null,  -- as in erasures
    place text not null,  -- schemas of the warehouse, or an email tool
    position integer not null,  -- the order of the places
    state text not null default 'pending' check (state in ('pending', 'done')),  -- pending or done
    -- of an email tool: erased, not_there or kept (retention leaves tools alone)
    outcome text,
    rows jsonb not null default '{}',  -- rows per table that were removed or emptied
    attempts integer not null default 0,  -- how often it was tried
    last_error text,  -- why it is pending still; no personal data
    finished_at timestamptz,  -- when it was done
    primary key (erasure_id, place)
);

-- Whom an erasure that is under way is about. Gone as soon as it is done; personal data. One row
-- per erasure and identifier.
create table if not exists privacy.pending_identifiers (
    erasure_id bigint not null,  -- as in erasures
    -- of what: address, record, customer, order, or node of the identity models
    kind text not null check (kind in ('address', 'record', 'customer', 'order', 'node')),
    value jsonb not null,  -- the parts of the identifier; personal data
    primary key (erasure_id, kind, value)
);

-- What is not loaded again: HMACs whose key is outside the warehouse. One row per address, source
-- record or customer id of an erased person.
create table if not exists privacy.blocked_hashes (
    hash text primary key,  -- of the identifier
    kind text not null check (kind in ('address', 'record', 'customer')),  -- of what
    erased_at timestamptz not null,  -- what is dated up to then is not loaded again
    -- false: what the email tools say of the address is still read (a lead's withdrawal holds)
    blocks_states boolean not null
);

-- Orders that are nobody's since their customer was erased; they count as revenue of their day. One
-- row per order.
create table if not exists privacy.anonymised_orders (
    source text not null,  -- as in marts.orders
    order_id text not null,  -- as in marts.orders
    primary key (source, order_id)
);

-- Where the roles are older than this schema, they are given what `warehouse/roles.py` gives them.
do $$
begin
    if to_regrole('kundenkreis_loader') is not null then
        grant usage on schema privacy, history to kundenkreis_loader;
        grant select on privacy.blocked_hashes, privacy.erasures to kundenkreis_loader;
        grant select, insert on privacy.anonymised_orders to kundenkreis_loader;
        grant select, insert on history.customer_ids to kundenkreis_loader;
    end if;
    if to_regrole('kundenkreis_transformer') is not null then
        grant usage on schema privacy to kundenkreis_transformer;
        grant select on privacy.blocked_hashes, privacy.erasures, privacy.anonymised_orders
        to kundenkreis_transformer;
    end if;
    if to_regrole('kundenkreis_activator') is not null then
        grant usage on schema privacy to kundenkreis_activator;
        grant select on privacy.blocked_hashes, privacy.erasures, privacy.erasure_places
        to kundenkreis_activator;
    end if;
end
$$;
