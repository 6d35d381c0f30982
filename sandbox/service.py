"""The sandbox itself, without HTTP: one world, five vendors, one clock, one file.

`Sandbox.handle` takes a vendor's request and gives its reply; whatever it changed is in the file
before the reply leaves. Starting again with the same home goes on where the last process stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from sandbox import faults
from sandbox.clock import local_instant
from sandbox.faults import Fault
from sandbox.generator import World, build_world
from sandbox.messages import Reply, Request
from sandbox.people import Parameters
from sandbox.shop import opening_day
from sandbox.store import Store
from sandbox.vendors import klaviyo
from sandbox.vendors.hubspot import TOKEN, HubSpot
from sandbox.vendors.klaviyo import Klaviyo
from sandbox.vendors.listmonk import API_TOKEN, API_USER, Listmonk
from sandbox.vendors.mailchimp import API_KEY, LIST_ID, Mailchimp
from sandbox.vendors.woocommerce import CONSUMER_KEY, CONSUMER_SECRET, WooCommerce

VENDORS = ("woocommerce", "hubspot", "listmonk", "mailchimp", "klaviyo")
_WRITES_PER_DAY = 3599
_KINDS = (
    "unsubscribe", "bounce", "complaint", "confirm", "blocklist", "forget", "leave_lists",
)  # fmt: skip


class Sandbox:
    """State and behaviour of the sandbox.

    Args:
        home: the folder of its file; None keeps everything in memory (tests).
        customers, seed, until: used for a new home only; an existing one remembers its own.
        enforce_limits: make the rate limits of HubSpot and Klaviyo act.
    """

    def __init__(
        self,
        home: Path | None,
        customers: int,
        seed: int,
        until: date,
        enforce_limits: bool = False,
    ) -> None:
        if home is not None:
            home.mkdir(parents=True, exist_ok=True)
        self.store = Store(home / "sandbox.sqlite" if home else None)
        known = self.store.meta("world")
        if known is None:
            opened = opening_day(until)
            known = {"customers": customers, "seed": seed, "opened_on": opened.isoformat()}
        self.parameters = Parameters(
            int(known["customers"]), int(known["seed"]), date.fromisoformat(known["opened_on"])
        )
        self.faults: list[Fault] = []
        self._writes = int(self.store.meta("writes", 0))
        self.until = date.fromisoformat(self.store.meta("until", until.isoformat()))
        self.woocommerce = WooCommerce()
        self.hubspot = HubSpot(enforce_limits, time.monotonic)
        self.listmonk = Listmonk(self.store, self.now)
        self.mailchimp = Mailchimp(self.store, self.now)
        self.klaviyo = Klaviyo(self.store, self.now, enforce_limits, time.monotonic)
        self._tools: dict[str, Listmonk | Mailchimp | Klaviyo] = {
            "listmonk": self.listmonk,
            "mailchimp": self.mailchimp,
            "klaviyo": self.klaviyo,
        }
        self.world = build_world(self.parameters, self.until)
        self._start(known)

    def _start(self, known: dict[str, Any]) -> None:
        self._show(self.world)
        if self.store.meta("until") is not None:
            for tool in self._tools.values():
                tool.restore()
            self.faults = [faults.parse(values) for values in self.store.meta("faults", [])]
            return
        opening = local_instant(self.parameters.opened_on, 0)
        for tool in self._tools.values():
            tool.install(opening)
        self._apply_tool_events(self.world, after=0)
        self.store.commit(world=known, until=self.until.isoformat())

    def _show(self, world: World) -> None:
        self.woocommerce.load(world)
        self.hubspot.load(world)

    def _apply_tool_events(self, world: World, after: int) -> None:
        for event in world.tool_events:
            if event.at >= after:
                self._tools[event.vendor].apply(event)

    def now(self) -> int:
        """The instant writes are stamped with: the last evening of the world, each write a second
        later than the one before, so that nothing is ever dated after `until`."""
        return local_instant(self.until, 23 * 3600 + min(self._writes, _WRITES_PER_DAY))

    def advance(self, days: int) -> None:
        """Let `days` more days happen.

        Raises:
            ValueError: less than one day, or behind the horizon of the world.
        """
        if days < 1:
            raise ValueError("days must be at least 1")
        until = self.until + timedelta(days=days)
        world = build_world(self.parameters, until)
        before = self.world.cutoff
        self.world, self.until, self._writes = world, until, 0
        self._show(world)
        self._apply_tool_events(world, after=before)
        self.store.commit(until=until.isoformat(), writes=0)

    def handle(self, vendor: str, request: Request, fault: Fault | None = None) -> Reply:
        """Answer a request and keep what it did, in one transaction with its log row."""
        if fault is not None and fault.kind not in ("slow", "drop_after"):
            answer = faults.answer(fault, vendor)
        else:
            answer = self._vendor(vendor)(request)
        if request.method != "GET":
            self._writes += 1
        self.log(vendor, request, answer, fault)
        return answer

    def _vendor(self, vendor: str) -> Callable[[Request], Reply]:
        handle: Callable[[Request], Reply] = getattr(self, vendor).handle
        return handle

    def log(self, vendor: str, request: Request, answer: Reply, fault: Fault | None) -> None:
        """Commit pending changes together with the request's log row."""
        query = "&".join(f"{key}={value}" for key, value in request.query)
        row = (
            vendor,
            request.method,
            request.path,
            answer.status,
            answer.members,
            fault.kind if fault else None,
            query,
            request.body.decode(errors="replace"),
        )
        self.store.commit(row, writes=self._writes)

    def take_fault(self, vendor: str, request: Request) -> Fault | None:
        """The fault that acts on a request, if any; what is left of it is kept."""
        if not self.faults:
            return None
        fault = faults.take(self.faults, vendor, request)
        self.keep_faults()
        return replace(fault) if fault else None

    def add_fault(self, values: dict[str, Any]) -> None:
        """Switch a fault on.

        Raises:
            ValueError: an unknown kind or field.
        """
        self.faults.append(faults.parse(values))
        self.keep_faults()

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self.faults.clear()
        self.keep_faults()

    def act(self, vendor: str, address: str, kind: str = "unsubscribe") -> None:
        """Let a person (or their mail server) do something inside a tool: unsubscribe, bounce,
        complaint, confirm, blocklist (listmonk, Klaviyo), forget (Mailchimp, Klaviyo) or
        leave_lists (Klaviyo).

        Raises:
            ValueError: an unknown tool, kind or address.
        """
        tool = self._tools.get(vendor)
        if tool is None:
            raise ValueError(f"vendor must be one of {', '.join(self._tools)}")
        if kind not in _KINDS:
            raise ValueError(f"unknown kind '{kind}'")
        if not tool.act(address, kind):
            raise ValueError("the tool does not know that address, or not that kind")
        self._writes += 1
        self.store.commit(writes=self._writes)

    def set_jobs(
        self, polls: int = 2, end: str = "complete", errors_repeat_payload: bool = True
    ) -> None:
        """How Klaviyo's imports go from now on; see `Klaviyo.set_jobs`."""
        self.klaviyo.set_jobs(polls, end, errors_repeat_payload)

    def keep_faults(self) -> None:
        """Write the faults to the file."""
        self.store.set_meta("faults", faults.as_documents(self.faults))

    def audiences(self) -> dict[str, dict[str, dict[str, str]]]:
        """Vendor to audience name to address to status."""
        return {name: tool.audiences() for name, tool in self._tools.items()}

    def state(self) -> dict[str, Any]:
        """Counts, and the clock."""
        world = self.world
        return {
            "until": self.until.isoformat(),
            "opened_on": self.parameters.opened_on.isoformat(),
            "customers": self.parameters.customers,
            "seed": self.parameters.seed,
            "counts": {
                "people": world.people,
                "orders": len(world.orders),
                "refunds": len(world.refunds),
                "accounts": len(world.accounts),
                "products": len(world.products),
                "contacts": len(world.contacts),
                "deals": len(world.deals),
                "listmonk_subscribers": len(self.listmonk.subscribers),
                "mailchimp_members": len(self.mailchimp.members),
                "klaviyo_profiles": len(self.klaviyo.profiles),
            },
            "faults": faults.as_documents(self.faults),
        }


def connections(port: int, host: str = "127.0.0.1") -> dict[str, dict[str, Any]]:
    """Airflow connections (JSON form) of the five vendors, keyed by environment variable."""
    credentials = {
        "woocommerce": (CONSUMER_KEY, CONSUMER_SECRET, {}),
        "hubspot": ("", TOKEN, {}),
        "listmonk": (API_USER, API_TOKEN, {}),
        "mailchimp": ("kundenkreis", API_KEY, {"list_id": LIST_ID}),
        "klaviyo": ("", klaviyo.API_KEY, {}),
    }
    return {
        f"AIRFLOW_CONN_{vendor.upper()}": {
            "conn_type": "http",
            "host": host,
            "port": port,
            "login": login,
            "password": password,
            "extra": {"base_url": f"http://{host}:{port}/{vendor}", **extra},
        }
        for vendor, (login, password, extra) in credentials.items()
    }
