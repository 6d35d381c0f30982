"""Delivery at size: the engine with its ledger, beside drt and a floor, against one lean tool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks import predictions
from kundenkreis.settings import repository_root

DRT = "drt-core[postgres]==1.2.1"
"""The peer, in an environment of its own; no dependency."""

ROWS_PER_CALL = 500
LATENCIES_MS = (0, 100)
CONNECTION_LIMIT = 10
LIMITED_LATENCY_MS = 1000
WINDOW_CALLS, WINDOW_SECONDS = 20, 2.0

Progress = Callable[[str], None]

# What dbt's plan of a first night is, without the customers behind it.
_TABLES = """
create table activation.plan_rows (
    plan_row_id text, publication_id bigint, run_id text, destination text, audience text,
    segment text, customer_id text, operation text, address text, attributes text,
    changed_fields text, payload_hash text, status text, status_reason text,
    planned_at timestamptz, may_create boolean
);
create schema if not exists marts;
create view marts.contactability as
    select cast(null as text) as customer_id, cast(null as text) as address where false;
create view marts.customer_360 as
    select
        cast(null as text) as first_name,
        cast(null as text) as stage,
        cast(null as text) as rfm_segment,
        cast(null as bigint) as orders,
        cast(null as numeric(18, 4)) as monetary,
        cast(null as date) as last_order
    where false;
"""
_FORGET = (
    "truncate activation.ledger, activation.delivered_state, activation.subscriber_states,"
    " activation.audiences, activation.sync_runs, activation.plan_rows,"
    " history.publications restart identity"
)
# Attributes as jsonb writes them, which is how dbt's plan holds them.
_PLAN = """
insert into activation.plan_rows
select
    md5(%(publication)s || '|' || step.operation || '|' || number), %(publication)s, 'bench',
    'mailchimp', step.audience, step.segment, md5('customer' || number), step.operation,
    'person' || number || '@members.example',
    case when step.operation = 'upsert' then cast(jsonb_build_object(
        'first_name', 'Person ' || number,
        'stage', (array['loyalty', 'conversion', 'at_risk', 'churned'])[1 + number %% 4],
        'rfm_segment', (array['Champions', 'Promising', 'Lost'])[1 + number %% 3],
        'orders', number %% 40,
        'monetary', round(number %% 100000 / 7.0, 2),
        'last_order', cast(date '2026-01-01' + number %% 300 as text)
    ) as text) else '{}' end,
    case when step.operation = 'upsert'
        then '["first_name", "last_order", "monetary", "orders", "rfm_segment", "stage"]'
        else '[]' end,
    md5(step.operation || number || %(publication)s), 'planned', 'bench', now(), true
from generate_series(1, %(members)s) as number
cross join (values ('upsert', null, null), ('add', 'Champions', 'champions'))
    as step (operation, audience, segment)
where step.operation = any(%(operations)s)
order by step.operation desc, number
"""
_DRT_SYNC = """
name: members
model: >
  select address as email_address, 'subscribed' as status,
  cast(attributes as jsonb) as merge_fields from activation.plan_rows
destination:
  type: rest_api
  url: http://127.0.0.1:{port}/3.0/lists/bench
  method: POST
  headers: {{Content-Type: application/json}}
  body_mode: batch
  batch_template: '{{"members": {{{{ rows | tojson_safe }}}}, "update_existing": true}}'
  max_records_per_request: {rows_per_call}
sync:
  mode: full
  batch_size: {batch_size}
  rate_limit: {{requests_per_second: 0}}
  on_error: fail
"""
_DRT_PROFILE = """
bench:
  type: postgres
  host: {host}
  port: {port}
  dbname: {dbname}
  user: {user}
  password: {password}
