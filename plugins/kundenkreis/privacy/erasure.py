"""Erases a person from the warehouse and the email tools, place by place.

First, in one transaction: the certificate, the hashes that keep the person from coming back, and
whom it is about. From then on no load brings the person in. Then each place is emptied in a
transaction of its own and ticked off, so an erasure that was killed, or found a tool down, goes on
where it stopped. When nothing is left, whom it was about is forgotten; the certificate stays.

It takes the locks that loads, builds, publications and deliveries hold, one place at a time, and
waits for a build that is under way: gates compare tables that must not change between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from kundenkreis.connections import Resolver
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import Destination
from kundenkreis.errors import DataError, KundenkreisError, WarehouseError
from kundenkreis.failpoints import reach
from kundenkreis.privacy.keys import ErasureKey, find_key, find_or_make_key, require_same_key
from kundenkreis.privacy.person import Person, exists, find_person
from kundenkreis.privacy.places import COLOURS, steps_of, warehouse_places
from kundenkreis.redaction import first_lines
from kundenkreis.settings import Settings
from kundenkreis.warehouse import publish
from kundenkreis.warehouse.connection import connect

Kind = Literal["request", "retention"]
OpenTool = Callable[[str, Any, Resolver], Destination]
Progress = Callable[[str], None]

# As in `kundenkreis.activation.delivery`: one delivery per tool at a time.
_DELIVERY_LOCKS = 7_202_612
_ERASURE_LOCK = 7_202_611_006
_LOCK_WAIT = "10min"
_DESTINATION = "destination "


@dataclass(frozen=True)
class Errand:
    """What every erasure needs.

    Attributes:
        open_tool: connects to an email tool.
        wait_seconds: how long to wait for a build that is under way.
    """

    dsn: str
    settings: Settings
    resolve: Resolver
    progress: Progress
    open_tool: OpenTool = open_destination
    wait_seconds: float = 3600

    @property
    def test_domains(self) -> Sequence[str]:
        """Domains of testers."""
        return self.settings.model.test_email_domains


@dataclass(frozen=True)
class Certificate:
    """An erasure as it stands; no personal data.

    Attributes:
        places: per place its state, outcome, rows per table, and why it is pending.
    """

    erasure_id: int
    kind: str
    state: str
    requested_by: str
    requested_at: datetime
    effective_at: datetime
    completed_at: datetime | None
    subject_hash: str
    addresses: int
    records: int
    customers: int
    orders: int
    places: Mapping[str, Mapping[str, Any]]


def preview(errand: Errand, subject: str) -> dict[str, Any]:
    """What an erasure would touch: ``{"addresses", "records", "customers", "orders", "places":
    {place: {table: rows}}}``. Changes nothing.

    Raises:
        DataError: there is no such customer.
    """
    with connect(errand.dsn, application_name="kundenkreis erase") as connection:
        person = find_person(connection, subject)
        places: dict[str, dict[str, int]] = {}
        for place in warehouse_places(connection):
            for step in steps_of(connection, place, person, test_domains=errand.test_domains):
                counts = places.setdefault(place, {})
                counts[step.name] = counts.get(step.name, 0) + step.count(connection)
        connection.rollback()
    for name in errand.settings.destinations:
        places[_DESTINATION + name] = {"addresses": len(person.addresses)}
    found = {
        place: {table: rows for table, rows in counts.items() if rows}
        for place, counts in places.items()
    }
    return {**_sizes(person), "places": found}


def erase(
    errand: Errand,
    subject: str | Sequence[str],
    by: str,
    *,
    kind: Kind = "request",
    effective_at: datetime | None = None,
) -> Certificate:
    """Erase one person.

    Args:
        subject: a customer id or an address; or several, who are erased together.
        by: who starts it.
        kind: ``retention`` leaves the email tools, and what they say, alone.
        effective_at: what is dated up to then does not come back; now by default.

    Returns:
        The certificate; its state is ``pending`` where a tool did not answer.

    Raises:
        DataError: there is no such customer.
        CredentialError: the key is missing or another one.
        BuildBusy, WarehouseError: something else kept a lock for too long. The erasure has begun,
            and `resume` goes on with it.
    """
    return resume(errand, begin(errand, subject, by, kind=kind, effective_at=effective_at))


def begin(
    errand: Errand,
    subject: str | Sequence[str],
    by: str,
    *,
    kind: Kind = "request",
    effective_at: datetime | None = None,
) -> int:
    """Put an erasure down, so that no load brings the person back and `resume` can do it.

    Args:
        subject: a customer id or an address; or several, who are erased together.

    Returns:
        The erasure's id.

    Raises:
        DataError: there is no such customer.
        CredentialError: the key is missing or another one.
    """
    moment = effective_at or datetime.now(UTC)
    subjects = [subject] if isinstance(subject, str) else sorted(subject)
    named = " ".join(subjects).strip().lower()
    with connect(errand.dsn, application_name="kundenkreis erase") as connection:
        key = find_or_make_key(connection, errand.resolve)
        person = find_person(connection, *subjects)
        row = connection.execute(
            "insert into privacy.erasures (kind, subject_hash, requested_by, effective_at, "
            "addresses, records, customers, orders, key_check) "
            "values (%s, %s, %s, %s, %s, %s, %s, %s, %s) returning erasure_id",
            (
                *(kind, key.hash_of("subject", named), by, moment),
                *(*_sizes(person).values(), key.check),
            ),
        ).fetchone()
        assert row is not None  # noqa: S101 (insert ... returning always returns its row)
        erasure_id = int(row[0])
        _block(connection, key, person, moment, blocks_states=kind == "request")
        _remember(connection, erasure_id, person)
        destinations = errand.settings.destinations if kind == "request" else ()
        places = [
            *warehouse_places(connection),
            *(_DESTINATION + name for name in destinations),
        ]
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into privacy.erasure_places (erasure_id, place, position) "
                "values (%s, %s, %s)",
                [(erasure_id, place, position) for position, place in enumerate(places)],
            )
    reach("erase.after_begin")
    return erasure_id


def resume(errand: Errand, erasure_id: int) -> Certificate:
    """Go on with an erasure; nothing where it is done.

    Raises:
        DataError: there is no such erasure.
        BuildBusy, WarehouseError: as `erase`.
    """
    with connect(errand.dsn, application_name="kundenkreis erase", autocommit=True) as session:
        _take(session, "select pg_advisory_lock(%s)", (_ERASURE_LOCK,), "another erasure")
        if certificate(session, erasure_id).state == "pending":
            kind = _kind(session, erasure_id)
            person = _recall(session, erasure_id)
            for place in _open_places(session, erasure_id):
                _do_place(errand, erasure_id, kind, place, person)
                reach(f"erase.after_{place.split()[0]}")
            _complete(session, erasure_id)
        return certificate(session, erasure_id)


def pending(connection: psycopg.Connection) -> list[int]:
    """The erasures that are not done, the oldest first."""
    rows = connection.execute(
        "select erasure_id from privacy.erasures where state = 'pending' order by erasure_id"
    )
    return [row[0] for row in rows]


def begun_by(connection: psycopg.Connection, by: str) -> int | None:
    """The newest erasure that somebody began, so that a repeated task begins no second one."""
    row = connection.execute(
        "select max(erasure_id) from privacy.erasures where requested_by = %s and kind = 'request'",
        (by,),
    ).fetchone()
    return row[0] if row else None


def certificate(connection: psycopg.Connection, erasure_id: int) -> Certificate:
    """An erasure as it stands.

    Raises:
        DataError: there is no such erasure.
    """
    found = certificates(connection, erasure_id)
    if not found:
        raise DataError(
            f"There is no erasure {erasure_id}. `kundenkreis erasures list` shows those there are."
        )
    return found[0]


def certificates(
    connection: psycopg.Connection, erasure_id: int | None = None
) -> list[Certificate]:
    """All erasures, the newest first; or the one with this id."""
    rows = connection.execute(
        "select erasure_id, kind, state, requested_by, requested_at, effective_at, completed_at, "
        "subject_hash, addresses, records, customers, orders from privacy.erasures "
        "where %(id)s::bigint is null or erasure_id = %(id)s order by erasure_id desc",
        {"id": erasure_id},
    ).fetchall()
    places = connection.execute(
        "select erasure_id, place, state, outcome, rows, last_error, finished_at "
        "from privacy.erasure_places "
        "where %(id)s::bigint is null or erasure_id = %(id)s order by erasure_id, position",
        {"id": erasure_id},
    ).fetchall()
    names = ("state", "outcome", "rows", "last_error", "finished_at")
    by_erasure: dict[int, dict[str, dict[str, Any]]] = {}
    for of_erasure, place, *values in places:
        by_erasure.setdefault(of_erasure, {})[place] = dict(zip(names, values, strict=True))
    columns = [column.name for column in fields(Certificate)][:-1]
    return [
        Certificate(**dict(zip(columns, row, strict=True)), places=by_erasure.get(row[0], {}))
        for row in rows
    ]


def as_json(found: Certificate) -> dict[str, Any]:
    """A certificate as plain data."""
    return asdict(found)


def replay(connection: psycopg.Connection, schema: str, resolve: Resolver | None = None) -> int:
    """Take whoever was erased out of a colour that is to be shown again.

    In the caller's transaction.

    An erasure empties both colours, so nobody is found but in tables that came from elsewhere, a
    restored backup for instance. Customer ids tell exactly: whoever came back has another one.

    Returns:
        The number of persons.

    Raises:
        CredentialError: persons were erased, and the key is missing or another one.
    """
    hashes = {
        row[0]
        for row in connection.execute(
            "select hash from privacy.blocked_hashes where kind = 'customer'"
        )
    }
    place = next((name for name in COLOURS if name == schema), None)
    if not hashes or place is None:
        return 0
    key = find_key(resolve)
    require_same_key(connection, key)
    found = _erased_customers(connection, schema, key, hashes)
    if not found:
        return 0
    person = _person_of_colour(connection, schema, found)
    for step in steps_of(connection, place, person):
        step.run(connection)
    for step in steps_of(connection, "history", person):
        step.run(connection)
    return len(found)


# --------------------------------------------------------------------------- beginning


def _sizes(person: Person) -> dict[str, int]:
    return {
        "addresses": len(person.addresses),
        "records": len(person.records),
        "customers": len(person.customers),
        "orders": len(person.orders),
    }


def _block(
    connection: psycopg.Connection,
    key: ErasureKey,
    person: Person,
    moment: datetime,
    *,
    blocks_states: bool,
) -> None:
    identifiers = [
        *(("address", (address,)) for address in person.addresses),
        *(("record", record) for record in person.records),
        *(("customer", (customer,)) for customer in person.customers),
    ]
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into privacy.blocked_hashes as known (hash, kind, erased_at, blocks_states) "
            "values (%s, %s, %s, %s) on conflict (hash) do update set "
            "erased_at = greatest(known.erased_at, excluded.erased_at), "
            "blocks_states = known.blocks_states or excluded.blocks_states",
            sorted(
                (key.hash_of(kind, *parts), kind, moment, blocks_states)
                for kind, parts in identifiers
            ),
        )
        cursor.executemany(
            "insert into privacy.anonymised_orders (source, order_id) values (%s, %s) "
            "on conflict do nothing",
            sorted(person.orders),
        )


_IDENTIFIERS = (
    ("address", "addresses"),
    ("record", "records"),
    ("customer", "customers"),
    ("order", "orders"),
    ("node", "nodes"),
)


def _remember(connection: psycopg.Connection, erasure_id: int, person: Person) -> None:
    with connection.cursor() as cursor:
        for kind, name in _IDENTIFIERS:
            cursor.executemany(
                "insert into privacy.pending_identifiers (erasure_id, kind, value) "
                "values (%s, %s, %s)",
                [(erasure_id, kind, Jsonb(value)) for value in sorted(getattr(person, name))],
            )


def _recall(connection: psycopg.Connection, erasure_id: int) -> Person:
    person = Person()
    names = dict(_IDENTIFIERS)
    for kind, value in connection.execute(
        "select kind, value from privacy.pending_identifiers where erasure_id = %s", (erasure_id,)
    ):
        getattr(person, names[kind]).add(tuple(value) if isinstance(value, list) else value)
    return person


# --------------------------------------------------------------------------- place by place


def _open_places(connection: psycopg.Connection, erasure_id: int) -> list[str]:
    rows = connection.execute(
        "select place from privacy.erasure_places where erasure_id = %s and state = 'pending' "
        "order by position",
        (erasure_id,),
    )
    return [row[0] for row in rows]


def _kind(connection: psycopg.Connection, erasure_id: int) -> str:
    row = connection.execute(
        "select kind from privacy.erasures where erasure_id = %s", (erasure_id,)
    ).fetchone()
    return str(row[0]) if row else "request"


def _do_place(errand: Errand, erasure_id: int, kind: str, place: str, person: Person) -> None:
    errand.progress(f"erasure {erasure_id}: {place}")
    if place.startswith(_DESTINATION):
        _do_destination(errand, erasure_id, place, person)
        return
    with (
        _undisturbed(errand, place),
        connect(errand.dsn, application_name="kundenkreis erase") as connection,
    ):
        if place.startswith("raw_"):
            _empty_staging(connection, place)
        if place == "activation":
            # Whoever merges what a tool says, does so before or after this.
            connection.execute(
                "lock table activation.subscriber_states in share row exclusive mode"
            )
        rows: dict[str, int] = {}
        parted = 0
        for step in steps_of(
            connection,
            place,
            person,
            load=_load_name(place),
            test_domains=errand.test_domains,
            keeps_states=kind == "retention",
        ):
            done = step.run(connection)
            rows[step.name] = rows.get(step.name, 0) + done
            parted += done if step.of_others and place in COLOURS else 0
        if parted:
            connection.execute(
                "delete from operations.build_state where schema_name = %s", (place,)
            )
        _tick_off(connection, erasure_id, place, None, rows)


def _do_destination(errand: Errand, erasure_id: int, place: str, person: Person) -> None:
    """Delete the person in an email tool. One that does not answer is asked again later."""
    name = place.removeprefix(_DESTINATION)
    tool_settings = errand.settings.destinations.get(name)
    try:
        if tool_settings is None:
            raise DataError(
                f"destinations.yml has no {name} any more. Connect it again for as long as the "
                "erasure takes, or delete the contact there by hand and then run `kundenkreis "
                f"erasures settle {erasure_id} {name}`."
            )
        with (
            _undisturbed(errand, place),
            closing(errand.open_tool(name, tool_settings, errand.resolve)) as tool,
        ):
            erased = [tool.erase(address) for address in sorted(person.addresses)]
            with connect(errand.dsn, application_name="kundenkreis erase") as connection:
                _forget_what_was_read(connection, person)
                outcome = "erased" if any(erased) else "not_there"
                _tick_off(connection, erasure_id, place, outcome, {"contacts": sum(erased)})
    except KundenkreisError as error:
        reason = first_lines(str(error), 2)
        with connect(errand.dsn) as connection:
            connection.execute(
                "update privacy.erasure_places set attempts = attempts + 1, last_error = %s "
                "where erasure_id = %s and place = %s",
                (reason, erasure_id, place),
            )
        errand.progress(f"erasure {erasure_id}: {name} is left for later: {reason}")


def _forget_what_was_read(connection: psycopg.Connection, person: Person) -> None:
    """What was read back from a tool since the warehouse was emptied, and before the tool was."""
    for step in steps_of(connection, "activation", person):
        step.run(connection)


def settle_by_hand(errand: Errand, erasure_id: int, destination: str) -> Certificate:
    """Tick off a tool in which somebody deleted the contact by hand.

    Raises:
        DataError: the erasure has nothing open there.
        WarehouseError: a delivery kept the tool for too long.
    """
    place = _DESTINATION + destination
    with (
        _undisturbed(errand, place),
        connect(errand.dsn, application_name="kundenkreis erase") as connection,
    ):
        if place not in _open_places(connection, erasure_id):
            raise DataError(f"Erasure {erasure_id} has nothing open at {destination}.")
        _forget_what_was_read(connection, _recall(connection, erasure_id))
        _tick_off(connection, erasure_id, place, "by_hand", {})
    return resume(errand, erasure_id)


def _tick_off(
    connection: psycopg.Connection,
    erasure_id: int,
    place: str,
    outcome: str | None,
    rows: Mapping[str, int],
) -> None:
    connection.execute(
        "update privacy.erasure_places set state = 'done', outcome = %s, rows = %s, "
        "attempts = attempts + 1, last_error = null, finished_at = clock_timestamp() "
        "where erasure_id = %s and place = %s",
        (outcome, Jsonb({t: n for t, n in rows.items() if n}), erasure_id, place),
    )


def _complete(connection: psycopg.Connection, erasure_id: int) -> None:
    if _open_places(connection, erasure_id):
        return
    with connection.transaction():
        connection.execute(
            "delete from privacy.pending_identifiers where erasure_id = %s", (erasure_id,)
        )
        connection.execute(
            "update privacy.erasures set state = 'done', completed_at = clock_timestamp() "
            "where erasure_id = %s",
            (erasure_id,),
        )


def _load_name(place: str) -> str:
    """The emptied orders are a load of their own, so that the next builds take them up.

    dlt names loads by the time; of files the time itself is kept.
    """
    return datetime.now(UTC).isoformat() if place == "raw_files" else f"{time.time():.7f}"


def _empty_staging(connection: psycopg.Connection, schema: str) -> None:
    """What a load that was killed left beside the raw tables; no load needs it."""
    tables = connection.execute(
        "select tablename from pg_tables where schemaname = %s and tablename not like '\\_dlt%%'",
        (f"{schema}_staging",),
    ).fetchall()
    for (table,) in tables:
        connection.execute(
            sql.SQL("delete from {}").format(sql.Identifier(f"{schema}_staging", table))
        )


# --------------------------------------------------------------------------- locks


def _undisturbed(errand: Errand, place: str) -> AbstractContextManager[None]:
    """Hold what keeps others from writing the same place."""
    if place.startswith("raw_"):
        # As `kundenkreis.sources.base` names it.
        query = "select pg_advisory_lock(hashtext(%s))"
        return _held(errand, [(query, (f"kundenkreis extract {place}",))], f"a load of {place}")
    if place in COLOURS:
        return publish.between_builds(errand.dsn, errand.progress, errand.wait_seconds)
    if place == "history":
        return _held(
            errand, [("select pg_advisory_lock(%s)", (publish.PUBLISH_LOCK,))], "a publication"
        )
    query = "select pg_advisory_lock(%s, hashtext(%s))"
    if place == "activation":
        names = sorted(errand.settings.destinations)
        return _held(errand, [(query, (_DELIVERY_LOCKS, name)) for name in names], "a delivery")
    if place.startswith(_DESTINATION):
        name = place.removeprefix(_DESTINATION)
        return _held(errand, [(query, (_DELIVERY_LOCKS, name))], f"a delivery to {name}")
    return nullcontext()


@contextmanager
def _held(
    errand: Errand, locks: Sequence[tuple[str, tuple[Any, ...]]], whose: str
) -> Iterator[None]:
    with connect(errand.dsn, application_name="kundenkreis erase", autocommit=True) as session:
        for query, parameters in locks:
            _take(session, query, parameters, whose)
        yield


def _take(session: psycopg.Connection, query: str, parameters: tuple[Any, ...], whose: str) -> None:
    session.execute(f"set lock_timeout = '{_LOCK_WAIT}'".encode())
    try:
        session.execute(query.encode(), parameters)
    except psycopg.errors.LockNotAvailable:
        raise WarehouseError(
            f"The erasure has waited {_LOCK_WAIT} for {whose} to end. It stays pending: run "
            "`kundenkreis erasures resume` when that is over; the next night does so as well."
        ) from None


# --------------------------------------------------------------------------- replay


def _erased_customers(
    connection: psycopg.Connection, schema: str, key: ErasureKey, hashes: set[str]
) -> list[str]:
    if not exists(connection, schema, "customers"):
        return []
    rows = connection.execute(
        sql.SQL("select customer_id from {}").format(sql.Identifier(schema, "customers"))
    )
    return [name for (name,) in rows if key.hash_of("customer", name) in hashes]


def _person_of_colour(
    connection: psycopg.Connection, schema: str, customers: Sequence[str]
) -> Person:
    beside = publish.intermediate_schema(schema)

    def rows(table: str, columns: str) -> list[tuple[Any, ...]]:
        if not exists(connection, beside, table):
            return []
        return connection.execute(
            sql.SQL("select {} from {} where customer_id = any(%s)").format(
                sql.SQL(columns), sql.Identifier(beside, table)
            ),
            (list(customers),),
        ).fetchall()

    records = rows("int_customer_identities", "source, source_record_type, source_id")
    addresses = {row[0] for row in rows("int_customer_addresses", "address")}
    return Person(
        addresses=addresses,
        records={(source, kind, key) for source, kind, key in records},
        customers=set(customers),
        orders={(source, key) for source, key in rows("int_orders", "source, order_id")},
        nodes={
            *(f"address:{address}" for address in addresses),
            *(f"record:{'|'.join(record)}" for record in records),
        },
    )
