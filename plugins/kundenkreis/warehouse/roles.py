"""Who may read and write what: a role per kind of task, one for readers, one for personal data.

Each kind of task owns what it creates, because dbt and dlt drop, rename and alter their tables:
the loader ``raw_*``, the transformer everything from ``staging`` to ``marts``, the activator
``activation``. Default privileges carry the grants over to the tables of coming nights. A
warehouse whose schema ``marts`` belongs to the transformer uses the roles: every task then works
under its own (`dsn_as`). Design: Warehouse, "Roles".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from kundenkreis.errors import WarehouseError
from kundenkreis.redaction import first_lines
from kundenkreis.warehouse import (
    ACTIVATOR,
    LOADER,
    READER,
    SEES_PERSONAL_DATA,
    TRANSFORMER,
)
from kundenkreis.warehouse.connection import connect, with_option

ROLES = {
    LOADER: "loads raw_*, writes quarantine",
    TRANSFORMER: "reads raw_*, builds staging to marts, checks, publishes, writes history",
    ACTIVATOR: "reads the marts, owns plan and ledger, sends",
    READER: "reads marts, history, quality and what was delivered; personal data masked",
    SEES_PERSONAL_DATA: "as the reader, with personal data",
}
# The roles that tasks work under; the login must be a member.
_WORKERS = (LOADER, TRANSFORMER, ACTIVATOR)

_COLOURS = ("marts_blue", "marts_green", "marts_backfill")
_INTERMEDIATE = ("intermediate_blue", "intermediate_green", "intermediate_backfill")
# Which schema belongs to whom. The others belong to the login, which creates their tables.
_OWNED = {
    **dict.fromkeys(
        ("staging", "seeds", "predictions", "marts", *_COLOURS, *_INTERMEDIATE), TRANSFORMER
    ),
    "activation": ACTIVATOR,
}
_WRITE = "select, insert, update, delete"

# Rights on all tables of a schema: schema, role, privileges. Tables that the login creates later
# get the same. Owners need none.
_ON_TABLES = (
    ("quarantine", LOADER, _WRITE),
    ("quarantine", TRANSFORMER, _WRITE),
    ("operations", TRANSFORMER, _WRITE),
    ("operations", ACTIVATOR, "select"),
    ("quality", TRANSFORMER, _WRITE),
    ("quality", READER, "select"),
    ("history", TRANSFORMER, _WRITE),
    ("history", ACTIVATOR, "select"),
    ("history", READER, "select"),
)

# Rights on all tables of an owner, and on those that the owner creates later.
_ON_TABLES_OF_OWNERS = (
    *((TRANSFORMER, schema, ACTIVATOR) for schema in ("marts", *_COLOURS)),
    (TRANSFORMER, "marts", READER),
)

# Rights on single tables.
_ON_TABLE = (
    ("operations.loaded_files", LOADER, _WRITE),
    ("operations.build_lease", ACTIVATOR, "select, update"),
    # Whether a run is a backfill, which loads nothing.
    ("history.publications", LOADER, "select"),
    ("activation.subscriber_states", TRANSFORMER, "select"),
    # What was sent and what was refused, in numbers and without addresses.
    ("activation.sync_runs", READER, "select"),
    ("activation.audience_state", READER, "select"),
    ("activation.delivery_errors", READER, "select"),
    # Who was erased stays out: loads, subscriber states and rollbacks look at the hashes.
    *(
        (f"privacy.{table}", role, "select")
        for table in ("blocked_hashes", "erasures")
        for role in (LOADER, ACTIVATOR, TRANSFORMER)
    ),
    ("privacy.erasure_places", ACTIVATOR, "select"),
    ("privacy.anonymised_orders", TRANSFORMER, "select"),
    ("privacy.anonymised_orders", LOADER, "select, insert"),
    # Whoever comes back after an erasure gets a new customer id.
    ("history.customer_ids", LOADER, "select, insert"),
)

_CHANGED_OWNERS = """
select relation.relkind, format('%%I.%%I', namespace.nspname, relation.relname)
from pg_class as relation
inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
where
    namespace.nspname = %(schema)s
    and relation.relkind in ('r', 'p', 'v', 'm')
    and relation.relowner <> %(role)s::text::regrole
