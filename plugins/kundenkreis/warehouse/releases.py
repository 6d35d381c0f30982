"""Works the quarantine off: what an engineer has decided to be right comes back in the next night.

A release speaks of one record exactly as it was rejected, with corrections or without. It holds
for as long as the source sends exactly that: the record's next reading takes the corrections again,
so a file that is read anew does not lose them. When the source changes the record, the release no
longer fits and the new version is judged by itself.

The sources apply releases (`kundenkreis.sources.base`); what they found out is settled here, after
the load. A night that dies in between finds the release waiting and does the same once more.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from kundenkreis.errors import DataError
from kundenkreis.warehouse.quarantine import Rejection, record_hash

# --------------------------------------------------------------------------- what is known


@dataclass(frozen=True)
class Release:
    """A release that holds.

    Attributes:
        payload: the record as it was rejected.
        corrections: field to the value to use instead; a field of a nested record by its path, for
            example ``billing.country``.
        is_waiting: it has not come back yet.
    """

    record_hash: str
    table_name: str
    record_key: str | None
    payload: Mapping[str, Any] = field(repr=False)
    corrections: Mapping[str, Any] = field(repr=False)
    is_waiting: bool


@dataclass(frozen=True)
class Pending:
    """A record that is open or released: what has to be known of it to close it."""

    table_name: str
    record_key: str | None
    dataset: str | None


@dataclass
class Quarantined:
    """What the quarantine of a source holds when a run begins, and what the run found out.

    Attributes:
        releases: by record hash.
        pending: by record hash.
        loaded: hashes of released records that are in this load.
        refused: released records that are still wrong, with what is wrong.
        arrived: hashes of records of which the source sent a version that loads.
        gone: hashes of records that what is read now no longer has.
    """

    releases: Mapping[str, Release] = field(default_factory=dict)
    pending: Mapping[str, Pending] = field(default_factory=dict)
    loaded: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Index the pending records by what a loaded row knows of itself."""
        self._by_key: dict[tuple[str, str], set[str]] = {}
        for name, record in self.pending.items():
            if record.record_key is not None:
                self._by_key.setdefault((record.table_name, record.record_key), set()).add(name)

    def release_of(self, rejection: Rejection) -> Release | None:
        """The release of exactly this record; None where there is none."""
        return self.releases.get(record_hash(rejection)) if self.releases else None

    def waiting(self, table_name: str) -> list[Release]:
        """The table's releases that this run has not met yet."""
        met = self.loaded | self.refused.keys() | self.arrived | self.gone
        return [
            release
            for release in self.releases.values()
            if release.is_waiting
            and release.table_name == table_name
            and release.record_hash not in met
        ]

    def digest(self, dataset: str) -> str:
        """A text that differs where a dataset of files has to be read again for its releases."""
        own = [
            (release.record_hash, json.dumps(dict(release.corrections), sort_keys=True))
            for release in self.releases.values()
            if release.payload.get("dataset") == dataset
        ]
        return hashlib.sha256(json.dumps(sorted(own)).encode()).hexdigest()[:32] if own else ""

    def was_read(self, dataset: str, files: set[str], rejected: set[str]) -> None:
        """A dataset of files was read as a whole; what it rejects now is all that is wrong with it.

        Args:
            files: names of the files that are there.
            rejected: hashes of what was rejected in this run.
        """
        for name, record in self.pending.items():
            if record.dataset != dataset or name in rejected or name in self.loaded:
                continue
            file = (record.record_key or "").rpartition(":")[0]
            if file in files:
                self.gone.add(name)
            elif name in self.releases and self.releases[name].is_waiting:
                self.refused[name] = (
                    "its file is no longer there; put it back, or add the row to another file"
                )

    def loads(self, table_name: str, key: Any) -> None:
        """A row with this key loads as the source sent it."""
        self.arrived |= self._by_key.get((table_name, str(key)), set())

    def rejects(self, table_name: str, key: str | None) -> None:
        """A later version of a row that loaded before in this run is wrong again."""
        if key is not None:
            self.arrived -= self._by_key.get((table_name, key), set())


_RELEASES = """
select
    records.record_hash,
    records.table_name,
    records.record_key,
    records.payload,
    latest.corrections,
    latest.outcome = 'waiting'
from quarantine.rejected_records as records
inner join quarantine.latest_releases as latest using (record_hash)
where
    records.source = %s
    and records.rejected_by = 'extract'
    and latest.outcome in ('waiting', 'loaded')
order by records.record_hash
"""

_PENDING = """
select record_hash, table_name, record_key, payload ->> 'dataset'
from quarantine.rejected_records
where source = %s and rejected_by = 'extract' and state in ('open', 'released')
"""


