"""Who somebody is: from a customer id or an address to all that the warehouse knows them by.

The models decide who is one person. What arrived since the last night, or names no customer at all
(a subscriber of an email tool), is found by address in the raw tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import psycopg
from psycopg import sql

from kundenkreis.destinations.base import normalise_address
from kundenkreis.errors import DataError
from kundenkreis.privacy.raw_rows import RAW_ROWS, OrderRows, RawRows, RecordRows
from kundenkreis.warehouse.publish import intermediate_schema, live_schema

Record = tuple[str, str, str]
"""Source, record type, id."""

_ROUNDS = 10
# As `normalise_address` takes them off.
_BLANKS = " \t\r\n\u00a0\u200b"
# Not a component's name, which may be somebody else's address.
_NODES = ("identity_key", "telephone_key")


@dataclass
class Person:
    """Everything that names one person.

    Attributes:
        addresses: normalised.
        records: source records.
        customers: ids that the person has or had before a merge.
        orders: the person's orders, as (source, order id).
        nodes: the person's own names in the identity models.
    """

    addresses: set[str] = field(default_factory=set, repr=False)
    records: set[Record] = field(default_factory=set, repr=False)
    customers: set[str] = field(default_factory=set, repr=False)
    orders: set[tuple[str, str]] = field(default_factory=set, repr=False)
    nodes: set[str] = field(default_factory=set, repr=False)

    def _size(self) -> tuple[int, int, int]:
        return len(self.addresses), len(self.records), len(self.customers)


def find_person(connection: psycopg.Connection, *subjects: str) -> Person:
    """The person with a customer id or an address; of several subjects, all of them as one.

    An address that the warehouse does not know is a person of that address alone, who may be in an
    email tool.

    Raises:
        DataError: there is no such customer.
    """
    person = Person()
    for subject in subjects:
        if "@" in subject:
            person.addresses.add(normalise_address(subject))
        else:
            person.customers.add(subject.strip())
    models = _identity_schema(connection)
    for _ in range(_ROUNDS):
        before = person._size()
        _grow_by_models(connection, person, models)
        _grow_by_history(connection, person)
        _grow_by_raw(connection, person)
        if person._size() == before:
            break
    if not person.addresses and not person.records:
        raise DataError(
            "There is no customer with this id. A customer id is as in marts.customers; an address "
            "works as well."
        )
    _add_earlier_ids(connection, person)
    _add_orders(connection, person, models)
    _add_nodes(connection, person)
    return person


def _identity_schema(connection: psycopg.Connection) -> str | None:
    """Where the models that readers see now keep who is who; None before the first night."""
    live = live_schema(connection)
    if live is None:
        return None
    schema = intermediate_schema(live)
    return schema if exists(connection, schema, "int_customer_identities") else None


def _grow_by_models(connection: psycopg.Connection, person: Person, schema: str | None) -> None:
    if schema is None:
        return
    identities = sql.Identifier(schema, "int_customer_identities")
    rows = connection.execute(
        sql.SQL(
            "select source, source_record_type, source_id, address, customer_id from {} "
            "where customer_id = any(%(customers)s) or address = any(%(addresses)s)"
        ).format(identities),
        {"customers": list(person.customers), "addresses": list(person.addresses)},
    ).fetchall()
    rows += connection.execute(
        sql.SQL(
            "select source, source_record_type, source_id, address, customer_id from {} "
            "inner join unnest(%s::text[], %s::text[], %s::text[]) "
            "as known (source, source_record_type, source_id) "
            "using (source, source_record_type, source_id)"
        ).format(identities),
        columns_of_records(person.records),
    ).fetchall()
    for source, record_type, source_id, address, customer_id in rows:
        person.records.add((source, record_type, source_id))
        person.customers.add(customer_id)
        if address is not None:
            person.addresses.add(address)
    if exists(connection, schema, "int_customer_addresses"):
        # Without those that two accounts are billed at, which are nobody's own.
        own = connection.execute(
            sql.SQL(
                "select customer_id, address from {} where not is_ambiguous "
                "and (customer_id = any(%s) or address = any(%s))"
            ).format(sql.Identifier(schema, "int_customer_addresses")),
            (list(person.customers), list(person.addresses)),
        )
        for customer_id, address in own:
            person.customers.add(customer_id)
            person.addresses.add(address)


def _grow_by_history(connection: psycopg.Connection, person: Person) -> None:
    rows = connection.execute(
        "select source, source_record_type, source_id from history.customer_ids "
        "where customer_id = any(%s)",
        (list(person.customers),),
    ).fetchall()
    person.records |= set(rows)
    assigned = connection.execute(
        "select customer_id from history.customer_ids "
        "inner join unnest(%s::text[], %s::text[], %s::text[]) "
        "as known (source, source_record_type, source_id) "
        "using (source, source_record_type, source_id)",
        columns_of_records(person.records),
    )
    person.customers |= {row[0] for row in assigned}


def _grow_by_raw(connection: psycopg.Connection, person: Person) -> None:
    """Records with the person's addresses, and the addresses that the person's records have now."""
    relays = _relay_domains(connection)
    for source, table, declared in raw_tables(connection):
        if not isinstance(declared, RecordRows | OrderRows):
            continue
        relation = sql.Identifier(f"raw_{source}", table)
        label, key = label_of(declared, source), sql.Identifier(declared.key)
        address = sql.Identifier(declared.address)
        spelled = spellings(connection, f"raw_{source}", table, declared.address, person.addresses)
        if isinstance(declared, OrderRows):
            guests = connection.execute(
                sql.SQL(
                    "select distinct {label}, cast({key} as text), {address} from {relation} "
                    "where {address} = any(%s) and ({owner} is null or {owner} = any(%s))"
                ).format(
                    label=label,
                    key=key,
                    address=address,
                    relation=relation,
                    owner=sql.SQL("cast({} as text)").format(sql.Identifier(declared.owner)),
                ),
                (spelled, [str(declared.no_owner)]),
            )
            person.records |= {
                (name, declared.guest_type, order)
                for name, order, text in guests
                if normalise_address(text).rpartition("@")[2] not in relays
            }
            continue
        rows = connection.execute(
            sql.SQL(
                "select {label}, cast({key} as text), {address} from {relation} "
                "where {address} = any(%s) or cast({key} as text) = any(%s)"
            ).format(label=label, key=key, address=address, relation=relation),
            (spelled, [r[2] for r in person.records if r[1] == declared.record_type]),
        )
        for name, source_id, text in rows:
            record = (name, declared.record_type, source_id)
            if text in spelled or record in person.records:
                person.records.add(record)
                if text is not None and "@" in text:
                    person.addresses.add(normalise_address(text))


def _add_earlier_ids(connection: psycopg.Connection, person: Person) -> None:
    rows = connection.execute(
        "with recursive merged (customer_id) as ("
        "select unnest(%s::text[]) union "
        "select changes.other_customer_id from history.identity_changes as changes "
        "inner join merged using (customer_id) where changes.change = 'merged') "
        "select customer_id from merged",
        (list(person.customers),),
    )
    person.customers |= {row[0] for row in rows}


def _add_orders(connection: psycopg.Connection, person: Person, models: str | None) -> None:
    person.orders |= {
        (source, key) for source, kind, key in person.records if kind == "guest_order"
    }
    for source, table, declared in raw_tables(connection):
        if not isinstance(declared, OrderRows):
            continue
        label = label_of(declared, source)
        owners = [r for r in person.records if r[1] == declared.owner_type]
        rows = connection.execute(
            sql.SQL(
                "select distinct {label}, cast({key} as text) from {relation} "
                "inner join unnest(%s::text[], %s::text[]) as owners (source, owner) "
                "on owners.source = {label} and owners.owner = cast({owner} as text)"
            ).format(
                label=label,
                key=sql.Identifier(declared.key),
                relation=sql.Identifier(f"raw_{source}", table),
                owner=sql.Identifier(declared.owner),
            ),
            ([r[0] for r in owners], [r[2] for r in owners]),
        )
        person.orders |= set(rows.fetchall())
    if models is not None and exists(connection, models, "int_orders"):
        rows = connection.execute(
            sql.SQL("select source, order_id from {} where customer_id = any(%s)").format(
                sql.Identifier(models, "int_orders")
            ),
            (list(person.customers),),
        )
        person.orders |= set(rows.fetchall())


def _add_nodes(connection: psycopg.Connection, person: Person) -> None:
    person.nodes |= {f"address:{address}" for address in person.addresses}
    person.nodes |= {f"record:{'|'.join(record)}" for record in person.records}
    for colour in ("blue", "green", "backfill"):
        schema = f"intermediate_{colour}"
        if not exists(connection, schema, "int_customer_identities"):
            continue
        rows = connection.execute(
            sql.SQL("select {} from {} where customer_id = any(%s)").format(
                sql.SQL(", ").join(map(sql.Identifier, _NODES)),
                sql.Identifier(schema, "int_customer_identities"),
            ),
            (list(person.customers),),
        )
        person.nodes |= {name for row in rows for name in row if name is not None}


# --------------------------------------------------------------------------- shared


def exists(connection: psycopg.Connection, schema: str, table: str) -> bool:
    """Whether the warehouse has a table or view."""
    name = sql.Identifier(schema, table).as_string(connection)
    row = connection.execute("select to_regclass(%s) is not null", (name,)).fetchone()
    return row == (True,)


def raw_tables(connection: psycopg.Connection) -> Iterator[tuple[str, str, RawRows]]:
    """The raw tables with persons that are there: source, table, what they hold."""
    for source, tables in RAW_ROWS.items():
        for table, declared in tables.items():
            if exists(connection, f"raw_{source}", table):
                yield source, table, declared


def label_of(declared: RawRows, source: str) -> sql.Composable:
    """SQL for the name that the models give a raw table's source."""
    column = getattr(declared, "source", None)
    return sql.Identifier(column) if column else sql.Literal(source)