union all
select 'f', function.oid::regprocedure::text
from pg_proc as function
inner join pg_namespace as namespace on namespace.oid = function.pronamespace
where namespace.nspname = %(schema)s and function.proowner <> %(role)s::text::regrole
order by 2
"""
_KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "f": "function"}


@dataclass(frozen=True)
class Granted:
    """What `create` did.

    Attributes:
        created: roles that were missing.
        transferred: how many schemas, tables, views and functions got another owner.
        missing: SQL that only an administrator may run and the roles can do without, and why.
    """

    created: tuple[str, ...]
    transferred: int
    missing: tuple[str, ...]


def in_use(connection: psycopg.Connection) -> bool:
    """Whether the tasks of this warehouse work under their roles."""
    row = connection.execute(
        "select pg_get_userbyid(nspowner) = %s from pg_namespace where nspname = 'marts'",
        (TRANSFORMER,),
    ).fetchone()
    return row == (True,)


def dsn_as(dsn: str, role: str) -> str:
    """The URI under which a task reaches the warehouse with the rights of its role only.

    Where the warehouse does not use the roles, the URI as it is.

    Raises:
        WarehouseError: the roles are in use and the login is no member of this one.
    """
    with connect(dsn) as connection:
        if not in_use(connection):
            return dsn
        row = connection.execute(
            "select pg_has_role(session_user, %s, 'member'), session_user", (role,)
        ).fetchone()
    if row and not row[0]:
        raise WarehouseError(
            f"The warehouse uses roles, but login '{row[1]}' is no member of {role}. Have an "
            f'administrator run: grant {role} to "{row[1]}";'
        )
    return with_option(dsn, f"-c role={role}")


def create(dsn: str) -> Granted:
    """Create the roles and give them their rights. Safe at any time, also on a live warehouse.

    Raises:
        WarehouseError: something takes an administrator; the message has the SQL.
    """
    with connect(dsn, application_name="kundenkreis roles") as connection:
        # Two calls at once would both find a role missing.
        connection.execute("select pg_advisory_xact_lock(%s)", (_ROLES_LOCK,))
        # An owner cannot be changed while somebody reads; nor may readers queue behind this.
        connection.execute("set local lock_timeout = '5s'")
        created = tuple(role for role in ROLES if not _exists(connection, role))
        try:
            with connection.transaction():
                for needed in administration(connection):
                    connection.execute(needed.encode())
        except psycopg.errors.InsufficientPrivilege as error:
            raise WarehouseError(_ask_administrator(connection, error)) from None
        try:
            transferred = _transfer(connection)
            for statement in _grants(connection):
                connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege as error:
            raise WarehouseError(
                f"PostgreSQL refused: {first_lines(str(error), 1)}. Run `kundenkreis warehouse "
                "roles` with the login that owns the warehouse's schemas and tables, or a "
                "superuser. Nothing was changed."
            ) from None
        except psycopg.errors.LockNotAvailable:
            raise WarehouseError(
                "Somebody reads or writes the warehouse's tables, so their owner cannot change "
                "now. Run `kundenkreis warehouse roles` again when no night is under way. Nothing "
                "was changed."
            ) from None
        missing = tuple(_wishes(connection))
    return Granted(created, transferred, missing)


def keep(dsn: str) -> None:
    """Give tables that were made by hand, under the login, to their roles where these are used.

    Raises:
        WarehouseError: as `create`.
    """
    with connect(dsn) as connection:
        used = in_use(connection)
    if used:
        create(dsn)


def administration(connection: psycopg.Connection) -> list[str]:
    """The statements that a login without special rights may not run, where they are missing."""
    row = connection.execute(
        "select current_database(), session_user, rolsuper from pg_roles "
        "where rolname = session_user"
    ).fetchone()
    assert row is not None  # noqa: S101 (every session has a user)
    database, login, is_superuser = row
    found = [f"create role {role} nologin" for role in ROLES if not _exists(connection, role)]
    for role in _WORKERS:
        if not is_superuser and not _is_member(connection, login, role):
            found.append(_text(connection, "grant {} to {}", role, login))
    if not _is_member(connection, SEES_PERSONAL_DATA, READER):
        found.append(f"grant {READER} to {SEES_PERSONAL_DATA}")
    for role in (LOADER, TRANSFORMER):
        if not _may(connection, role, database, "create"):
            found.append(_text(connection, "grant create on database {} to {}", database, role))
    for role in (LOADER, ACTIVATOR):
        if not _may(connection, role, database, "temporary"):
            found.append(_text(connection, "grant temporary on database {} to {}", database, role))
    return found


def lacking(connection: psycopg.Connection) -> list[str]:
    """What `create` would still do where the roles are in use, in words. Changes nothing."""
    found = [f"to be run by an administrator: {needed}" for needed in administration(connection)]
    if not _is_member(connection, TRANSFORMER, "pg_read_all_stats"):
        found.append(
            f"{TRANSFORMER} sees no other sessions (grant pg_read_all_stats to {TRANSFORMER}), "
            "so publishing does not wait for their long transactions"
        )
    if missing := [role for role in ROLES if not _exists(connection, role)]:
        return [*found, f"roles that do not exist: {', '.join(missing)}"]
    for schema, role in _schemas(connection).items():
        if count := _of_another_owner(connection, schema, role):
            found.append(f"{schema}: {count} objects do not belong to {role}")
    for schema, role, privileges in _ON_TABLES:
        for table in _without(connection, schema, role, privileges):
            found.append(f"{role} may not {privileges} on {schema}.{table}")
    for name, role, privileges in _ON_TABLE:
        schema, table = name.split(".")
        if table in _without(connection, schema, role, privileges):
            found.append(f"{role} may not {privileges} on {name}")
    return found


def _of_another_owner(connection: psycopg.Connection, schema: str, role: str) -> int:
    named = {"schema": schema, "role": role}
    objects = connection.execute(_CHANGED_OWNERS, named).fetchall()
    row = connection.execute(
        "select nspowner <> %(role)s::text::regrole from pg_namespace where nspname = %(schema)s",
        named,
    ).fetchone()
    return len(objects) + (row == (True,))


def _without(connection: psycopg.Connection, schema: str, role: str, privileges: str) -> list[str]:
    """The tables of a schema on which a role lacks one of some privileges."""
    rows = connection.execute(
        """
        select relation.relname
        from pg_class as relation
        inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
        where
            namespace.nspname = %(schema)s
            and relation.relkind in ('r', 'p', 'v', 'm')
            and not (
                select bool_and(has_table_privilege(%(role)s, relation.oid, privilege))
                from unnest(%(privileges)s::text[]) as privilege
            )
        order by 1
        """,
        {"schema": schema, "role": role, "privileges": privileges.split(", ")},
    ).fetchall()
    # What READER is denied on purpose.
    denied = {("history", "customer_ids", READER)}
    return [name for (name,) in rows if (schema, name, role) not in denied]


_ROLES_LOCK = 7_202_611_005


def _exists(connection: psycopg.Connection, role: str) -> bool:
    return connection.execute("select to_regrole(%s) is not null", (role,)).fetchone() == (True,)


def _is_member(connection: psycopg.Connection, member: str, role: str) -> bool:
    """Whether a role has another's rights; False where one of them does not exist."""
    row = connection.execute(
        "select pg_has_role(to_regrole(quote_ident(%s))::oid, to_regrole(%s)::oid, 'usage')",
        (member, role),
    ).fetchone()
    return row == (True,)