def read_quarantined(connection: psycopg.Connection, source: str) -> Quarantined:
    """What a source's next extract has to know."""
    releases = [Release(*row) for row in connection.execute(_RELEASES, (source,))]
    pending = connection.execute(_PENDING, (source,)).fetchall()
    return Quarantined(
        releases={release.record_hash: release for release in releases},
        pending={name: Pending(*rest) for name, *rest in pending},
    )


def corrected(payload: Mapping[str, Any], corrections: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its corrections.

    Raises:
        DataError: a path leads nowhere.
    """
    result: dict[str, Any] = copy.deepcopy(dict(payload))
    for path, value in corrections.items():
        _set(result, path, value)
    return result


def _set(record: Any, path: str, value: Any) -> None:
    here, steps = record, path.split(".")
    for step in steps[:-1]:
        here = _step(here, step, path)
    last = steps[-1]
    if isinstance(here, dict):
        here[last] = value
    elif isinstance(here, list) and last.isdigit() and int(last) < len(here):
        here[int(last)] = value
    else:
        raise _nowhere(path, last)


def _step(here: Any, step: str, path: str) -> Any:
    if isinstance(here, dict):
        return here.setdefault(step, {})
    if isinstance(here, list) and step.isdigit() and int(step) < len(here):
        return here[int(step)]
    raise _nowhere(path, step)


def _nowhere(path: str, step: str) -> DataError:
    return DataError(f"--set {path}: there is no {step} in the record to set.")


# --------------------------------------------------------------------------- settling


def settle(connection: psycopg.Connection, found: Quarantined, run_id: str) -> None:
    """Keep what a run found out, in the caller's transaction and after its load.

    Doing it again changes nothing.
    """
    for name, reason in found.refused.items():
        connection.execute(
            "update quarantine.rejected_records set state = 'open', closed_at = null, "
            "closed_because = null, reason = %s, run_id = %s, last_rejected_at = now() "
            "where record_hash = %s",
            (f"Released, but still: {reason}", run_id, name),
        )
        _settle_release(connection, [name], "rejected", reason, run_id)
    _close(connection, found.loaded, "released")
    _settle_release(connection, found.loaded, "loaded", None, run_id)
    arrived = found.arrived - found.loaded - found.refused.keys()
    gone = found.gone - arrived - found.loaded - found.refused.keys()
    _close(connection, arrived, "arrived")
    _close(connection, gone, "no_longer_rejected")
    _settle_release(connection, arrived | gone, "arrived", None, run_id)


def _close(connection: psycopg.Connection, names: Iterable[str], because: str) -> None:
    connection.execute(
        "update quarantine.rejected_records set state = 'closed', closed_at = now(), "
        "closed_because = %s where record_hash = any(%s) and state <> 'closed'",
        (because, list(names)),
    )


def _settle_release(
    connection: psycopg.Connection,
    names: Iterable[str],
    outcome: str,
    reason: str | None,
    run_id: str,
) -> None:
    # A release that was loaded once may turn out wrong later, when the configuration changes.
    before = ["waiting", "loaded"] if outcome == "rejected" else ["waiting"]
    connection.execute(
        "update quarantine.releases set outcome = %s, outcome_reason = %s, settled_at = now(), "
        "run_id = %s where record_hash = any(%s) and outcome = any(%s)",
        (outcome, reason, run_id, list(names), before),
    )


_CLOSE_OF_MODEL = """
update quarantine.rejected_records
set
    state = 'closed',
    closed_at = now(),
    closed_because = case state when 'released' then 'released' else 'no_longer_rejected' end
where rejected_by = %s and run_id <> %s and state <> 'closed'
returning record_hash, closed_because
"""


def close_of_model(connection: psycopg.Connection, model: str, run_id: str) -> int:
    """Close what a dbt model rejected before and does not reject any more.

    Call it after all rejections of this run were recorded.
    """
    closed = connection.execute(_CLOSE_OF_MODEL, (model, run_id)).fetchall()
    released = [name for name, because in closed if because == "released"]
    _settle_release(connection, released, "loaded", None, run_id)
    return len(closed)


# --------------------------------------------------------------------------- allowances of models

_RATES = """
select source, order_id, currency, rate from operations.released_exchange_rates
where outcome = any(%s)
order by source, order_id, record_hash
"""


def released_exchange_rates(
    connection: psycopg.Connection, *, with_waiting: bool = False
) -> list[dict[str, str]]:
    """The rates that releases give to single orders, for the dbt variable of that name.

    Args:
        with_waiting: also those that no build has taken up yet: for the build that is to do so.
    """
    outcomes = ["loaded", "waiting"] if with_waiting else ["loaded"]
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_RATES.encode(), (outcomes,)).fetchall()
    # One order may have been rejected in several versions; the same rate is meant once.
    unique = {(row["source"], row["order_id"], row["currency"]): row for row in rows}
    return list(unique.values())


# --------------------------------------------------------------------------- working off


@dataclass(frozen=True)
class Record:
    """A rejected record as the quarantine keeps it."""

    record_hash: str
    source: str
    table_name: str
    record_key: str | None
    reason_code: str
    reason: str
    payload: Mapping[str, Any] = field(repr=False)
    rejected_by: str
    state: str
    run_id: str
    first_rejected_at: datetime
    last_rejected_at: datetime
    released_at: datetime | None
    released_by: str | None
    release_note: str | None
    closed_at: datetime | None
    closed_because: str | None


_COLUMNS = (
    "record_hash, source, table_name, record_key, reason_code, reason, payload, rejected_by, "
    "state, run_id, first_rejected_at, last_rejected_at, released_at, released_by, release_note, "
    "closed_at, closed_because"
)
_SHORTEST_HASH = 6


@dataclass(frozen=True)
class Filter:
    """Which records are meant; None: all."""

    state: str | None = "open"
    source: str | None = None
    table: str | None = None
    reason: str | None = None


_WHERE = """
where
    (%(state)s::text is null or state = %(state)s)
    and (%(source)s::text is null or source = %(source)s)
    and (%(table)s::text is null or table_name = %(table)s)
    and (%(reason)s::text is null or reason_code = %(reason)s)
"""


def find(
    connection: psycopg.Connection, wanted: Filter, limit: int | None = None
) -> tuple[list[Record], int]:
    """The records that are meant, the newest first, and how many there are without the limit."""
    values = {**vars(wanted), "limit": limit}
    count = connection.execute(
        f"select count(*) from quarantine.rejected_records {_WHERE}".encode(), values
    ).fetchone()
    rows = connection.execute(
        f"select {_COLUMNS} from quarantine.rejected_records {_WHERE} "
        "order by last_rejected_at desc, source, table_name, record_key, record_hash "
        "limit %(limit)s".encode(),
        values,
    )
    return [Record(*row) for row in rows], count[0] if count else 0


def find_one(connection: psycopg.Connection, prefix: str) -> Record:
    """The record whose hash begins with a text, as `kundenkreis quarantine list` shows it.

    Raises:
        DataError: there is none, or more than one.
    """
    if len(prefix) < _SHORTEST_HASH or not all(char in "0123456789abcdef" for char in prefix):
        raise DataError(
            f"'{prefix}' is no record: give the first {_SHORTEST_HASH} characters or more of what "
            "`kundenkreis quarantine list` shows as record."
        )
    rows = connection.execute(
        f"select {_COLUMNS} from quarantine.rejected_records "
        "where starts_with(record_hash, %s) limit 2".encode(),
        (prefix,),
    ).fetchall()
    if not rows:
        raise DataError(
            f"There is no record {prefix} in quarantine. `kundenkreis quarantine list --state all` "
            "lists what there is."
        )
    if len(rows) > 1:
        raise DataError(f"More than one record begins with {prefix}; give more characters.")
    return Record(*rows[0])


def releases_of(connection: psycopg.Connection, name: str) -> list[dict[str, Any]]:
    """All releases of a record, the oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select released_at, released_by, note, corrections, outcome, outcome_reason, "
            "settled_at, run_id from quarantine.releases where record_hash = %s "
            "order by release_id",
            (name,),
        ).fetchall()