def columns_of_records(records: Iterable[Record]) -> tuple[list[str], list[str], list[str]]:
    """Records as three arrays for ``unnest``."""
    ordered = sorted(records)
    return [r[0] for r in ordered], [r[1] for r in ordered], [r[2] for r in ordered]


def spellings(
    connection: psycopg.Connection,
    schema: str,
    table: str,
    column: str,
    addresses: Iterable[str],
) -> list[str]:
    """The ways in which a column spells these addresses: other case, spaces, the other form of an
    international domain."""
    wanted = set(addresses)
    # The part before the @ is the same in all spellings but for its case, so it finds candidates;
    # of other alphabets the database's lower() may know less than ours.
    local_parts = {address.rpartition("@")[0] for address in wanted}
    local_parts |= {part.upper() for part in local_parts if not part.isascii()}
    if not local_parts:
        return []
    rows = connection.execute(
        sql.SQL(
            "select distinct {0} from {1} "
            "where lower(split_part(btrim({0}, {2}), '@', 1)) = any(%s)"
        ).format(sql.Identifier(column), sql.Identifier(schema, table), sql.Literal(_BLANKS)),
        (sorted(local_parts),),
    )
    return [text for (text,) in rows if normalise_address(text) in wanted]


def _relay_domains(connection: psycopg.Connection) -> set[str]:
    """Domains of marketplaces, whose addresses identify nobody."""
    if not exists(connection, "seeds", "marketplace_relay_domains"):
        return set()
    rows = connection.execute("select domain from seeds.marketplace_relay_domains")
    return {row[0] for row in rows}
