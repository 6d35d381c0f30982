"""Deliveries that are killed, and what has to be true when they were run again.

A delivery runs in a forked child, which has everything imported already. It is killed at a
failpoint or after a while, then repeated until nothing is left to do; `Story.check` compares the
tool, the tool's own request log and the ledger.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg

from kundenkreis.activation import delivery, reconciliation
from kundenkreis.connections import parse_connection
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import Batch, Outcome, Submitted
from kundenkreis.destinations.config import (
    KlaviyoSettings,
    ListmonkSettings,
    MailchimpSettings,
)
from sandbox.testing import Handle
from tests.integration.activation_warehouse import bare_plan, plan_by_hand

_FORK = multiprocessing.get_context("fork")
_SIZES = dict.fromkeys(("upsert", "add", "remove"), 4)
_LONG_DELIVERY = 1e-9  # minutes after which the contacts are read again: at every batch

Change = tuple[str, str, str]
"""(operation, audience or '', address)."""


class QueuedTool:
    """A tool whose batches become jobs of a vendor in another process, which outlives a kill."""

    def __init__(self, tool: Any, folder: Path) -> None:
        self._tool, self._folder = tool, folder
        self.capabilities = replace(tool.capabilities, async_jobs=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tool, name)

    def deliver(self, batch: Batch) -> list[Outcome] | Submitted:
        """Leave the batch with the vendor."""
        if not batch.rows:
            return []
        job_id = f"job{os.getpid()}-{time.monotonic_ns()}"
        partial = self._folder / f"{job_id}.partial"
        partial.write_bytes(pickle.dumps(batch))
        partial.rename(self._folder / f"{job_id}.job")
        return Submitted(job_id)

    def poll(self, job_id: str, batch: Batch) -> list[Outcome] | None:
        """What the vendor left as the outcome."""
        done = self._folder / f"{job_id}.done"
        if not done.exists():
            return None
        outcomes: list[Outcome] = pickle.loads(done.read_bytes())  # noqa: S301 (our own)
        return outcomes


@contextmanager
def vendor_of_jobs(folder: Path, open_tool: Callable[[], Any]) -> Iterator[None]:
    """The process that carries out the jobs that `QueuedTool` leaves in a folder."""
    vendor = _FORK.Process(target=_work, args=(folder, open_tool), daemon=True)
    vendor.start()
    try:
        yield
    finally:
        vendor.kill()
        vendor.join()


def _work(folder: Path, open_tool: Callable[[], Any]) -> None:
    tool = open_tool()
    while True:
        for job in sorted(folder.glob("*.job")):
            outcomes = tool.deliver(pickle.loads(job.read_bytes()))  # noqa: S301 (our own)
            partial = job.with_suffix(".outcome")
            partial.write_bytes(pickle.dumps(outcomes))
            partial.rename(job.with_suffix(".done"))
            job.unlink()
        time.sleep(0.005)


def settings(vendor: str, **options: Any) -> Any:
    """Settings of one tool that may create contacts."""
    kinds: dict[str, Any] = {
        "listmonk": ListmonkSettings,
        "mailchimp": MailchimpSettings,
        # Every known contact by import job.
        "klaviyo": partial(KlaviyoSettings, import_from_rows=1),
    }
    return SimpleNamespace(destinations={vendor: kinds[vendor](create_contacts=True, **options)})


def resolver(sandbox: Handle) -> Any:
    """Connections of a sandbox."""
    return lambda name: parse_connection(name, sandbox.connections[f"AIRFLOW_CONN_{name.upper()}"])


def subscribed(vendor: str, sandbox: Handle) -> list[str]:
    """Addresses that the tool says are subscribed."""
    tool = open_destination(vendor, settings(vendor).destinations[vendor], resolver(sandbox))
    pages = tool.read_subscriber_states(frozenset())
    return [found.address for page in pages for found in page if found.state == "subscribed"]


@dataclass
class Story:
    """One audience of one tool, planned, delivered with interruptions, and checked.

    jobs: the folder of the vendor's jobs, for a tool that takes them.
    """

    dsn: str
    vendor: str
    sandbox: Handle
    audience: str
    known: list[str]
    new: list[str]
    jobs: Path | None = None
    long_delivery: bool = False
    withdrawn_at: dict[str, int] = field(default_factory=dict)
    first_request: int = 0

    def begin(self) -> None:
        """Plan that everybody joins. One of the known has withdrawn since."""
        bare_plan(self.dsn)
        rows = [("add", address, False) for address in self.known]
        plan_by_hand(
            self.dsn,
            self.vendor,
            self.audience,
            rows + [("add", address, True) for address in self.new],
        )
        self.first_request = self._last_request()
        self.withdraw(self.known[0])

    def withdraw(self, address: str) -> None:
        """Somebody leaves, inside the tool; not before it has done what it took until now."""
        while self.jobs and any(self.jobs.glob("*.job")):
            time.sleep(0.005)
        self.sandbox.unsubscribe(self.vendor, address)
        self.withdrawn_at[address] = self._last_request()

    def deliver(self, failpoint: str = "", after: float | None = None, publication: int = 1) -> int:
        """Deliver in a child that is killed at a failpoint, or after so many seconds.

        Returns:
            Its exit code; 0 when it came to its end.
        """
        return self._in_child(lambda: self._deliver(publication), failpoint, after)

    def reconcile(self, failpoint: str = "", after: float | None = None) -> int:
        """Read the audiences back, in a child as `deliver` does."""
        return self._in_child(self._reconcile, failpoint, after)

    def leave(self) -> None:
        """The plan of the next publication: whoever withdrew leaves, where we put them in."""
        with psycopg.connect(self.dsn) as connection:
            connection.execute(
                "insert into history.publications (as_of_date, dag_run_id, schema_name)"
                " values ('2026-11-23', 'run2', 'marts_green')"
            )
            leaving = connection.execute(
                "select address from activation.effective_state where audience = %s"
                " and (is_member or in_doubt) and address = any(%s)",
                (self.audience, list(self.withdrawn_at)),
            ).fetchall()
        rows = [("remove", address, False) for (address,) in leaving]
        plan_by_hand(self.dsn, self.vendor, self.audience, rows, publication_id=2)

    def check(self) -> dict[str, int]:
        """What has to be true at the end; returns counts of what was looked at.

        Raises:
            AssertionError: it is not.
        """
        wanted = {*self.known, *self.new} - set(self.withdrawn_at)
        found = self.sandbox.audiences()[self.vendor].get(self.audience, {})
        # listmonk keeps who unsubscribed on the list, as the record of their wish.
        left = "unsubscribed" if self.vendor == "listmonk" else None
        present = {address for address, status in found.items() if status != left}
        assert present == wanted, f"{len(present - wanted)} too many, {len(wanted - present)} lack"
        requests = self._changes()
        for sequence, change in requests:
            withdrawn = self.withdrawn_at.get(change[2])
            assert withdrawn is None or sequence <= withdrawn or change[0] == "remove", change
        attempts = self._attempts()
        seen = Counter(change for _, change in requests)
        for change, times in seen.items():
            assert times <= attempts[change, "any"], f"{change}: {times} requests, not explained"
        for (change, state), times in attempts.items():
            if state == "confirmed":
                assert seen[change] >= times, f"{change}: confirmed and never seen"
        with psycopg.connect(self.dsn) as connection:
            # What was sent to somebody before they withdrew may stay in doubt: nobody may ask.
            counted = connection.execute(
                "select (select count(*) from activation.batches_under_way),"
                " (select count(*) from activation.effective_state where in_doubt"
                " and not (audience = '' and address = any(%s))),"
                " (select count(*) from activation.delivered_state where is_member)",
                (list(self.withdrawn_at),),
            ).fetchone()
        assert counted == (0, 0, len(wanted)), counted
        return {"requests": len(requests), "attempts": sum(attempts.values()) // 2}

    def _deliver(self, publication: int) -> None:
        options = {"suppression_minutes": _LONG_DELIVERY} if self.long_delivery else {}
        delivery.deliver(
            self.vendor,
            settings(self.vendor, **options),
            resolver(self.sandbox),
            self.dsn,
            "run",
            publication,
            lambda message: None,
            open_tool=self._open,
            sleep=lambda seconds: time.sleep(0.01),
        )

    def _reconcile(self) -> None:
        reconciliation.reconcile(
            self.vendor,
            settings(self.vendor),
            resolver(self.sandbox),
            self.dsn,
            "run",
            1,
            lambda message: None,
        )

    def _open(self, *arguments: Any) -> Any:
        tool: Any = open_destination(*arguments, sleep=lambda seconds: time.sleep(0.01))
        tool.capabilities = replace(tool.capabilities, batch_size=_SIZES)
        return QueuedTool(tool, self.jobs) if self.jobs else tool

    def _in_child(self, act: Callable[[], None], failpoint: str, after: float | None) -> int:
        child = _FORK.Process(target=_run, args=(act, failpoint))
        child.start()
        if after is not None:
            child.join(after)
            child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), f"exit code {child.exitcode}"
        return child.exitcode

    def _last_request(self) -> int:
        logged = self.sandbox.requests()
        return int(logged[-1]["seq"]) if logged else 0

    def _changes(self) -> list[tuple[int, Change]]:
        """Every change that a request to the tool asked for, with the request's number."""
        addresses = self._addresses()
        changes: list[tuple[int, Change]] = []
        for request in self.sandbox.requests(bodies=True):
            if request["vendor"] != self.vendor or request["seq"] <= self.first_request:
                continue
            if request["method"] != "GET":
                changed = _CHANGES[self.vendor](request, addresses)
                changes += [(request["seq"], change) for change in changed]
        names = {"": "", **self._audience_names()}
        return [
            (number, (o, names[audience], address)) for number, (o, audience, address) in changes
        ]

    def _addresses(self) -> dict[str, str]:
        """The tool's id of a contact to its address."""
        with psycopg.connect(self.dsn) as connection:
            return dict(
                connection.execute(
                    "select vendor_id, address from activation.known_contacts"
                    " where vendor_id is not null"
                ).fetchall()
            )

    def _audience_names(self) -> dict[str, str]:
        with psycopg.connect(self.dsn) as connection:
            return dict(
                connection.execute(
                    "select vendor_id, audience from activation.audiences where destination = %s",
                    (self.vendor,),
                ).fetchall()
            )

    def _attempts(self) -> Counter[tuple[Change, str]]:
        """Attempts of a call by change, under their state and under 'any'."""
        attempts: Counter[tuple[Change, str]] = Counter()
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(
                "select operation, audience, address, state from activation.ledger"
                " where state not in ('suppressed', 'skipped')"
                " and coalesce(reason_code, '') not in ('already_gone', 'left_by_themselves')"
            ).fetchall()
        for operation, audience, address, state in rows:
            attempts[(operation, audience, address), state] += 1
            attempts[(operation, audience, address), "any"] += 1
        return attempts


