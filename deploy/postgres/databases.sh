#!/bin/sh
# Two databases, each with an owner of its own, neither a superuser. PostgreSQL's image runs this
# once, when it creates its data folder; running it again changes the passwords and nothing else.
set -eu
: "${WAREHOUSE_PASSWORD:?}" "${AIRFLOW_DATABASE_PASSWORD:?}"

# By psql's variables, so that a password may hold any character.
psql --set ON_ERROR_STOP=1 --quiet --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv warehouse_password WAREHOUSE_PASSWORD
\getenv airflow_password AIRFLOW_DATABASE_PASSWORD
-- The statements hold passwords, and the log must not.
set log_min_error_statement = 'panic';
set log_statement = 'none';
-- `kundenkreis warehouse roles` creates the roles that its tasks work under.
select 'create role kundenkreis login createrole'
where not exists (select from pg_roles where rolname = 'kundenkreis') \gexec
select 'create role airflow login'
where not exists (select from pg_roles where rolname = 'airflow') \gexec
alter role kundenkreis password :'warehouse_password';
alter role airflow password :'airflow_password';
select 'create database warehouse owner kundenkreis'
where not exists (select from pg_database where datname = 'warehouse') \gexec
select 'create database airflow owner airflow'
where not exists (select from pg_database where datname = 'airflow') \gexec
revoke connect on database airflow from public;
grant pg_read_all_stats to kundenkreis with admin option;
SQL