def _may(connection: psycopg.Connection, role: str, database: str, privilege: str) -> bool:
    row = connection.execute(
        "select has_database_privilege(to_regrole(%s)::oid, %s, %s)", (role, database, privilege)
    ).fetchone()
    return row == (True,)


def _text(connection: psycopg.Connection, statement: str, *names: str) -> str:
    composed = sql.SQL(statement).format(*map(sql.Identifier, names))
    return composed.as_string(connection)


def _ask_administrator(
    connection: psycopg.Connection, error: psycopg.errors.InsufficientPrivilege
) -> str:
    needed = "; ".join([*administration(connection), *_wishes(connection)])
    return (
        f"This login may not set up the roles ({first_lines(str(error), 1)}). Have an "
        f"administrator of the server run the following in this database, then run `kundenkreis "
        f"warehouse roles` again: {needed};"
    )


def _wishes(connection: psycopg.Connection) -> Iterator[str]:
    """`publish` waits for older snapshots of other users' transactions, where it sees them."""
    if not _is_member(connection, TRANSFORMER, "pg_read_all_stats"):
        statement = f"grant pg_read_all_stats to {TRANSFORMER}"
        try:
            with connection.transaction():
                connection.execute(statement.encode())
        except psycopg.errors.InsufficientPrivilege:
            yield statement
        except psycopg.errors.UndefinedObject:
            yield statement  # the role itself is missing as well


