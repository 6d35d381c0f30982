"""Keeps the rows that could not be used, with the reason (design: Warehouse, `quarantine`)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import islice
from typing import Any

import psycopg

_BATCH = 1_000

# What had been closed because the source put it right is open again when it is rejected again; what
# came back by a release stays closed, because the source only repeats what was decided upon.
_INSERT = """
insert into quarantine.rejected_records as known
    (record_hash, source, table_name, record_key, reason_code, reason, payload, run_id, rejected_by)
values (%s, %s, %s, %s, %s, %s, %s::jsonb, %s, %s)
on conflict (record_hash) do update set
    run_id = excluded.run_id,
    reason = excluded.reason,
    -- Retention may have taken it.
    payload = excluded.payload,
    last_rejected_at = now(),
    rejected_by = excluded.rejected_by,
    state = case when known.closed_because <> 'released' then 'open' else known.state end,
    closed_at = case when known.closed_because <> 'released' then null else known.closed_at end,
    closed_because =
        case when known.closed_because <> 'released' then null else known.closed_because end
"""

EXTRACT = "extract"


@dataclass(frozen=True)
class Rejection:
    """One row that could not be used.

    Attributes:
        source: the source's name, for example ``woocommerce``.
        table_name: the raw table it was meant for.
        record_key: the vendor's own id, or file and line; None where there is none.
        reason_code: short and stable, for example ``invalid_date``.
        reason: one sentence for a person; names the field and the rule, not the value.
        payload: the row as received.
        rejected_by: ``extract``, or the dbt model that rejects it.
    """

    source: str
    table_name: str
    record_key: str | None
    reason_code: str
    reason: str
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False)
    rejected_by: str = EXTRACT


def record_rejections(
    connection: psycopg.Connection, rows: Iterable[Rejection], run_id: str
) -> int:
    """Write rejections in the caller's transaction; the same rejection again only renews its run.

    Returns:
        The number of rows handed in.
    """
    count = 0
    iterator = iter(rows)
    with connection.cursor() as cursor:
        while batch := list(islice(iterator, _BATCH)):
            cursor.executemany(_INSERT, list(_parameters(batch, run_id)))
            count += len(batch)
    return count


def record_hash(row: Rejection) -> str:
    """What makes a rejection the same one: source, table, key, reason and payload."""
    return _identity(row, _key_of(row), _payload_of(row))


def _identity(row: Rejection, key: str | None, payload: str) -> str:
    identity = "\x1f".join((row.source, row.table_name, key or "", row.reason_code, payload))
    return hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest()


def _key_of(row: Rejection) -> str | None:
    return None if row.record_key is None else _storable(row.record_key)


def _payload_of(row: Rejection) -> str:
    return json.dumps(_plain(row.payload), sort_keys=True, ensure_ascii=False)


def _parameters(rows: Iterable[Rejection], run_id: str) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        key, payload = _key_of(row), _payload_of(row)
        yield (
            _identity(row, key, payload),
            row.source,
            row.table_name,
            key,
            row.reason_code,
            _storable(row.reason),
            payload,
            run_id,
            row.rejected_by,
        )


def _plain(value: Any) -> Any:
    """What jsonb can hold. A row is kept however odd it is: it is here because it is odd."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {_storable(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    return _storable(str(value))


def _storable(text: str) -> str:
    """PostgreSQL's text holds neither a NUL nor half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode("utf-8", errors="replace").decode()