def _run(act: Callable[[], None], failpoint: str) -> None:
    os.environ["KUNDENKREIS_FAILPOINT"] = failpoint
    act()


def _mailchimp_changes(request: dict[str, Any], addresses: dict[str, str]) -> list[Change]:
    body = json.loads(request["body"] or "{}")
    if re.fullmatch(r"/3\.0/lists/\w+", request["path"]):
        return [("upsert", "", member["email_address"]) for member in body["members"]]
    if found := re.fullmatch(r"/3\.0/lists/\w+/segments/(\d+)", request["path"]):
        return [
            (operation, found[1], address)
            for operation, key in (("add", "members_to_add"), ("remove", "members_to_remove"))
            for address in body[key]
        ]
    return []


def _listmonk_changes(request: dict[str, Any], addresses: dict[str, str]) -> list[Change]:
    body = json.loads(request["body"] or "{}")
    if found := re.fullmatch(r"/api/subscribers/(\d+)", request["path"]):
        return [("upsert", "", addresses[found[1]])]
    if request["path"] == "/api/subscribers":
        return [("upsert", "", body["email"])]
    if request["path"] == "/api/subscribers/lists":
        (audience,) = body["target_list_ids"]
        return [(body["action"], str(audience), addresses[str(number)]) for number in body["ids"]]
    return []


