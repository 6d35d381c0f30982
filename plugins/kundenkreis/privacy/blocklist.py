"""Keeps an erased person from coming back with the next load.

Every load reads the hashes of erased persons once. Where there are none, nothing else happens.
Otherwise each record's address and ids are hashed as it passes, and compared in memory:

* a person's record, or a consent, that is not dated after the erasure is left out;
* an order is kept, without the person, where it is not dated after the erasure;
* a record that is older but brings a confirmed or new opt-in from after the erasure comes back as
  of that opt-in, with nothing from before;
* what is dated after the erasure is a new customer's. A source may know that customer by the old
  id; a new customer id is put down for it, so that it is not the old one derived anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import Any

import psycopg

from kundenkreis.destinations.base import SUPPRESSING_STATES, normalise_address
from kundenkreis.privacy.keys import ErasureKey, require_same_key
from kundenkreis.privacy.raw_rows import (
    RAW_ROWS,
    LinkRows,
    OrderRows,
    RawRows,
    RecordRows,
)
from kundenkreis.warehouse.quarantine import Rejection

# As the macro `newsletter_evidence` has it: what a newsletter field says in favour.
_OPT_INS = frozenset(
    ("double", "confirmed", "double_opt_in", "pending", "unconfirmed")
) | frozenset(("single", "yes", "true", "1", "subscribed", "existing_customer"))
_CONFIRMATION = "hs_emailconfirmationstatus"
_ERASED_LOCAL_PART = "erased"

Row = dict[str, Any]
KeyFinder = Callable[[], ErasureKey]


@dataclass
class Blocklist:
    """The hashes of erased persons, and what a load found out with them.

    Attributes:
        hashes: when the person of a hash was erased.
        key: what the hashes were made with; None where there are none.
        test_domains: domains of testers, whose orders stay recognisable as tests.
        anonymised: orders that lost their person in this load, as (source, order id).
        returned: records of erased persons that are new customers', with the time of the erasure.
        kept_out: rows that were left out.
    """

    hashes: Mapping[str, datetime] = field(default_factory=dict)
    key: ErasureKey | None = field(default=None, repr=False)
    test_domains: frozenset[str] = frozenset()
    anonymised: set[tuple[str, str]] = field(default_factory=set)
    returned: dict[tuple[str, str, str], datetime] = field(default_factory=dict)
    kept_out: int = 0

    def __bool__(self) -> bool:
        """Whether anybody was erased."""
        return bool(self.hashes)

    # ------------------------------------------------------------------ questions

    def erased_at(self, kind: str, *parts: Any) -> datetime | None:
        """When the person with an identifier was erased; None for everybody else."""
        if self.key is None or any(part is None for part in parts):
            return None
        return self.hashes.get(self.key.hash_of(kind, *map(str, parts)))

    def address_erased_at(self, address: Any) -> datetime | None:
        """As `erased_at`, of an address however it is spelled."""
        if not isinstance(address, str) or "@" not in address:
            return None
        return self.erased_at("address", normalise_address(address))

    def linked_erased_at(self, source: Any, key: Any) -> datetime | None:
        """As `erased_at`, of the record that another one names as its person's elsewhere."""
        return self.erased_at(
            "record", source, "contact" if source == "hubspot" else "customer", key
        )

    # ------------------------------------------------------------------ records

    def admit_all(self, source: str, table: str, rows: Iterable[Row]) -> list[Row]:
        """The rows of a table that may be loaded, in the form in which they may.

        Args:
            source: the source, as in sources.yml.
        """
        declared = RAW_ROWS.get(source, {}).get(table)
        if not self or declared is None:
            return list(rows)
        admitted = [self._admit(declared, source, row) for row in rows]
        found = [row for row in admitted if row is not None]
        self.kept_out += len(admitted) - len(found)
        return found

    def _admit(self, declared: RawRows, source: str, row: Row) -> Row | None:
        label = str(row.get(getattr(declared, "source", None) or "", source))
        if isinstance(declared, OrderRows):
            return self._order(declared, label, row)
        if isinstance(declared, RecordRows):
            return self._record(declared, label, row)
        if isinstance(declared, LinkRows):
            return self._link(declared, label, row)
        erased = self.address_erased_at(row.get(declared.address))
        return None if erased and not _is_after(row.get(declared.dated), erased) else row

    def _record(self, declared: RecordRows, label: str, row: Row) -> Row | None:
        row = self._without_blocked_link(declared, row)
        record = (label, declared.record_type, str(row.get(declared.key)))
        own = self.erased_at("record", *record)
        erased = _latest(own, self.address_erased_at(row.get(declared.address)))
        if erased is None:
            return row
        if not _is_after(row.get(declared.created), erased):
            since = _new_opt_in(declared, row, erased)
            if since is None:
                return None
            row = {**row, declared.created: since}
            if declared.history:
                row[declared.history] = [
                    change
                    for change in row.get(declared.history) or []
                    if _is_after(change.get("changed_at"), erased)
                ]
        if own is not None:
            self.returned[record] = own
        return row

    def _without_blocked_link(self, declared: RecordRows, row: Row) -> Row:
        if declared.link is None:
            return row
        source, key = (row.get(name) for name in declared.link)
        if self.linked_erased_at(source, key) is None:
            return row
        return {**row, **dict.fromkeys(declared.link)}

    def _order(self, declared: OrderRows, label: str, row: Row) -> Row:
        key, owner = str(row.get(declared.key)), row.get(declared.owner)
        has_owner = owner is not None and owner != declared.no_owner
        owned = self.erased_at("record", label, declared.owner_type, owner) if has_owner else None
        guest = self.erased_at("record", label, declared.guest_type, key)
        address = self.address_erased_at(row.get(declared.address))
        erased = _latest(owned, guest, address)
        if erased is None:
            return row
        if _is_after(row.get(declared.dated), erased):
            if owned is not None:
                self.returned[(label, declared.owner_type, str(owner))] = owned
            return row
        emptied = {
            **row,
            **dict.fromkeys(declared.personal),
            declared.address: anonymous_address(row.get(declared.address), self.test_domains),
        }
        if owned is None and has_owner:
            return emptied  # somebody else's order, with the erased person's address
        self.anonymised.add((label, key))
        return {**emptied, declared.owner: declared.no_owner}

    def _link(self, declared: LinkRows, label: str, row: Row) -> Row:
        erased = self.erased_at("record", label, declared.owner_type, row.get(declared.owner))
        if erased is None:
            return row
        if _is_after(row.get(declared.dated), erased):
            return row
        return {**row, declared.owner: None}

    # ------------------------------------------------------------------ quarantine

    def admit_rejections(self, rejections: Iterable[Rejection]) -> list[Rejection]:
        """The rejections that may be kept, in the form in which they may.

        A row that cannot be used is kept as it came. Of an erased person it is kept without its
        content, so that its place in the source can still be looked up; a person's own record,
        whose id would tell who it is, not at all.
        """
        if not self:
            return list(rejections)
        found = (self._admit_rejection(rejection) for rejection in rejections)
        return [rejection for rejection in found if rejection is not None]

    def _admit_rejection(self, rejection: Rejection) -> Rejection | None:
        declared = RAW_ROWS.get(rejection.source, {}).get(rejection.table_name)
        erased = _latest(
            *(self.address_erased_at(text) for text in texts_of(rejection.payload)),
            *self._ids_in(declared, rejection),
        )
        if erased is None or _is_after(_moment(declared, rejection.payload), erased):
            return rejection
        if isinstance(declared, RecordRows) and rejection.source != "files":
            self.kept_out += 1
            return None
        dataset = rejection.payload.get("dataset")
        return replace(rejection, payload={"dataset": dataset} if dataset else {})

    def _ids_in(self, declared: RawRows | None, rejection: Rejection) -> Iterable[datetime | None]:
        source, payload = rejection.source, rejection.payload
        if isinstance(declared, RecordRows):
            yield self.erased_at("record", source, declared.record_type, rejection.record_key)
        if isinstance(declared, OrderRows | LinkRows):
            yield self.erased_at("record", source, declared.owner_type, payload.get(declared.owner))
        if isinstance(declared, OrderRows):
            yield self.erased_at("record", source, declared.guest_type, rejection.record_key)

    # ------------------------------------------------------------------ afterwards

    def settle(self, connection: psycopg.Connection, as_of_date: date) -> None:
        """Keep what a load found out, in the caller's transaction and after the load."""
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into privacy.anonymised_orders (source, order_id) values (%s, %s) "
                "on conflict do nothing",
                sorted(self.anonymised),
            )
            cursor.executemany(
                "insert into history.customer_ids "
                "(source, source_record_type, source_id, customer_id, assigned_on) "
                "values (%s, %s, %s, %s, %s) on conflict do nothing",
                [
                    (*record, self._new_customer_id(record, erased), as_of_date)
                    for record, erased in sorted(self.returned.items())
                ],
            )

    def _new_customer_id(self, record: tuple[str, str, str], erased: datetime) -> str:
        assert self.key is not None  # noqa: S101 (a record returns by the key's hashes only)
        return self.key.hash_of("returned", *record, erased.astimezone(UTC).isoformat())[:32]


