"""A small shop, a database of its own and the `kundenkreis` command, as a user would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sandbox.testing import running_sandbox
from tests.night import preloaded

FIRST_NIGHT = date(2026, 6, 30)


@dataclass
class Household:
    """One warehouse and one sandbox, and the command over them.

    direct_gates: the gates of its nights do without Great Expectations, which takes seconds of a
    small night (see `direct_evaluation`); test_night.py has it in all of them.
    """

    dsn: str
    sandbox: Any
    direct_gates: bool = False

    def run(
        self, as_of: date, failpoint: str = "", check: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one night with the command line."""
        day = as_of.isoformat()
        return self.call("run", "--as-of", day, failpoint=failpoint, check=check, **environment)

    def call(
        self, *arguments: str, failpoint: str = "", check: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Call the command line."""
        completed = preloaded.call(arguments, self.environment(failpoint, environment), timeout=300)
        if check:
            assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed

    def run_as_users_do(self, as_of: date, **environment: str) -> None:
        """Run one night from nothing: a new interpreter, and whatever it has to import."""
        completed = subprocess.run(
            [sys.executable, "-m", "kundenkreis", "run", "--as-of", as_of.isoformat()],
            env=self.environment(more=environment),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr

    def environment(
        self, failpoint: str = "", more: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """What the command line finds in its environment."""
        return {
            **os.environ,
            **self.sandbox.connections,
            "AIRFLOW_CONN_WAREHOUSE": self.dsn,
            "KUNDENKREIS_FAILPOINT": failpoint,
            "COLUMNS": "200",
            **({preloaded.DIRECT_GATES: "1"} if self.direct_gates else {}),
            **(more or {}),
        }

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def write_calls(self) -> list[dict[str, Any]]:
        """The requests with which the email tools were changed."""
        return [
            request
            for request in self.sandbox.requests()
            if request["vendor"] in ("listmonk", "mailchimp")
            and request["method"] in ("POST", "PUT", "PATCH", "DELETE")
        ]

    def published(self) -> dict[str, str]:
        """A digest of every published table."""
        return self.digests("marts")

    def digests(self, *schemas: str) -> dict[str, str]:
        """A digest of every table and view of these schemas."""
        names = self.rows(
            "select format('%I.%I', table_schema, table_name) from information_schema.tables "
            f"where table_schema = any('{{{','.join(schemas)}}}') order by 1"
        )
        return {
            name: self.rows(
                f"select md5(coalesce(string_agg(md5(v::text), '' order by md5(v::text)), '')) "
                f"from {name} as v"
            )[0][0]
            for (name,) in names
        }

    def personal_values(self) -> dict[str, set[str]]:
        """What the sources say of persons, in lower case, by kind."""
        queries = {
            "addresses": "select email from raw_hubspot.contacts "
            "union select email from raw_woocommerce.customers "
            "union select billing_email from raw_woocommerce.orders "
            "union select address from activation.subscriber_states",
            "names": "select firstname from raw_hubspot.contacts "
            "union select lastname from raw_hubspot.contacts "
            "union select first_name from raw_woocommerce.customers "
            "union select last_name from raw_woocommerce.customers",
            "numbers": "select phone from raw_hubspot.contacts "
            "union select phone_e164 from raw_hubspot.contacts "
            "union select billing_phone from raw_woocommerce.customers "
            "union select billing_phone from raw_woocommerce.orders",
            "birthdays": "select date_of_birth::text from raw_hubspot.contacts",
        }
        return {
            kind: {
                value.strip().lower()
                for (value,) in self.rows(query)
                # A cell of one letter, and what is no whole address or number, is nobody's.
                if value
                and len(value.strip()) > (6 if kind == "numbers" else 2)
                and (kind != "addresses" or "@" in value)
            }
            for kind, query in queries.items()
        }

    def desired_audiences(self) -> dict[str, set[str]]:
        """Who should be in which audience by the published marts, as ``destination/audience``."""
        from kundenkreis.settings import load_settings

        settings = load_settings()
        wanted: dict[str, set[str]] = {}
        for key, segment in settings.active_segments.items():
            members = self.rows(
                "select lower(customers.email) from marts.segment_members "
                "inner join marts.customers using (customer_id) "
                f"where segment = '{key}' and is_contactable and not is_holdout"
            )
            for destination in segment.destinations:
                name = f"{destination}/{settings.audience_name(segment)}"
                wanted[name] = {row[0] for row in members}
        return wanted

    def audiences(self) -> dict[str, set[str]]:
        """Who is in which of our audiences in the tools, as ``destination/audience``."""
        found: dict[str, set[str]] = {}
        for vendor, audiences in self.sandbox.audiences().items():
            for audience, members in audiences.items():
                found[f"{vendor}/{audience}"] = {member.lower() for member in members}
        return found


@pytest.fixture(scope="module")
def household(
    new_module_warehouse: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
    airflow_metadata: None,
) -> Iterator[Callable[..., Household]]:
    """Makes households; all end with the module."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(customers: int = 150, seed: int = 11, *, direct_gates: bool = False) -> Household:
            home = tmp_path_factory.mktemp("sandbox")
            sandbox = stack.enter_context(
                running_sandbox(home, customers=customers, seed=seed, until=FIRST_NIGHT)
            )
            return Household(new_module_warehouse(), sandbox, direct_gates)

        yield make


def last_json(text: str) -> Any:
    """Parse the JSON document a command printed."""
    return json.loads(text[text.index("{") :])


__all__ = ["FIRST_NIGHT", "Household", "Path", "last_json"]
