"""Roles: who may read and write what, and personal data behind a grant of its own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest

from kundenkreis.errors import WarehouseError
from kundenkreis.warehouse import ACTIVATOR, LOADER, READER, SEES_PERSONAL_DATA, TRANSFORMER, roles
from kundenkreis.warehouse import publish as publishing
from kundenkreis.warehouse.connection import with_option
from kundenkreis.warehouse.privacy import require_unmasked
from kundenkreis.warehouse.schema import ensure_schemas

pytestmark = pytest.mark.integration

DAY = date(2026, 3, 1)
CUSTOMERS = """
create table {schema}.customers as
select
    'c1'::text as customer_id, 'ada@mail.example'::text as email, 'Ada'::text as first_name,
    date '1990-02-03' as birthday, 36::integer as age_years, 12.50::numeric(18, 4) as revenue
union all
select 'c2', null, null, null, null, 0;
create index on {schema}.customers (email);
create view {schema}.buyers as select customer_id, email from {schema}.customers;
comment on column {schema}.customers.email is 'Personal data.';
comment on column {schema}.customers.first_name is 'Personal data.';
comment on column {schema}.customers.birthday is 'Personal data.';
comment on column {schema}.customers.age_years is 'Personal data.';
comment on column {schema}.customers.revenue is 'Personal data.';
comment on column {schema}.buyers.email is 'Personal data.'
"""
PLAIN = ("c1", "ada@mail.example", "Ada", date(1990, 2, 3), 36, 12.5)
MASKED = ("c1", "a…@m…", "A…", None, None, None)


def _night(dsn: str, run_id: str) -> str:
    """A night's build and publication, under the roles where the warehouse uses them."""
    build = roles.dsn_as(dsn, TRANSFORMER)
    schema = publishing.begin_build(build, run_id, DAY, False)
    with psycopg.connect(build) as session:
        session.execute(f"create schema if not exists {schema}")
        session.execute(f"drop table if exists {schema}.customers cascade")
        for statement in CUSTOMERS.format(schema=schema).split(";"):
            session.execute(statement.encode())
    publishing.publish(build, run_id, DAY, schema, {}, wait_minutes=1)
    publishing.end_build(build, run_id)
    return schema


@pytest.fixture(scope="module")
def dsn(module_warehouse_dsn: str) -> str:
    """A warehouse that ran a night before it had roles, and one after."""
    with psycopg.connect(module_warehouse_dsn) as session:
        session.execute("create schema raw_shop")
        session.execute("create table raw_shop.orders as select 'ada@mail.example' as email")
    _night(module_warehouse_dsn, "before")
    roles.create(module_warehouse_dsn)
    loader = roles.dsn_as(module_warehouse_dsn, LOADER)
    with psycopg.connect(loader) as session:  # a source that is added later
        session.execute("create schema raw_crm")
        session.execute("create table raw_crm.contacts as select 'ada@mail.example' as email")
    _night(module_warehouse_dsn, "after")
    return module_warehouse_dsn