def read_blocklist(
    connection: psycopg.Connection, find_key: KeyFinder, test_domains: Iterable[str] = ()
) -> Blocklist:
    """What a load has to know of erased persons. Asks for the key only where there are any.

    Raises:
        CredentialError: persons were erased, and the key is missing or another one.
    """
    rows = connection.execute("select hash, erased_at from privacy.blocked_hashes").fetchall()
    if not rows:
        return Blocklist()
    key = find_key()
    require_same_key(connection, key)
    return Blocklist(dict(rows), key, frozenset(domain.lower() for domain in test_domains))


def leave_out_erased_states(
    connection: psycopg.Connection, destination: str, find_key: KeyFinder
) -> int:
    """Take erased persons out of the temporary table ``read_states`` before it is merged.

    What the tool says from after the erasure stays. So does a suppression without a date once the
    tool has erased the contact: then it is about one that was made since.

    Returns:
        The number of contacts that were left out.
    """
    # With this lock an erasure that begins now cleans the table after us.
    connection.execute("lock table activation.subscriber_states in row exclusive mode")
    rows = connection.execute(
        "select hash, erased_at from privacy.blocked_hashes where kind = 'address' "
        "and blocks_states"
    ).fetchall()
    if not rows:
        return 0
    key = find_key()
    require_same_key(connection, key)
    erased = Blocklist(dict(rows), key)
    waiting = connection.execute(
        "select count(*) from privacy.erasure_places where place = %s and state = 'pending'",
        (f"destination {destination}",),
    ).fetchone()
    is_pending = waiting is not None and waiting[0] > 0
    found = [
        (address,)
        for address, state, changed_at in connection.execute(
            "select address, state, state_changed_at from read_states"
        )
        if (moment := erased.address_erased_at(address)) is not None
        and not _is_after(changed_at, moment)
        and (is_pending or changed_at is not None or state not in SUPPRESSING_STATES)
    ]
    with connection.cursor() as cursor:
        cursor.executemany("delete from read_states where address = %s", found)
    return len(found)


