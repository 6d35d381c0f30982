"""Keeps the rows that could not be used, with the reason (design: Warehouse, `quarantine`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

_BATCH = 1_000

_INSERT = """
insert into quarantine.rejected_records
    (record_hash, source, table_name, record_key, reason_code, reason, payload, run_id)
values (%s, %s, %s, %s, %s, %s, %s, %s)
on conflict (record_hash) do update
    set run_id = excluded.run_id, reason = excluded.reason, last_rejected_at = now()
"""


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
    """

    source: str
    table_name: str
    record_key: str | None
    reason_code: str
    reason: str
    payload: Mapping[str, Any] = field(default_factory=dict, repr=False)


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


def _parameters(rows: Iterable[Rejection], run_id: str) -> Iterator[tuple[Any, ...]]:
    for row in rows:
        payload = _dumps(dict(row.payload))
        identity = "\x1f".join(
            (row.source, row.table_name, row.record_key or "", row.reason_code, payload)
        )
        yield (
            hashlib.md5(identity.encode(), usedforsecurity=False).hexdigest(),
            row.source,
            row.table_name,
            row.record_key,
            row.reason_code,
            row.reason,
            Jsonb(dict(row.payload), dumps=_dumps),
            run_id,
        )


def _dumps(value: Any) -> str:
    import json

    # A NUL cannot be stored in jsonb; the replacement keeps the rest of the row.
    return json.dumps(value, default=_plain, sort_keys=True, ensure_ascii=False).replace(
        "\\u0000", "\\ufffd"
    )


def _plain(value: Any) -> str:
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(value)