def add_release(
    connection: psycopg.Connection,
    record: Record,
    corrections: Mapping[str, Any],
    by: str,
    note: str,
) -> None:
    """Release a record whose corrections were checked. A release that waits is replaced.

    Raises:
        DataError: it is closed already.
    """
    row = connection.execute(
        "update quarantine.rejected_records set state = 'released', released_at = now(), "
        "released_by = %s, release_note = %s where record_hash = %s and state <> 'closed' "
        "returning 1",
        (by, note, record.record_hash),
    ).fetchone()
    if row is None:
        raise closed_already(record)
    _settle_release(connection, [record.record_hash], "replaced", None, record.run_id)
    connection.execute(
        "insert into quarantine.releases (record_hash, released_by, note, corrections) "
        "values (%s, %s, %s, %s)",
        (record.record_hash, by, note, json.dumps(dict(corrections))),
    )


def closed_already(record: Record) -> DataError:
    """The error for a record that nobody has to work off any more."""
    return DataError(
        f"Record {record.record_hash[:12]} is closed already ({record.closed_because}); nothing is "
        "left to release."
    )


def shape_of(value: Any) -> Any:
    """A payload without its values: letters as x, digits as 9, so that only the form shows."""
    if isinstance(value, Mapping):
        return {key: shape_of(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [shape_of(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    text = "".join("x" if c.isalpha() else "9" if c.isdigit() else c for c in str(value))
    return text if len(text) <= 40 else f"{text[:40]}…"
