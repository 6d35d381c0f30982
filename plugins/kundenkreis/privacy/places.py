"""What to do about a person in every table of the warehouse.

Raw tables and those of `activation` are declared; every other table is understood by the names of
its columns, so that a table that is added tomorrow is emptied of a person without being named here.
tests/integration/test_privacy_registry.py fails where a column that may name somebody is neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from kundenkreis.destinations.base import normalise_address
from kundenkreis.privacy.blocklist import texts_of
from kundenkreis.privacy.person import (
    Person,
    columns_of_records,
    exists,
    raw_tables,
    spellings,
)
from kundenkreis.privacy.raw_rows import (
    LinkRows,
    OrderRows,
    RawRows,
    RecordRows,
)
from kundenkreis.warehouse.publish import BACKFILL, BLUE, GREEN, intermediate_schema

COLOURS = (BLUE, GREEN, BACKFILL)

CUSTOMER_COLUMNS = ("customer_id", "other_customer_id", "built_customer_id")
RECORD_COLUMNS = (
    ("source", "source_record_type", "source_id"),
    ("source", "built_source_record_type", "built_source_id"),
)
LINK_COLUMNS = ("linked_source", "linked_record_type", "linked_source_id")
ADDRESS_COLUMNS = ("address", "email")
# Of the rows of a batch under way, which is one row of its table.
CUSTOMER_LISTS = ("customer_ids",)
ADDRESS_LISTS = ("addresses",)
NODE_COLUMNS = ("component", "connection", "identity_key", "telephone_key", "link_key")
PAYLOAD_COLUMNS = ("payload",)

_IS_RECORD = (
    "({}, {}, {}) in (select * from unnest("
    "%(sources)s::text[], %(record_types)s::text[], %(source_ids)s::text[]))"
)

# Models of one row per order: the order stays, and these columns are emptied.
ORDER_TABLES: Mapping[str, tuple[str, ...]] = {
    "int_orders_unioned": (
        "source_record_type",
        "source_id",
        "email",
        "address",
        "first_name",
        "last_name",
        "newsletter_opt_in",
        "phone_e164",
    ),
    "int_orders": ("customer_id", "address"),
    "orders": ("customer_id",),
}
# Of an order that is somebody else's, with the person's address on it.
_CONTACT_COLUMNS = ("email", "address", "first_name", "last_name", "phone_e164")

# What the ledger keeps of an attempt: that it was made, and what became of it. The plan row's id
# and the payload's hash are made of the address, and so tell it to whoever tries.
LEDGER_WITHOUT_PERSON = sql.SQL(
    "plan_row_id = 'erased ' || attempt_id, customer_id = '', address = '', attributes = '{}', "
    "payload_hash = '', vendor_reference = null, reason = null"
)

# The same in a batch under way, whose rows the ledger gets when its outcome is known.
_BATCH_COLUMNS = {
    "plan_row_ids": "'erased ' || t.batch_id || '.' || planned.position",
    "customer_ids": "''",
    "addresses": "''",
    "attributes": "null",
    "payload_hashes": "''",
}
_IN_BATCH = """{column} = (
    select array_agg(
        case
            when planned.address = any(%(addresses)s) or planned.customer_id = any(%(customers)s)
                then {emptied}
            else planned.value
        end
        order by planned.position
    )
    from unnest(t.addresses, t.customer_ids, t.{column}) with ordinality
        as planned (address, customer_id, value, position)
)"""
BATCH_WITHOUT_PERSON = sql.SQL(", ").join(
    sql.SQL(_IN_BATCH).format(column=sql.Identifier(column), emptied=sql.SQL(emptied))
    for column, emptied in _BATCH_COLUMNS.items()
)


@dataclass(frozen=True)
class Step:
    """What is done in one table.

    Attributes:
        schema, table: where.
        where: which rows, as SQL with the parameters.
        assignments: what the rows get instead, as SQL; None: they go.
        of_others: the rows are other persons', and only name this one; in a colour they may be
            connected otherwise now, which only a full build tells.
    """

    schema: str
    table: str
    where: sql.Composable
    parameters: Mapping[str, Any] = field(repr=False)
    assignments: sql.Composable | None = None
    of_others: bool = False

    @property
    def name(self) -> str:
        """The table with its schema."""
        return f"{self.schema}.{self.table}"

    def count(self, connection: psycopg.Connection) -> int:
        """How many rows there are."""
        query = sql.SQL("select count(*) from {} as t where {}").format(
            sql.Identifier(self.schema, self.table), self.where
        )
        row = connection.execute(query, self.parameters).fetchone()
        return row[0] if row else 0

    def run(self, connection: psycopg.Connection) -> int:
        """Do it; returns the number of rows."""
        table = sql.Identifier(self.schema, self.table)
        if self.assignments is None:
            statement = sql.SQL("delete from {} as t where {}").format(table, self.where)
        else:
            statement = sql.SQL("update {} as t set {} where {}").format(
                table, self.assignments, self.where
            )
        return connection.execute(statement, self.parameters).rowcount


def warehouse_places(connection: psycopg.Connection) -> list[str]:
    """The places of the warehouse in the order in which they are to be emptied.

    What a later place is filled from comes before it: raw rows before what is built of them,
    colours before the history that is copied from them.
    """
    raw = sorted({source for source, _, _ in raw_tables(connection)})
    colours = [name for name in COLOURS if _has_schema(connection, name)]
    return [*(f"raw_{source}" for source in raw), "quarantine", *colours, "history", "activation"]


def steps_of(
    connection: psycopg.Connection,
    place: str,
    person: Person,
    *,
    load: str = "",
    test_domains: Iterable[str] = (),
    keeps_states: bool = False,
) -> Iterator[Step]:
    """What is to be done about a person in a place.

    Args:
        load: names the emptied raw orders' load, so that builds take them up.
        test_domains: domains of testers.
        keeps_states: what the email tools said stays, and so do members that are to be removed.
    """
    if place.startswith("raw_"):
        yield from _raw_steps(connection, place.removeprefix("raw_"), person, load, test_domains)
    elif place == "quarantine":
        yield from _quarantine_steps(connection, person)
    elif place in COLOURS:
        for schema in (place, intermediate_schema(place)):
            yield from _steps_by_columns(connection, schema, person)
    elif place == "activation":
        yield from _activation_steps(connection, person, keeps_states)
    else:
        # Also where a rollback would take ids from.
        for schema in ("history", "operations"):
            yield from _steps_by_columns(connection, schema, person)


# --------------------------------------------------------------------------- raw


def _raw_steps(
    connection: psycopg.Connection,
    source: str,
    person: Person,
    load: str,
    test_domains: Iterable[str],
) -> Iterator[Step]:
    schema = f"raw_{source}"
    for name, table, declared in raw_tables(connection):
        if name != source:
            continue
        if isinstance(declared, RecordRows):
            yield from _record_steps(connection, schema, table, declared, person)
        elif isinstance(declared, OrderRows):
            yield from _order_steps(connection, schema, table, declared, person, load, test_domains)
        elif isinstance(declared, LinkRows):
            ids = [r[2] for r in person.records if r[:2] == (source, declared.owner_type)]
            yield Step(
                schema,
                table,
                sql.SQL("cast({} as text) = any(%(ids)s)").format(sql.Identifier(declared.owner)),
                {"ids": ids},
                sql.SQL("{} = null").format(sql.Identifier(declared.owner)),
            )
        else:
            spelled = spellings(connection, schema, table, declared.address, person.addresses)
            yield Step(
                schema,
                table,
                sql.SQL("{} = any(%(spelled)s)").format(sql.Identifier(declared.address)),
                {"spelled": spelled},
            )


def _record_steps(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    declared: RecordRows,
    person: Person,
) -> Iterator[Step]:
    own = [r for r in person.records if r[1] == declared.record_type]
    parameters = {
        "sources": [r[0] for r in own],
        "keys": [r[2] for r in own],
        "spelled": spellings(connection, schema, table, declared.address, person.addresses),
    }
    where = sql.SQL(
        "({address} = any(%(spelled)s) or ({label}, cast({key} as text)) in "
        "(select * from unnest(%(sources)s::text[], %(keys)s::text[])))"
    ).format(
        address=sql.Identifier(declared.address),
        label=_label(declared, schema),
        key=sql.Identifier(declared.key),
    )
    for nested in declared.nested:
        if exists(connection, schema, nested):
            yield Step(
                schema,
                nested,
                sql.SQL("_dlt_parent_id in (select _dlt_id from {} where {})").format(
                    sql.Identifier(schema, table), where
                ),
                parameters,
            )
    yield Step(schema, table, where, parameters)
    if declared.link:
        named_source, named_key = map(sql.Identifier, declared.link)
        everyone = [r for r in person.records if r[1] != "guest_order"]
        yield Step(
            schema,
            table,
            sql.SQL(
                "({}, {}) in (select * from unnest(%(sources)s::text[], %(keys)s::text[]))"
            ).format(named_source, named_key),
            {"sources": [r[0] for r in everyone], "keys": [r[2] for r in everyone]},
            sql.SQL("{} = null, {} = null").format(named_source, named_key),
            of_others=True,
        )


def _order_steps(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    declared: OrderRows,
    person: Person,
    load: str,
    test_domains: Iterable[str],
) -> Iterator[Step]:
    orders = sorted(person.orders)
    spelled = spellings(connection, schema, table, declared.address, person.addresses)
    parameters = {
        "sources": [order[0] for order in orders],
        "keys": [order[1] for order in orders],
        "spelled": spelled,
        "load": load,
        "domains": sorted(domain.lower() for domain in test_domains),
    }
    own = sql.SQL(
        "(({label}, cast({key} as text)) in "
        "(select * from unnest(%(sources)s::text[], %(keys)s::text[])) and ({filled}))"
    ).format(
        label=_label(declared, schema),
        key=sql.Identifier(declared.key),
        filled=sql.SQL(" or ").join(
            sql.SQL("{} is distinct from {}").format(sql.Identifier(name), value)
            for name, value in _emptied(declared).items()
        ),
    )
    address, load_column = sql.Identifier(declared.address), sql.Identifier(declared.load)
    # As `blocklist.anonymous_address`.
    emptied_address = sql.SQL(
        "case when lower(btrim(split_part({0}, '@', 2))) = any(%(domains)s) "
        "then 'erased@' || lower(btrim(split_part({0}, '@', 2))) end"
    ).format(address)
    type_ = "timestamptz" if declared.load == "loaded_at" else "text"
    assignments = [
        sql.SQL("{} = {}").format(sql.Identifier(name), value)
        for name, value in _emptied(declared).items()
        if name != declared.address
    ]
    common = [
        sql.SQL("{} = {}").format(address, emptied_address),
        sql.SQL("{} = cast(%(load)s as {})").format(load_column, sql.SQL(type_)),
    ]
    yield Step(schema, table, own, parameters, sql.SQL(", ").join([*assignments, *common]))
    of_others = [sql.SQL("{} = null").format(sql.Identifier(name)) for name in declared.personal]
    yield Step(
        schema,
        table,
        sql.SQL(
            "{address} = any(%(spelled)s) and ({label}, cast({key} as text)) not in "
            "(select * from unnest(%(sources)s::text[], %(keys)s::text[]))"
        ).format(address=address, label=_label(declared, schema), key=sql.Identifier(declared.key)),
        parameters,
        sql.SQL(", ").join([*of_others, *common]),
    )


def _emptied(declared: OrderRows) -> dict[str, sql.Composable]:
    values = dict.fromkeys((declared.address, *declared.personal), sql.SQL("null"))
    return {declared.owner: sql.Literal(declared.no_owner), **values}


def _label(declared: RawRows, schema: str) -> sql.Composable:
    column = getattr(declared, "source", None)
    return sql.Identifier(column) if column else sql.Literal(schema.removeprefix("raw_"))


# --------------------------------------------------------------------------- quarantine


def _quarantine_steps(connection: psycopg.Connection, person: Person) -> Iterator[Step]:
    names = list(_rejected(connection, person))
    where = sql.SQL("record_hash = any(%(names)s)")
    yield Step("quarantine", "releases", where, {"names": names})
    yield Step("quarantine", "rejected_records", where, {"names": names})


def _rejected(connection: psycopg.Connection, person: Person) -> Iterator[str]:
    """Rejected records that name the person. A vendor nests and spells addresses as it likes, so
    each payload is looked through."""
    records = {(source, kind, key) for source, kind, key in person.records}
    with connection.cursor(name="rejected") as cursor:
        cursor.execute(
            "select records.record_hash, records.source, records.table_name, "
            "records.record_key, records.payload, releases.corrections "
            "from quarantine.rejected_records as records "
            "left join quarantine.latest_releases as releases using (record_hash)"
        )
        for name, source, table, key, payload, corrections in cursor:
            if _names_address([payload, corrections, key], person) or _names_record(
                source, table, key, payload or {}, records
            ):
                yield name


def _names_address(payloads: Iterable[Any], person: Person) -> bool:
    return any(
        "@" in text and normalise_address(text) in person.addresses
        for payload in payloads
        for text in texts_of(payload)
    )


def _names_record(
    source: str,
    table: str,
    key: str | None,
    payload: Mapping[str, Any],
    records: set[tuple[str, str, str]],
) -> bool:
    kinds = {"customers": "customer", "contacts": "contact", "orders": "guest_order"}
    if (source, kinds.get(table, ""), str(key)) in records:
        return True
    owner = payload.get("customer_id") or payload.get("contact_id")
    return any((source, kind, str(owner)) in records for kind in ("customer", "contact"))


# --------------------------------------------------------------------------- by columns


def _steps_by_columns(
    connection: psycopg.Connection, schema: str, person: Person
) -> Iterator[Step]:
    parameters = _parameters(person)
    for table, columns in tables_of(connection, schema).items():
        if table in ORDER_TABLES:
            yield from _order_model_steps(schema, table, columns, parameters)
            continue
        conditions = list(conditions_on(columns))
        if not conditions and "identity_key" in columns:
            conditions = [sql.SQL("t.identity_key = any(%(nodes)s)")]
        if conditions:
            yield Step(schema, table, sql.SQL(" or ").join(conditions), parameters)
        if set(PAYLOAD_COLUMNS) & columns:
            yield from _payload_steps(connection, schema, table, person)
        if set(LINK_COLUMNS) <= columns:
            yield Step(
                schema,
                table,
                sql.SQL(_IS_RECORD).format(*(sql.Identifier("t", name) for name in LINK_COLUMNS)),
                parameters,
                _nulls(LINK_COLUMNS),
                of_others=True,
            )
        for name in NODE_COLUMNS:
            if name in columns:
                yield _node_step(schema, table, name, parameters)


def tables_of(connection: psycopg.Connection, schema: str) -> dict[str, set[str]]:
    """The tables of a schema with their columns; views hold nothing of their own."""
    found: dict[str, set[str]] = {}
    for table, column in connection.execute(
        "select relation.relname, attribute.attname from pg_attribute as attribute "
        "inner join pg_class as relation on relation.oid = attribute.attrelid "
        "inner join pg_namespace as namespace on namespace.oid = relation.relnamespace "
        "where namespace.nspname = %s and relation.relkind in ('r', 'p', 'm') "
        "and attribute.attnum > 0 and not attribute.attisdropped order by 1, attribute.attnum",
        (schema,),
    ):
        found.setdefault(table, set()).add(column)
    return found


def conditions_on(columns: set[str]) -> Iterator[sql.Composable]:
    """By which of a table's columns its rows are a person's."""
    for name in CUSTOMER_COLUMNS:
        if name in columns:
            yield sql.SQL("t.{} = any(%(customers)s)").format(sql.Identifier(name))
    for names in RECORD_COLUMNS:
        if set(names) <= columns:
            yield sql.SQL(_IS_RECORD).format(*(sql.Identifier("t", name) for name in names))
    for name in ADDRESS_COLUMNS:
        if name in columns:
            yield sql.SQL("t.{} = any(%(addresses)s)").format(sql.Identifier(name))
    for lists, parameter in ((CUSTOMER_LISTS, "customers"), (ADDRESS_LISTS, "addresses")):
        for name in lists:
            if name in columns:
                yield sql.SQL("t.{} && {}").format(sql.Identifier(name), sql.Placeholder(parameter))


def _parameters(person: Person) -> dict[str, Any]:
    sources, record_types, source_ids = columns_of_records(person.records)
    orders = sorted(person.orders)
    return {
        "customers": sorted(person.customers),
        "addresses": sorted(person.addresses),
        "sources": sources,
        "record_types": record_types,
        "source_ids": source_ids,
        "order_sources": [order[0] for order in orders],
        "order_ids": [order[1] for order in orders],
        "nodes": sorted(person.nodes),
    }


def _order_model_steps(
    schema: str, table: str, columns: set[str], parameters: Mapping[str, Any]
) -> Iterator[Step]:
    emptied = [name for name in ORDER_TABLES[table] if name in columns]
    yield Step(
        schema,
        table,
        sql.SQL(
            "(t.source, t.order_id) in (select * from unnest("
            "%(order_sources)s::text[], %(order_ids)s::text[])) and ({})"
        ).format(
            sql.SQL(" or ").join(
                sql.SQL("t.{} is not null").format(sql.Identifier(name)) for name in emptied
            )
        ),
        parameters,
        _nulls(emptied),
    )
    contact = [name for name in _CONTACT_COLUMNS if name in columns]
    if "address" in columns:
        yield Step(
            schema,
            table,
            sql.SQL(
                "t.address = any(%(addresses)s) and (t.source, t.order_id) not in "
                "(select * from unnest(%(order_sources)s::text[], %(order_ids)s::text[]))"
            ),
            parameters,
            _nulls(contact),
        )


def _nulls(columns: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.SQL("{} = null").format(sql.Identifier(c)) for c in columns)


def _payload_steps(
    connection: psycopg.Connection, schema: str, table: str, person: Person
) -> Iterator[Step]:
    """Rejections of models, which become rows of the quarantine."""
    rows = connection.execute(
        sql.SQL(
            "select distinct source, table_name, record_key, cast(payload as jsonb) from {}"
        ).format(sql.Identifier(schema, table))
    )
    keys = [
        (source, kind, key)
        for source, kind, key, payload in rows
        if _names_address([payload, key], person)
        or _names_record(source, kind, key, payload or {}, person.records)
    ]
    yield Step(
        schema,
        table,
        sql.SQL(
            "(t.source, t.table_name, t.record_key) in (select * from unnest("
            "%(sources)s::text[], %(tables)s::text[], %(keys)s::text[]))"
        ),
        {
            "sources": [key[0] for key in keys],
            "tables": [key[1] for key in keys],
            "keys": [key[2] for key in keys],
        },
    )


def _node_step(schema: str, table: str, column: str, parameters: Mapping[str, Any]) -> Step:
    """Others who were connected with the person keep a connection, by a name that tells nothing."""
    return Step(
        schema,
        table,
        sql.SQL("t.{} = any(%(nodes)s)").format(sql.Identifier(column)),
        parameters,
        sql.SQL(
            "{0} = 'erased:' || array_position(%(nodes)s::text[], t.{0}) || ':' || "
            "pg_current_xact_id()"
        ).format(sql.Identifier(column)),
        of_others=True,
    )


# --------------------------------------------------------------------------- activation


def _activation_steps(
    connection: psycopg.Connection, person: Person, keeps_states: bool
) -> Iterator[Step]:
    parameters = _parameters(person)
    for table, columns in tables_of(connection, "activation").items():
        conditions = list(conditions_on(columns))
        if not conditions or (keeps_states and table == "subscriber_states"):
            continue
        where: sql.Composable = sql.SQL(" or ").join(conditions)
        if table == "batches_under_way":
            # What is under way is in doubt, and so keeps a lead from being due.
            if not keeps_states:
                yield Step(
                    "activation", table, where, parameters, BATCH_WITHOUT_PERSON, of_others=True
                )
            continue
        if keeps_states and table == "delivered_state":
            where = sql.SQL("({}) and not t.is_member and not t.in_doubt").format(where)
        assignments = LEDGER_WITHOUT_PERSON if table == "ledger" else None
        yield Step("activation", table, where, parameters, assignments)


def _has_schema(connection: psycopg.Connection, schema: str) -> bool:
    row = connection.execute("select to_regnamespace(%s) is not null", (schema,)).fetchone()
    return row == (True,)
