"""What survives a kill: parameters, clock, the email tools' documents, faults, the request log.

SQLite with a write-ahead log and without fsync: a transaction that was committed before the process
was killed is there afterwards (only a crash of the whole machine could lose it). A request's
changes and its log row are one transaction, committed before the answer leaves.
"""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

_SCHEMA = """
create table if not exists meta (key text primary key, value text not null);
create table if not exists documents (
    kind text not null, key text not null, document text not null, primary key (kind, key)
);
create table if not exists requests (
    seq integer primary key autoincrement, vendor text not null, method text not null,
    path text not null, status integer not null, members integer not null, fault text,
    query text not null, body text not null
);
"""


class Store:
    """The sandbox's file. All methods are synchronous and quick."""

    def __init__(self, path: Path | None) -> None:
        self._database = sqlite3.connect(
            path or ":memory:", isolation_level=None, check_same_thread=False
        )
        self._database.executescript(
            "pragma journal_mode = wal; pragma synchronous = off;" + _SCHEMA
        )
        self._dirty: dict[tuple[str, str], Any] = {}

    def meta(self, key: str, default: Any = None) -> Any:
        """A value kept under `key`."""
        row = self._database.execute("select value from meta where key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value at once."""
        self._database.execute(
            "insert or replace into meta (key, value) values (?, ?)", (key, json.dumps(value))
        )

    def put(self, kind: str, key: object, document: Any) -> None:
        """Keep a document, as it will be at the next `commit`; None removes it."""
        self._dirty[(kind, str(key))] = document

    def documents(self, kind: str) -> dict[str, Any]:
        """All committed documents of a kind, in the order of their numeric or text keys."""
        rows = self._database.execute(
            "select key, document from documents where kind = ? order by cast(key as integer), key",
            (kind,),
        )
        return {key: json.loads(document) for key, document in rows}

    def commit(self, request: tuple[Any, ...] | None = None, **meta: Any) -> None:
        """Write everything put since the last commit, a request log row and meta values."""
        database = self._database
        if not (self._dirty or request or meta):
            return
        database.execute("begin immediate")
        try:
            kept = [
                (kind, key, json.dumps(document, ensure_ascii=False))
                for (kind, key), document in self._dirty.items()
                if document is not None
            ]
            gone = [place for place, document in self._dirty.items() if document is None]
            database.executemany("insert or replace into documents values (?, ?, ?)", kept)
            database.executemany("delete from documents where kind = ? and key = ?", gone)
            for key, value in meta.items():
                self.set_meta(key, value)
            if request is not None:
                database.execute(
                    "insert into requests"
                    " (vendor, method, path, status, members, fault, query, body)"
                    " values (?, ?, ?, ?, ?, ?, ?, ?)",
                    request,
                )
            database.execute("commit")
        except BaseException:
            database.execute("rollback")
            raise
        self._dirty.clear()

    def requests(self, bodies: bool) -> list[dict[str, Any]]:
        """The request log, oldest first; queries and bodies hold addresses, so on demand only."""
        columns = ["seq", "vendor", "method", "path", "status", "members", "fault"]
        if bodies:
            columns += ["query", "body"]
        rows = self._database.execute(f"select {', '.join(columns)} from requests order by seq")
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def clear_requests(self) -> None:
        """Forget the request log; numbers go on."""
        self._database.execute("delete from requests")

    def close(self) -> None:
        """Close the file."""
        self._database.close()
