"""A warehouse with hand-made marts, a plan built by the real dbt models, and a tool in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from unittest import mock

import psycopg

from kundenkreis.destinations.base import (
    Audience,
    Batch,
    Capabilities,
    JobLost,
    Outcome,
    Submitted,
    SubscriberState,
)
from kundenkreis.destinations.config import ListmonkSettings, MailchimpSettings
from kundenkreis.warehouse import dbt
from kundenkreis.warehouse.connection import dbt_environment

AS_OF = "2026-11-22"
_MANIFESTS: dict[str, Any] = {}
DBT_PROJECT = Path(__file__).parents[2] / "dbt_project"

MARTS = """
create schema if not exists marts_blue;
create table marts_blue.segment_members (
    segment text, customer_id text, member_since date, is_holdout boolean, is_contactable boolean,
    not_contactable_because text
);
create table marts_blue.contactability (
    customer_id text, channel text, address text, is_contactable boolean, reason text,
    evidence text, evidence_at timestamptz, is_preferred boolean
);
create table marts_blue.customer_360 (
    customer_id text, stage text, rfm_segment text, monetary numeric(18, 4), last_order_date date
);
create or replace view marts.contactability as select * from marts_blue.contactability;
create or replace view marts.customer_360 as select * from marts_blue.customer_360;
"""


ACTIVATION_TABLES = (
    "subscriber_states, ledger, batches_under_way, delivered_state, audiences, sync_runs, drift, "
    "destinations, approvals"
)


PLAN_TABLE = """
drop table if exists activation.plan_rows;
create table activation.plan_rows (
    plan_row_id text, publication_id bigint, run_id text, destination text, audience text,
    segment text, customer_id text, operation text, address text, attributes text,
    changed_fields text, payload_hash text, status text, status_reason text,
    planned_at timestamptz, may_create boolean
);
create schema if not exists marts;
create or replace view marts.contactability as
    select cast(null as text) as customer_id, cast(null as text) as address where false;