def _klaviyo_changes(request: dict[str, Any], addresses: dict[str, str]) -> list[Change]:
    body = json.loads(request["body"] or "{}")
    if request["path"] == "/api/profiles":
        return [("upsert", "", body["data"]["attributes"]["email"])]
    if request["path"] == "/api/profile-bulk-import-jobs":
        rows = body["data"]["attributes"]["profiles"]["data"]
        return [("upsert", "", addresses[row["id"]]) for row in rows]
    if found := re.fullmatch(r"/api/lists/(\w+)/relationships/profiles", request["path"]):
        operation = "add" if request["method"] == "POST" else "remove"
        return [(operation, found[1], addresses[row["id"]]) for row in body["data"]]
    return []


_CHANGES: dict[str, Callable[[dict[str, Any], dict[str, str]], list[Change]]] = {
    "klaviyo": _klaviyo_changes,
    "listmonk": _listmonk_changes,
    "mailchimp": _mailchimp_changes,
}


def begin(dsn: str, vendor: str, sandbox: Handle, case: str, **options: Any) -> Story:
    """Eight known contacts, one of whom has withdrawn, and two new ones join an audience."""
    case = re.sub(r"\W|_", "-", case)
    known = subscribed(vendor, sandbox)[:8]
    new = [f"new{number}-{case}@neukunde.de" for number in range(2)]
    story = Story(dsn, vendor, sandbox, f"Champions {case}", known, new, **options)
    story.begin()
    return story


def finish(story: Story) -> None:
    """Run again; one more person withdraws meanwhile and leaves with the next plan."""
    story.withdraw(story.known[1])
    assert story.deliver() == 0
    story.leave()
    assert story.deliver(publication=2) == 0
    story.check()
