-- What the sources need beside dlt's own tables.

-- The files behind raw_files, for people; the cursor itself is in dlt's state, with the data.
create table if not exists operations.loaded_files (
    source_name text not null,
    dataset text not null,
    content_hash text not null,
    file_name text not null,
    declared_order integer not null,
    rows bigint not null,
    rejected bigint not null,
    run_id text not null,
    loaded_at timestamptz not null default now(),
    primary key (source_name, dataset, content_hash)
);