@pytest.fixture
def session(dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def _customers(connection: psycopg.Connection) -> list[tuple[Any, ...]]:
    return connection.execute("select * from marts.customers order by customer_id").fetchall()


def _readable(connection: psycopg.Connection, role: str) -> set[str]:
    """The tables and views a role may read, by schema."""
    rows = connection.execute(
        "select format('%%I.%%I', n.nspname, c.relname) from pg_class as c "
        "inner join pg_namespace as n on n.oid = c.relnamespace "
        "where c.relkind in ('r', 'v', 'p', 'm') and n.nspname !~ '^(pg_|information_schema)' "
        "and has_schema_privilege(%(role)s, n.oid, 'usage') "
        "and has_any_column_privilege(%(role)s, c.oid, 'select')",
        {"role": role},
    )
    return {name for (name,) in rows}


def _schemas(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.fixture
def owner_dsn(warehouse_dsn: str) -> Iterator[str]:
    """A login that owns its database and nothing else, as on a server of one's own."""
    parts = psycopg.conninfo.conninfo_to_dict(warehouse_dsn)
    database = parts["dbname"]
    with psycopg.connect(warehouse_dsn) as admin:
        admin.execute("create role warehouse_owner login password 'secret'")
        admin.execute(f"alter database {database} owner to warehouse_owner")
        schemas = admin.execute(
            "select nspname from pg_namespace where nspname !~ '^(pg_|information_schema|public)'"
        ).fetchall()
        for (schema,) in schemas:
            admin.execute(f"drop schema {schema} cascade")
    dsn = f"postgresql://warehouse_owner:secret@{parts['host']}:{parts['port']}/{database}"
    yield dsn
    with psycopg.connect(warehouse_dsn, autocommit=True) as admin:
        admin.execute(f"alter database {database} owner to current_user")
        admin.execute("drop owned by warehouse_owner cascade")
        admin.execute("drop role warehouse_owner")


def test_a_login_without_rights_gets_the_sql_for_an_administrator(
    owner_dsn: str, warehouse_dsn: str
) -> None:
    ensure_schemas(owner_dsn)
    with psycopg.connect(warehouse_dsn) as admin:
        existing = {row[0] for row in admin.execute("select rolname from pg_roles")}
    with pytest.raises(WarehouseError, match="Have an administrator") as refused:
        roles.create(owner_dsn)
    message = str(refused.value)
    assert 'grant "kundenkreis_loader" to "warehouse_owner"' in message
    assert "grant create on database" in message
    for role in roles.ROLES:
        assert (f"create role {role} nologin" in message) is (role not in existing)
    with psycopg.connect(warehouse_dsn) as admin:
        assert not roles.in_use(admin)
        for statement in message.split("again: ")[1].split(";"):
            if statement.strip():
                admin.execute(statement.encode())

    granted = roles.create(owner_dsn)

    assert granted.missing == ()
    _night(owner_dsn, "run-1")
    with psycopg.connect(owner_dsn) as owner:
        assert roles.in_use(owner)
        assert _customers(owner)[0] == PLAIN
    with psycopg.connect(warehouse_dsn) as admin:
        admin.execute(f"set role {READER}")
        assert _customers(admin)[0] == MASKED


def test_a_reader_reads_marts_history_and_quality_and_nothing_else(
    session: psycopg.Connection,
) -> None:
    readable = _readable(session, READER)
    assert _schemas(readable) == {"marts", "history", "quality", "activation"}
    assert {name for name in readable if name.startswith("activation.")} == {
        "activation.audience_state",
        "activation.delivery_errors",
        "activation.sync_runs",
    }
    assert {"marts.customers", "marts.buyers", "history.publications"} <= readable
    assert "history.customer_ids" not in readable
    writes = session.execute(
        "select count(*) from pg_class where relkind in ('r', 'v') and relnamespace in "
        "(select oid from pg_namespace where nspname !~ '^(pg_|information_schema)') "
        "and has_table_privilege(%s, oid, 'insert, update, delete, truncate')",
        (READER,),
    ).fetchone()
    assert writes == (0,)


@pytest.mark.parametrize(
    "table",
    [
        "raw_shop.orders",
        "raw_crm.contacts",
        "marts_blue.customers",
        "marts_green.customers",
        "activation.ledger",
        "activation.rows_under_way",
        "quarantine.rejected_records",
        "operations.task_results",
        "history.customer_ids",
        "predictions.parameters",
    ],
)
def test_a_reader_is_refused_by_the_server(session: psycopg.Connection, table: str) -> None:
    session.execute(f"set role {READER}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(f"select * from {table}")


def test_a_reader_sees_personal_data_masked_with_names_and_types_unchanged(
    session: psycopg.Connection,
) -> None:
    plain = session.execute("select * from marts.customers order by 1")
    types = [(column.name, column.type_code) for column in plain.description or ()]
    assert plain.fetchall()[0] == PLAIN
    session.execute(f"set role {READER}")
    masked = session.execute("select * from marts.customers order by 1")
    assert [(column.name, column.type_code) for column in masked.description or ()] == types
    assert masked.fetchall() == [MASKED, ("c2", None, None, None, None, None)]
    assert session.execute("select email from marts.buyers where email is not null").fetchall() == [
        ("a…@m…",)
    ]
    # Nor is it found by asking for it.
    by_address = "select count(*) from marts.customers where email = 'ada@mail.example'"
    assert session.execute(by_address).fetchone() == (0,)


def test_the_grant_shows_personal_data_and_only_that(session: psycopg.Connection) -> None:
    granted = _readable(session, SEES_PERSONAL_DATA)
    assert granted == _readable(session, READER) | {"history.customer_ids"}
    session.execute(f"set role {SEES_PERSONAL_DATA}")
    assert _customers(session)[0] == PLAIN


def test_a_view_of_somebody_who_may_see_shows_a_reader_no_more(
    session: psycopg.Connection,
) -> None:
    session.execute("create schema if not exists bi")
    session.execute("create or replace view bi.people as select * from marts.customers")
    session.execute(f"grant usage on schema bi to {READER}")
    session.execute(f"grant select on bi.people to {READER}")
    session.execute(f"set role {READER}")
    rows = session.execute("select * from bi.people order by 1").fetchall()
    session.execute("reset role")
    session.execute("drop schema bi cascade")
    assert rows[0] == MASKED


def test_the_question_who_may_see_is_asked_once_per_statement(session: psycopg.Connection) -> None:
    session.execute(f"set role {READER}")
    lines = session.execute("explain (verbose) select email from marts.customers").fetchall()
    plan = "\n".join(line for (line,) in lines)
    assert "InitPlan" in plan
    assert "SubPlan" not in plan.replace("InitPlan", "")


def test_views_work_with_their_owners_rights(session: psycopg.Connection) -> None:
    options = session.execute(
        "select count(*) from pg_class where relnamespace = 'marts'::regnamespace "
        "and array_to_string(reloptions, ',') like '%security_invoker%'"
    ).fetchone()
    assert options == (0,)


def test_whoever_delivers_sees_addresses_and_a_reader_may_not_deliver(
    session: psycopg.Connection,
) -> None:
    live = publishing.live_schema(session)
    assert live is not None
    session.execute(f"set role {ACTIVATOR}")
    assert _customers(session)[0] == PLAIN
    require_unmasked(session, live)
    session.execute(f"set role {READER}")
    with pytest.raises(WarehouseError, match=r"sees personal data masked.*kundenkreis_pii"):
        require_unmasked(session, live)


def test_each_task_has_what_it_needs_and_not_the_others_data(session: psycopg.Connection) -> None:
    loader = _schemas(_readable(session, LOADER))
    assert loader == {"raw_shop", "raw_crm", "quarantine", "operations", "history", "privacy"}
    assert not _schemas(_readable(session, ACTIVATOR)) & {"raw_shop", "quarantine", "staging"}
    activation = {
        name for name in _readable(session, TRANSFORMER) if name.startswith("activation.")
    }
    assert activation == {"activation.subscriber_states"}


def test_doing_it_again_changes_nothing(dsn: str, session: psycopg.Connection) -> None:
    rights = (
        "select n.nspname, c.relname, c.relowner, c.relacl from pg_class as c "
        "inner join pg_namespace as n on n.oid = c.relnamespace where n.nspname !~ '^pg_' "
        "union all select nspname, null, nspowner, nspacl from pg_namespace "
        "union all select 'default', defaclobjtype::text, defaclrole, defaclacl from pg_default_acl"
    )
    before = session.execute(f"select array_agg(r::text order by r::text) from ({rights}) as r")
    again = roles.create(dsn)
    after = session.execute(f"select array_agg(r::text order by r::text) from ({rights}) as r")
    assert after.fetchone() == before.fetchone()
    assert (again.created, again.transferred, again.missing) == ((), 0, ())


def test_tables_made_by_hand_go_to_their_role(dsn: str, session: psycopg.Connection) -> None:
    session.execute("create table marts_green.made_by_hand as select 1 as one")
    roles.keep(dsn)
    owner = session.execute(
        "select tableowner from pg_tables where tablename = 'made_by_hand'"
    ).fetchone()
    session.execute("drop table marts_green.made_by_hand")
    assert owner == (TRANSFORMER,)


def test_what_the_next_release_creates_is_granted(session: psycopg.Connection, dsn: str) -> None:
    session.execute("create table history.new_kind (as_of_date date)")
    ensure_schemas(dsn)
    readable = _readable(session, READER)
    session.execute("drop table history.new_kind")
    assert "history.new_kind" in readable


def test_a_warehouse_without_roles_works_as_the_login(
    warehouse_dsn: str, session: psycopg.Connection
) -> None:
    """Also where another database of the server has them."""
    assert session.execute("select to_regrole(%s) is not null", (READER,)).fetchone()
    assert roles.dsn_as(warehouse_dsn, LOADER) == warehouse_dsn
    _night(warehouse_dsn, "run-1")
    with psycopg.connect(warehouse_dsn) as own:
        assert _customers(own)[0] == PLAIN
    roles.keep(warehouse_dsn)
    assert roles.dsn_as(warehouse_dsn, LOADER) == warehouse_dsn


def test_a_login_that_is_no_member_is_told_so(dsn: str, session: psycopg.Connection) -> None:
    session.execute("create role stranger login password 'secret'")
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    stranger = f"postgresql://stranger:secret@{parts['host']}:{parts['port']}/{parts['dbname']}"
    with pytest.raises(WarehouseError, match=r"'stranger' is no member of kundenkreis_loader"):
        roles.dsn_as(stranger, LOADER)
    session.execute("drop role stranger")


def test_options_of_the_connection_are_kept() -> None:
    dsn = "postgresql://me:s%23cret@host:5432/db?sslmode=require&options=-c%20jit%3Doff"
    parts = psycopg.conninfo.conninfo_to_dict(with_option(dsn, "-c role=kundenkreis_loader"))
    assert parts == {
        **psycopg.conninfo.conninfo_to_dict(dsn),
        "options": "-c jit=off -c role=kundenkreis_loader",
    }