"""


def measure(dsn: str, folder: Path, members: int, progress: Progress) -> dict[str, Any]:
    """Deliver generated members by each program and under each limit.

    Args:
        dsn: a fresh warehouse.
        folder: for drt's environment and project.
        members: of the first delivery; memory is compared at a tenth and five times as many.

    Returns:
        ``members``, ``rows_per_call``; ``first`` by latency and program; ``memory`` by members;
        ``nights``, ``limits``: see the functions.
    """
    python = predictions.environment(folder / "peers" / "drt-core", DRT)
    bench = Bench(dsn, folder, python, progress)
    bench.prepare()
    return {
        "members": members,
        "rows_per_call": ROWS_PER_CALL,
        "first": {str(latency): bench.first_delivery(members, latency) for latency in LATENCIES_MS},
        "memory": {str(size): bench.memory(size) for size in (members // 10, members * 5)},
        "nights": bench.later_nights(members),
        "limits": bench.limits(members),
    }


@dataclass(frozen=True)
class Bench:
    """A warehouse, and what delivers from it."""

    dsn: str
    folder: Path
    drt_python: Path
    progress: Progress

    def prepare(self) -> None:
        """Create the tables that dbt would have made."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(_TABLES)

    def first_delivery(self, members: int, latency_ms: int) -> dict[str, Any]:
        """The same rows by each program; the floor and the engine twice, by turns."""
        runs: dict[str, Any] = {}
        with tool(latency_ms) as port:
            for _ in range(2):
                self.keep_faster(runs, "floor", members, port, self.floor)
                self.keep_faster(runs, "kundenkreis", members, port, self.deliver)
            self.keep_faster(
                runs, "kundenkreis_members", members, port, self.deliver, ("upsert", "add")
            )
            for name, size in (("drt", ROWS_PER_CALL), ("drt_tuned", members)):
                self.keep_faster(runs, name, members, port, lambda p, s=size: self._drt(p, s))
        return runs

    def memory(self, members: int) -> dict[str, Any]:
        """The peak of the delivering process, members joining an audience included."""
        with tool(0) as port:
            self.progress(f"memory of {members:,} members")
            self._plan(1, members, ("upsert", "add"))
            return self.deliver(port)

    def later_nights(self, members: int) -> dict[str, Any]:
        """Writing calls of a night without changes, and of one that changes 1 % of the members."""
        self.progress("later nights")
        with tool(0) as port:
            self._plan(1, members, ("upsert", "add"))
            self.deliver(port)
            first = _counts(port)
            self._next_publication()
            self.deliver(port, 2)
            unchanged = _counts(port)
            changed = members // 100
            self._next_publication()
            self._plan(3, changed, ("upsert",), keep=True)
            run = self.deliver(port, 3)
            after = _counts(port)
        return {
            "unchanged_writes": unchanged["writes"] - first["writes"],
            "changed_members": changed,
            "changed_writes": after["writes"] - unchanged["writes"],
            "changed_reads": after["reads"] - unchanged["reads"],
            "forced_writes": ceil(changed / ROWS_PER_CALL),
            "seconds": run["seconds"],
        }

    def limits(self, members: int) -> dict[str, Any]:
        """Delivery under a vendor's limits, and the time that they allow at best.

        ``allowed_seconds`` counts every call that was made, reads included;
        ``writes_allowed_seconds`` only those that write.
        """
        latency = LIMITED_LATENCY_MS / 1000
        connections = ("--connections", str(CONNECTION_LIMIT))
        window = ("--per-window", str(WINDOW_CALLS), "--window-seconds", str(WINDOW_SECONDS))
        with tool(LIMITED_LATENCY_MS, *connections) as port:
            self.progress(f"at most {CONNECTION_LIMIT} connections")
            by_connections = self._limited(port, members, latency / CONNECTION_LIMIT)
        with tool(100, *window) as port:
            self.progress(f"at most {WINDOW_CALLS} calls in {WINDOW_SECONDS:g} s")
            by_window = self._limited(port, members, WINDOW_SECONDS / WINDOW_CALLS, "window")
        return {"connections": by_connections, "window": by_window}

    def _limited(
        self, port: int, members: int, seconds_per_call: float, *shape: str
    ) -> dict[str, Any]:
        self._plan(1, members, ("upsert",))
        run = self.deliver(port, 1, *shape)
        counts = _counts(port)
        return {
            **run,
            "refused": counts["refused"],
            "allowed_seconds": run["calls"] * seconds_per_call,
            "writes_allowed_seconds": counts["writes"] * seconds_per_call,
        }

    def keep_faster(
        self,
        runs: dict[str, Any],
        name: str,
        members: int,
        port: int,
        run: Callable[[int], dict[str, Any]],
        operations: tuple[str, ...] = ("upsert",),
    ) -> None:
        """Run one program on a fresh plan and an empty tool; keep the faster of its runs.

        Raises:
            RuntimeError: it did not bring every contact.
        """
        self._plan(1, members, operations)
        httpx.post(f"http://127.0.0.1:{port}/_bench/reset", trust_env=False)
        result = run(port)
        counts = _counts(port)
        if counts["contacts"] != members:
            raise RuntimeError(f"{name} brought {counts['contacts']:,} of {members:,} contacts")
        self.progress(f"{name}: {result['seconds']:.2f} s, {counts['writes']:,} writing calls")
        if name not in runs or result["seconds"] < runs[name]["seconds"]:
            runs[name] = {**result, "writes": counts["writes"], "rows": counts["rows"]}

    def deliver(self, port: int, publication: int = 1, *shape: str) -> dict[str, Any]:
        """The engine."""
        return predictions.run_peer(
            Path(sys.executable), "delivery_peer.py", self.dsn, port, publication, *shape
        )

    def floor(self, port: int) -> dict[str, Any]:
        """The floor."""
        return predictions.run_peer(Path(sys.executable), "delivery_floor.py", self.dsn, port)

    def _drt(self, port: int, batch_size: int) -> dict[str, Any]:
        project = self.folder / "drt"
        home = project / "home"
        for file, text in {
            project / "drt_project.yml": "name: bench\nprofile: bench\n",
            project / "syncs" / "members.yml": _DRT_SYNC.format(
                port=port, batch_size=batch_size, rows_per_call=ROWS_PER_CALL
            ),
            home / ".drt" / "profiles.yml": _DRT_PROFILE.format(**conninfo_to_dict(self.dsn)),
        }.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return predictions.run_peer(
            self.drt_python, "drt_core_peer.py", folder=project, variables={"HOME": str(home)}
        )

    def _plan(
        self, publication: int, members: int, operations: tuple[str, ...], keep: bool = False
    ) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            if not keep:
                connection.execute(_FORGET)
                self._next_publication()
            connection.execute(
                _PLAN,
                {
                    "publication": publication,
                    "members": members,
                    "operations": list(operations),
                },
            )
            connection.execute("analyze activation.plan_rows")
            connection.execute("checkpoint")

    def _next_publication(self) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute(
                "insert into history.publications (as_of_date, dag_run_id, schema_name)"
                " values ('2026-01-31', 'bench', 'marts_blue')"
            )


@contextmanager
def tool(latency_ms: int, *arguments: str) -> Iterator[int]:
    """Run the tool in a process of its own; gives its port."""
    root = repository_root()
    command = [sys.executable, "-m", "benchmarks.mail_tool", "--latency-ms", str(latency_ms)]
    process = subprocess.Popen(
        [*command, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'plugins'}:{root}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def _counts(port: int) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(
        httpx.get(f"http://127.0.0.1:{port}/_bench/counts", trust_env=False).content
    )
    return counts
