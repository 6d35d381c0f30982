"""What every email tool has to be able to do, and the plain data that passes between it and us.

A destination knows one vendor's API and nothing about the warehouse, the plan or the ledger. It
never decides who gets what. Three rules hold for all of them (design: Activation):

* no consent or status field is ever sent for a contact the tool already knows;
* the outcome of a row is read from the answer's body, row by row, not from the HTTP status;
* every call is an idempotent upsert, add or remove, because it may be repeated.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from kundenkreis.errors import VendorError
from kundenkreis.http import OutcomeUnknown, RefusedRequest
from kundenkreis.redaction import redact

Created = TypeVar("Created")
State = Literal[
    "subscribed", "unsubscribed", "bounced", "complained", "pending", "blocklisted", "archived"
]
Evidence = Literal["double", "single"]
Operation = Literal["upsert", "add", "remove"]
AttributeType = Literal["text", "number", "date"]
AttributeValue = str | int | float | bool | None

SUPPRESSING_STATES: frozenset[str] = frozenset(
    {"unsubscribed", "bounced", "complained", "pending", "blocklisted", "archived"}
)
"""States in which a contact is never written to. Leaving an audience stays allowed."""


_TOO_LARGE = 413
_BLANKS = " \t\r\n\u00a0\u200b"

CONTACT_EXISTS = "contact_exists"
"""Reason code of a refused creation: the tool got to know the contact in the meantime."""


@dataclass(frozen=True)
class Capabilities:
    """What a tool can do, so that plan and delivery fit their calls to it.

    batch_size: rows of an operation that are handed over, and settled, together.
    rows_per_call: rows that one HTTP call carries.
    membership: what an audience is in this tool.
    rate_limit: shape of its limit: ``none``, ``concurrency`` or ``window``.
    parallel_batches: batches of one operation that may be under way at once.
    batches_waiting: how many more are begun, made into requests, and wait for a turn of the
        connector's client, so that no connection idles while the next request is written.
    reads_members: whether an audience can be read back.
    async_jobs: `Destination.deliver` may answer `Submitted`; the tool is an `AsyncDestination`.
    parallel_calls: calls that one batch may have under way at once.
    calls_per_minute: the rate that the vendor publishes; None where it publishes none.
    """

    batch_size: Mapping[Operation, int]
    rows_per_call: Mapping[Operation, int]
    membership: Literal["list", "tag", "segment"]
    rate_limit: Literal["none", "concurrency", "window"]
    parallel_batches: int = 1
    batches_waiting: int = 0
    reads_members: bool = True
    async_jobs: bool = False
    parallel_calls: int = 1
    calls_per_minute: float | None = None


# A tuple, because there is one for each contact, and a frozen dataclass takes three times as long.
class SubscriberState(NamedTuple):
    """What the tool says about one of its contacts. ``address`` is lower case.

    ``evidence`` is the opt-in the tool can vouch for; None when it has none of its own.
    """

    address: str
    state: State
    evidence: Evidence | None
    state_changed_at: datetime | None
    vendor_id: str


class Row(NamedTuple):
    """One thing to do: set attributes (upsert), or join or leave the batch's audience.

    vendor_id: the tool's id of the contact; None when the tool does not know it.
    may_create: there is recorded proof, and the team allows contacts to be created.
    attributes: only what changed; None clears a value.
    """

    key: str
    address: str
    vendor_id: str | None = None
    may_create: bool = False
    attributes: Mapping[str, AttributeValue] = MappingProxyType({})


@dataclass(frozen=True)
class Batch:
    """Rows of one operation; for add and remove all of one audience (the tool's id of it)."""

    operation: Operation
    rows: Sequence[Row]
    audience_id: str | None = None


class Outcome(NamedTuple):
    """What became of one row, by its ``key``.

    vendor_id: the contact's id when this call created it. reason never holds an address.
    """

    key: str
    state: Literal["confirmed", "rejected"]
    reason_code: str | None = None
    reason: str | None = None
    vendor_id: str | None = None
    created: bool = False


@dataclass(frozen=True)
class Submitted:
    """The vendor took the batch and works on it; `AsyncDestination.poll` asks how it went."""

    job_id: str


class JobLost(VendorError):
    """The vendor no longer knows a job, so what became of its rows is unknown."""


@dataclass(frozen=True)
class Audience:
    """An audience in the tool. ``created``: it was not there before this call."""

    vendor_id: str
    created: bool


class Destination(Protocol):
    """One connected email tool. `VendorError` and `CredentialError` come out of every method."""

    name: str
    capabilities: Capabilities

    @property
    def calls(self) -> int:
        """HTTP requests made so far."""
        ...

    def read_subscriber_states(
        self, our_audience_ids: frozenset[str]
    ) -> Iterator[list[SubscriberState]]:
        """All contacts of the tool, in pages.

        Membership of the audiences in ``our_audience_ids`` is never evidence of an opt-in: we put
        people there. Leaving one of them is a withdrawal.
        """
        ...

    def ensure_audience(self, name: str, known_id: str | None) -> Audience:
        """The tool's audience for ``known_id`` if it still exists, else by name, else a new one."""
        ...

    def ensure_attributes(self, types: Mapping[str, AttributeType]) -> None:
        """Make sure the tool has a place for every attribute."""
        ...

    def deliver(self, batch: Batch) -> list[Outcome] | Submitted:
        """Carry out a batch; one outcome per row, in any order, duplicates included.

        `Submitted` where the vendor works on it later. A failure of the whole batch raises; then
        nothing is known about its rows.
        """
        ...

    def read_members(self, audience_id: str) -> Iterator[list[str]]:
        """The lower-cased addresses in an audience, in pages."""
        ...

    def erase(self, address: str) -> bool:
        """Delete a contact and what the tool knows of it. False when there was none."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class AsyncDestination(Destination, Protocol):
    """A tool whose `Capabilities.async_jobs` is set."""

    def poll(self, job_id: str, batch: Batch) -> list[Outcome] | None:
        """One outcome per row of the submitted batch; None while the job is still running.

        After a restart the batch is built from the ledger: keys, addresses, attributes, audience
        and operation are those that were submitted, ids are what the tool said last.

        Raises:
            JobLost: the vendor no longer knows the job.
        """
        ...


def normalise_address(address: str) -> str:
    """The form addresses are compared in, the same as dbt's macro ``normalised_email``: an address
    that a tool shows with ``bücher.example`` is the one that the warehouse knows in ASCII.
    """
    trimmed = address.strip(_BLANKS).lower()
    if trimmed.isascii():
        return trimmed
    local, at, domain = trimmed.rpartition("@")
    if not domain.isascii():
        labels = unicodedata.normalize("NFC", domain).split(".")
        domain = ".".join(
            label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
            for label in labels
        )
    return f"{local}{at}{domain}"


def spellings(address: str) -> tuple[str, ...]:
    """The forms a tool may know an address by: normalised, and with its domain in Unicode."""
    normalised = normalise_address(address)
    local, at, domain = normalised.rpartition("@")
    readable = ".".join(_readable_label(label) for label in domain.split("."))
    return (normalised,) if readable == domain else (normalised, f"{local}{at}{readable}")


def _readable_label(label: str) -> str:
    """A label of a domain in Unicode; one that is no valid punycode stays as it is."""
    if not label.startswith("xn--"):
        return label
    try:
        return label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return label


def one_row_per_address(rows: Iterable[Row]) -> tuple[dict[str, Row], dict[str, list[str]]]:
    """Fold duplicates in a batch: the last row of an address is the one to send.

    Returns the rows by address and, by address, the keys of all rows that share it.
    """
    by_address: dict[str, Row] = {}
    keys: dict[str, list[str]] = {}
    for row in rows:
        address = normalise_address(row.address)
        by_address[address] = row
        keys.setdefault(address, []).append(row.key)
    return by_address, keys


@dataclass
class RowLimit:
    """How many rows a tool takes in one call: what it documents, less where it proved too many."""

    rows: int


def deliver_isolating(
    rows: Sequence[Row],
    send: Callable[[Sequence[Row]], list[Outcome]],
    limit: RowLimit | None = None,
) -> list[Outcome]:
    """Send rows together; where the tool refuses the request, halve it until the bad rows stand
    alone. One unusable row never costs the others their delivery.

    ``send`` returns an outcome per row or raises `RefusedRequest` for all of them.

    Args:
        limit: kept by the connector from call to call. A request that was too large (413) lowers
            it to the most that went through instead, so that no later one is refused for that.
    """
    size = min(limit.rows, len(rows)) if limit else len(rows)
    outcomes: list[Outcome] = []
    for start in range(0, len(rows), max(size, 1)):
        part = rows[start : start + size]
        found, largest, was_too_large = _isolate(part, send)
        outcomes += found
        if limit and was_too_large and largest:
            limit.rows = min(limit.rows, largest)
    return outcomes


def _isolate(
    rows: Sequence[Row], send: Callable[[Sequence[Row]], list[Outcome]]
) -> tuple[list[Outcome], int, bool]:
    """Outcomes, the most rows that went through in one call, and whether any call was too large."""
    try:
        return send(rows), len(rows), False
    except RefusedRequest as refused:
        was_too_large = refused.status == _TOO_LARGE
        if len(rows) == 1:
            code = refused.code or f"http_{refused.status}"
            return [rejected(rows[0].key, code)], 0, was_too_large
    middle = len(rows) // 2
    first, second = _isolate(rows[:middle], send), _isolate(rows[middle:], send)
    return (
        [*first[0], *second[0]],
        max(first[1], second[1]),
        was_too_large or first[2] or second[2],
    )


def create_once(create: Callable[[], Created], find: Callable[[], Created | None]) -> Created:
    """Create something a repeat would make twice: when no answer comes, look before repeating.

    Raises `OutcomeUnknown` when three attempts neither answer nor leave anything behind.
    """
    for _ in range(2):
        try:
            return create()
        except OutcomeUnknown:
            if (found := find()) is not None:
                return found
    return create()


def rejected(key: str, code: str, reason: str | None = None) -> Outcome:
    """A row the tool refused. Addresses in the vendor's text are blanked out."""
    return Outcome(key, "rejected", redact(code)[:80], redact(reason)[:300] if reason else None)


def share_outcomes(
    outcomes: Iterable[Outcome], keys: Mapping[str, list[str]], by_address: Mapping[str, Row]
) -> list[Outcome]:
    """Give every duplicate the outcome of the row that was sent for its address."""
    if len(keys) == sum(map(len, keys.values())):
        return list(outcomes)
    by_key = {outcome.key: outcome for outcome in outcomes}
    shared: list[Outcome] = []
    for address, same in keys.items():
        outcome = by_key[by_address[address].key]
        shared += [outcome if key == outcome.key else outcome._replace(key=key) for key in same]
    return shared


def parse_time(value: Any) -> datetime | None:
    """An ISO 8601 time with a zone; None for nothing, for nonsense and for a time without zone."""
    if not isinstance(value, str) or not value:
        return None
    try:
        moment = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