def anonymous_address(address: Any, test_domains: Iterable[str]) -> str | None:
    """What stands in the place of an erased address: nothing, except that a tester's order keeps
    the domain that tells it from a sale."""
    domain = str(address or "").strip().rpartition("@")[2].lower()
    return f"{_ERASED_LOCAL_PART}@{domain}" if domain and domain in set(test_domains) else None


def texts_of(value: Any) -> Iterable[str]:
    """All texts within a payload."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def _new_opt_in(declared: RecordRows, row: Row, erased: datetime) -> datetime | None:
    """The first opt-in after the erasure that the record shows."""
    moments: list[datetime] = []
    if declared.opt_in:
        state, moment = (row.get(name) for name in declared.opt_in)
        is_opt_in = str(state or "").strip().lower() in _OPT_INS
        if is_opt_in and isinstance(moment, datetime) and moment > erased:
            moments.append(moment)
    for change in row.get(declared.history or "") or []:
        value = str(change.get("value") or "").lower()
        confirmed = value in ("confirmed", "double_opt_in") or "pending" in value
        if (
            change.get("property") == _CONFIRMATION
            and confirmed
            and _is_after(change.get("changed_at"), erased)
        ):
            moments.append(change["changed_at"])
    return min(moments, default=None)


def _moment(declared: RawRows | None, payload: Mapping[str, Any]) -> datetime | None:
    """When a record that was rejected came to be, as far as it can be told."""
    if declared is None:
        return None
    name = declared.created if isinstance(declared, RecordRows) else declared.dated
    properties = payload.get("properties")
    value = payload.get(name)
    if value is None and isinstance(properties, Mapping):
        value = properties.get(name)
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_after(moment: Any, erased: datetime) -> bool:
    """Whether something happened after an erasure; what has no date did not."""
    return isinstance(moment, datetime) and moment > erased


def _latest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)