"""


def bare_plan(dsn: str) -> None:
    """An empty plan of publication 1, written by hand instead of by dbt."""
    empty_warehouse(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(PLAN_TABLE.encode())
        connection.execute(
            "insert into history.publications (as_of_date, dag_run_id, schema_name)"
            " values ('2026-11-22', 'run', 'marts_blue')"
        )


def plan_by_hand(
    dsn: str,
    destination: str,
    audience: str,
    rows: Sequence[tuple[str, str, bool]],
    publication_id: int = 1,
    attributes: Mapping[str, Any] = MappingProxyType({"stage": "loyalty"}),
) -> None:
    """Plan an upsert and an add, or a remove, per (operation, address, may_create)."""
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into activation.plan_rows values (md5(%(id)s), %(publication_id)s, 'run',"
            " %(destination)s, %(audience)s, 'champions', %(address)s, %(step)s, %(address)s,"
            " %(attributes)s, '[]', md5(%(id)s), 'planned', '', now(), %(may_create)s)",
            [
                {
                    "id": f"{publication_id}{destination}{audience}{step}{address}",
                    "publication_id": publication_id,
                    "destination": destination,
                    "audience": None if step == "upsert" else audience,
                    "address": address,
                    "step": step,
                    "attributes": json.dumps(dict(attributes)) if step == "upsert" else "{}",
                    "may_create": may_create,
                }
                for operation, address, may_create in rows
                for step in (("upsert", "add") if operation == "add" else ("remove",))
            ],
        )


def empty_warehouse(dsn: str) -> None:
    """Forget everything delivered, planned and published."""
    with psycopg.connect(dsn) as connection:
        connection.execute("set client_min_messages = warning")
        for table in ACTIVATION_TABLES.split(", "):
            connection.execute(f"truncate activation.{table} restart identity".encode())
        connection.execute("drop table if exists activation.plan_rows, activation.held_audiences")
        connection.execute("truncate history.publications restart identity")


@dataclass(frozen=True)
class Person:
    """A customer as the marts show one."""

    customer_id: str
    address: str
    segments: Sequence[str] = ("champions",)
    contactable: bool = True
    reason: str = "consent_double"
    evidence: str = "double"
    holdout: bool = False
    stage: str = "loyalty"
    monetary: float = 12.5


def segment(key: str, audience: str, **options: Any) -> dict[str, Any]:
    """A segment as `Settings.dbt_vars()` gives it, delivered to the tool in memory."""
    return {
        "key": key,
        "where": "true",
        "destinations": [{"destination": "listmonk", "audience": audience}],
        "attributes": ["stage", "monetary"],
        "holdout_percent": 0,
        "max_change_percent": 30,
        "min_size": 0,
        "initial": "allow",
        "priority": 10,
        **options,
    }


CHAMPIONS = segment("champions", "Champions")


def write_marts(
    dsn: str,
    people: Sequence[Person],
    others: Sequence[Mapping[str, Any]] = (),
    as_of_date: str = AS_OF,
) -> int:
    """Replace the marts by these people and record a publication; returns its id.

    others: further rows of contactability (old addresses).
    """
    with psycopg.connect(dsn) as connection:
        exists = connection.execute("select to_regclass('marts_blue.customer_360')").fetchone()
        if exists == (None,):
            connection.execute(MARTS)
        connection.execute(
            "truncate marts_blue.segment_members, marts_blue.contactability,"
            " marts_blue.customer_360"
        )
        for person in people:
            for key in person.segments:
                connection.execute(
                    "insert into marts_blue.segment_members"
                    " values (%s, %s, '2026-01-01', %s, %s, %s)",
                    (
                        key,
                        person.customer_id,
                        person.holdout,
                        person.contactable,
                        None if person.contactable else person.reason,
                    ),
                )
            connection.execute(
                "insert into marts_blue.contactability"
                " values (%s, 'email', %s, %s, %s, %s, '2026-01-01', true)",
                (
                    person.customer_id,
                    person.address,
                    person.contactable,
                    person.reason,
                    person.evidence,
                ),
            )
            connection.execute(
                "insert into marts_blue.customer_360"
                " values (%s, %s, 'Champions', %s, '2026-02-03')",
                (person.customer_id, person.stage, person.monetary),
            )
        for row in others:
            connection.execute(
                "insert into marts_blue.contactability"
                " values (%(customer_id)s, 'email', %(address)s, %(is_contactable)s, %(reason)s,"
                " null, null, false)",
                row,
            )
        inserted = connection.execute(
            "insert into history.publications (as_of_date, dag_run_id, schema_name, published_at)"
            " values (%s, 'run', 'marts_blue', clock_timestamp())"
            " returning publication_id",
            (as_of_date,),
        ).fetchone()
    assert inserted is not None
    return int(inserted[0])


_PARSED_WITH: dict[str, Any] = {
    "as_of_date": AS_OF,
    "marts_schema": "marts_blue",
    "publication_id": 1,
    "run_id": "run1",
    "enabled_sources": [],
    "enabled_destinations": ["listmonk"],
    "segments": [CHAMPIONS],
}


def build_plan(
    dsn: str,
    publication_id: int,
    target: Path,
    segments: Sequence[Mapping[str, Any]] = (CHAMPIONS,),
    destinations: Sequence[str] = ("listmonk",),
    command: str = "run",
    select: str = "tag:plan",
    **variables: Any,
) -> None:
    """Run the dbt models of the plan; with command ``build`` their tests and unit tests too.

    Raises AssertionError with the names of what failed.
    """
    from dbt.cli.main import dbtRunner

    values = {
        **_PARSED_WITH,
        "publication_id": publication_id,
        "run_id": f"run{publication_id}",
        "enabled_destinations": list(destinations),
        "segments": list(segments),
        **variables,
    }
    arguments = ["--project-dir", str(DBT_PROJECT), "--profiles-dir", str(DBT_PROJECT)]
    arguments += ["--target-path", str(target), "--log-path", str(target), "--quiet"]
    # As the night does: dbt's reports of a run are read by nobody and take half of its time.
    arguments += ["--no-write-json", "--vars", json.dumps(values)]
    with mock.patch.dict(os.environ, dbt_environment(dsn)):
        manifest = _manifest(os.environ["KUNDENKREIS_DBT_DBNAME"], target)
        result = dbtRunner(manifest=manifest).invoke([command, "--select", select, *arguments])
    assert result.success, result.exception or [
        f"{one.node.name}: {one.message}" for one in result.result if one.message
    ]


def _manifest(database: str, target: Path) -> Any:
    """Parsed once a database: nothing else of it depends on variables before it is compiled."""
    if database not in _MANIFESTS:
        _MANIFESTS[database] = dbt._parsed(target, target, _PARSED_WITH)
    _forget_compiled(_MANIFESTS[database])
    return _MANIFESTS[database]


def _forget_compiled(manifest: Any) -> None:
    """Let dbt compile a model anew that stands on an ephemeral one; it does so once only."""
    for node in manifest.nodes.values():
        if getattr(node, "extra_ctes_injected", False):
            node.compiled, node.extra_ctes_injected, node.extra_ctes = False, False, []


def plan_of(dsn: str, publication_id: int) -> set[tuple[str, str | None, str | None, str, str]]:
    """(operation, audience, address, status, reason) of every row of a plan."""
    with psycopg.connect(dsn) as connection:
        return set(
            connection.execute(
                "select operation, audience, address, status, status_reason"
                " from activation.plan_rows where publication_id = %s",
                (publication_id,),
            ).fetchall()
        )


MEMORY = Capabilities(
    batch_size={"upsert": 2, "add": 2, "remove": 2},
    rows_per_call={"upsert": 2, "add": 2, "remove": 2},
    membership="list",
    rate_limit="none",
)


@dataclass
class MemoryTool:
    """A tool that holds contacts and audiences in memory and counts what is written to it.

    refuse: addresses whose rows it rejects. fail: raised instead of the next write.
    ids: the tool's ids of contacts, where they are not made from the address.
    """

    name: str = "listmonk"
    states: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    refuse: dict[str, str] = field(default_factory=dict)
    fail: list[Exception] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)
    written: list[tuple[str, str, str | None]] = field(default_factory=list)
    calls: int = 0
    capabilities: Capabilities = MEMORY

    def read_subscriber_states(
        self, our_audience_ids: frozenset[str]
    ) -> Iterator[list[SubscriberState]]:
        for address, state in self.states.items():
            evidence = "double" if state == "subscribed" else None
            vendor_id = self.ids.get(address, f"id:{address}")
            yield [SubscriberState(address, state, evidence, None, vendor_id)]  # type: ignore[arg-type]

    def ensure_audience(self, name: str, known_id: str | None) -> Audience:
        created = name not in self.members
        self.members.setdefault(name, set())
        return Audience(name, created)

    def ensure_attributes(self, types: Mapping[str, str]) -> None:
        self.types = dict(types)

    def deliver(self, batch: Batch) -> list[Outcome]:
        self.calls += 1
        if self.fail:
            raise self.fail.pop(0)
        return [self._one(batch, row) for row in batch.rows]

    def _one(self, batch: Batch, row: Any) -> Outcome:
        self.written.append((batch.operation, row.address, batch.audience_id))
        if row.address in self.refuse:
            return Outcome(row.key, "rejected", self.refuse[row.address])
        created = row.vendor_id is None
        if created:
            assert batch.operation == "upsert" and row.may_create
            self.states[row.address] = "subscribed"
        if batch.operation == "upsert":
            self.attributes.setdefault(row.address, {}).update(row.attributes)
        elif batch.operation == "add":
            self.members[str(batch.audience_id)].add(row.address)
        else:
            self.members[str(batch.audience_id)].discard(row.address)
        return Outcome(row.key, "confirmed", vendor_id=f"id:{row.address}", created=created)

    def read_members(self, audience_id: str) -> Iterator[list[str]]:
        yield sorted(self.members[audience_id])

    def erase(self, address: str) -> bool:
        return self.states.pop(address, None) is not None

    def close(self) -> None:
        pass


QUEUEING = replace(MEMORY, async_jobs=True)


@dataclass
class QueueingTool(MemoryTool):
    """A tool that takes every batch as a job and carries it out when asked for the third time.

    jobs: what it took, by job id; those that were carried out stay. lost: it forgot them.
    stuck: it never gets to them.
    """

    capabilities: Capabilities = QUEUEING
    jobs: dict[str, Batch] = field(default_factory=dict)
    questions: dict[str, list[Batch]] = field(default_factory=dict)
    lost: bool = False
    stuck: bool = False

    def deliver(self, batch: Batch) -> Submitted:  # type: ignore[override]
        self.calls += 1
        if self.fail:
            raise self.fail.pop(0)
        job_id = f"job{len(self.jobs) + 1}"
        self.jobs[job_id] = batch
        return Submitted(job_id)

    def poll(self, job_id: str, batch: Batch) -> list[Outcome] | None:
        self.calls += 1
        if self.lost:
            raise JobLost(f"{self.name} does not know job {job_id}")
        asked = self.questions.setdefault(job_id, [])
        asked.append(batch)
        if self.stuck or len(asked) < 3:
            return None
        return [self._one(batch, row) for row in self.jobs[job_id].rows]


def settings_for(**options: Any) -> Any:
    """The part of `Settings` that activation reads."""
    return SimpleNamespace(destinations={"listmonk": ListmonkSettings(**options)})


SHOP_TOOLS: Any = SimpleNamespace(
    destinations={
        "listmonk": ListmonkSettings(create_contacts=True),
        "mailchimp": MailchimpSettings(create_contacts=True),
    }
)