def _schemas(connection: psycopg.Connection) -> dict[str, str]:
    """Every schema that belongs to a role, whether it exists or not, with the role."""
    raw = connection.execute("select nspname from pg_namespace where nspname like 'raw\\_%'")
    return {**_OWNED, **{name: LOADER for (name,) in raw}}


def _transfer(connection: psycopg.Connection) -> int:
    """Give schemas, tables, views and functions to the roles they belong to."""
    count = 0
    for schema, role in _schemas(connection).items():
        named = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
        row = connection.execute(
            "select nspowner = %s::regrole from pg_namespace where nspname = %s", (role, schema)
        ).fetchone()
        if row is None:
            connection.execute(
                sql.SQL("create schema {schema} authorization {role}").format(**named)
            )
        elif row == (False,):
            connection.execute(sql.SQL("alter schema {schema} owner to {role}").format(**named))
            count += 1
        changed = connection.execute(_CHANGED_OWNERS, {"schema": schema, "role": role}).fetchall()
        for kind, name in changed:
            connection.execute(
                sql.SQL("alter {kind} {name} owner to {role}").format(
                    kind=sql.SQL(_KINDS[kind]),
                    # Quoted by PostgreSQL itself.
                    name=sql.SQL(name),
                    role=named["role"],
                )
            )
        count += len(changed)
    return count


def _grants(connection: psycopg.Connection) -> Iterator[sql.Composed]:
    """All grants; each may be repeated."""
    for schema in _schemas(connection):
        if schema.startswith("raw_"):
            yield _on_schema(schema, TRANSFORMER)
            yield _on_tables(schema, "select", TRANSFORMER)
    # Whatever the loader creates is raw.
    for rights in ("select on tables", "usage on schemas"):
        yield _by_default(
            sql.SQL("for role {}").format(sql.Identifier(LOADER)), rights, TRANSFORMER
        )
    for schema, role, privileges in _ON_TABLES:
        yield _on_schema(schema, role)
        yield _on_tables(schema, privileges, role)
        place = sql.SQL("in schema {}").format(sql.Identifier(schema))
        yield _by_default(place, f"{privileges} on tables", role)
    for owner, schema, role in _ON_TABLES_OF_OWNERS:
        yield _on_schema(schema, role)
        yield _on_tables(schema, "select", role)
        place = sql.SQL("in schema {}").format(sql.Identifier(schema))
        by_owner = sql.SQL("for role {} {}").format(sql.Identifier(owner), place)
        # By the login as well: what a person builds or publishes by hand.
        for creator in (by_owner, place):
            yield _by_default(creator, "select on tables", role)
    # `activation` belongs to the activator, but its tables are created by the login.
    activation = sql.SQL("in schema activation")
    yield _by_default(activation, "all on tables", ACTIVATOR)
    for table, role, privileges in _ON_TABLE:
        schema, name = table.split(".")
        yield _on_schema(schema, role)
        yield sql.SQL("grant {} on {} to {}").format(
            sql.SQL(privileges),
            sql.Identifier(schema, name),
            sql.Identifier(role),
        )
    # Names persons by their sources' ids.
    ids = sql.Identifier("history", "customer_ids")
    yield sql.SQL("revoke all on {} from {}").format(ids, sql.Identifier(READER))
    yield sql.SQL("grant select on {} to {}").format(ids, sql.Identifier(SEES_PERSONAL_DATA))


def _on_schema(schema: str, role: str) -> sql.Composed:
    return sql.SQL("grant usage on schema {} to {}").format(
        sql.Identifier(schema), sql.Identifier(role)
    )


def _on_tables(schema: str, privileges: str, role: str) -> sql.Composed:
    return sql.SQL("grant {} on all tables in schema {} to {}").format(
        sql.SQL(privileges),
        sql.Identifier(schema),
        sql.Identifier(role),
    )


def _by_default(place: sql.Composable, rights: str, role: str) -> sql.Composed:
    return sql.SQL("alter default privileges {} grant {} to {}").format(
        place,
        sql.SQL(rights),
        sql.Identifier(role),
    )
