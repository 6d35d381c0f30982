"""Nights that fail: one message each, nothing half-published or lost, and the next one recovers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from kundenkreis.settings import repository_root
from tests.http_server import Asked, json_answer, serving
from tests.night.conftest import FIRST_NIGHT, Household

pytestmark = [pytest.mark.integration, pytest.mark.night, pytest.mark.trouble]


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[dict[str, str], list[Asked]]]:
    """A config folder with a channel for everything, as environment; and what the channel got."""
    folder = tmp_path / "config"
    shutil.copytree(repository_root() / "config", folder)
    (folder / "alerts.yml").write_text(
        "channels: {ops: {kind: webhook}}\n"
        "events: {failed_task: [ops], failed_gate: [ops], held_segment: [ops]}\n"
        "deadline_minutes: 600\n"
    )
    with serving(json_answer(200, {})) as (port, asked):
        yield (
            {
                "KUNDENKREIS_CONFIG": str(folder),
                "AIRFLOW_CONN_ALERTS_WEBHOOK": f"http://127.0.0.1:{port}/hook",
            },
            asked,
        )


def _news(asked: list[Asked]) -> set[tuple[str, str, str]]:
    """What was told since the last look: event, state and subject."""
    found = {
        (one.json["event"], one.json["state"], one.json["title"].removeprefix("Over: ").split()[0])
        for one in asked
    }
    assert len(found) == len(asked), "something was told twice"
    assert not any("@" in one.body.decode() for one in asked)
    asked.clear()
    return found


def test_failed_nights_say_why_and_the_next_one_ends_right(
    household: Callable[..., Household], told: tuple[dict[str, str], list[Asked]]
) -> None:
    home = household(customers=100, seed=5, direct_gates=True)
    alerts, asked = told

    home.sandbox.faults(vendor="hubspot", kind="unauthorised", times=-1)
    refused = home.run(FIRST_NIGHT, **alerts)
    assert _news(asked) == {("failed_task", "opened", "extract.hubspot")}

    assert refused.returncode == 1
    assert "extract.hubspot failed: CredentialError: HubSpot: POST /crm/" in refused.stderr
    assert "connection 'hubspot'" in refused.stderr
    assert home.rows("select count(*) from history.publications") == [(0,)]
    assert home.write_calls() == []

    home.sandbox.clear_faults()
    home.sandbox.faults(vendor="listmonk", kind="error_in_200", method="PUT", times=-1)
    home.sandbox.faults(vendor="mailchimp", kind="error_in_200", method="POST", times=-1)
    unsent = home.run(FIRST_NIGHT, **alerts)
    assert _news(asked) == {
        ("failed_task", "resolved", "extract.hubspot"),
        ("failed_task", "opened", "deliver.listmonk"),
        ("failed_task", "opened", "deliver.mailchimp"),
    }

    assert unsent.returncode == 1
    for system in ("listmonk", "mailchimp"):
        assert f"deliver.{system} failed: VendorError: " in unsent.stderr
    assert "listmonk: PUT " in unsent.stderr
    assert home.rows("select count(*) from history.publications") == [(1,)]
    for night in (refused, unsent):
        assert "Traceback" not in night.stdout + night.stderr
        assert "@" not in night.stdout + night.stderr

    home.sandbox.clear_faults()
    home.run(FIRST_NIGHT, check=True, **alerts)
    assert _news(asked) == {
        ("failed_task", "resolved", "deliver.listmonk"),
        ("failed_task", "resolved", "deliver.mailchimp"),
    }

    wanted, found = home.desired_audiences(), home.audiences()
    assert any(wanted.values())
    assert {name: found.get(name, set()) for name in wanted} == wanted
    assert home.rows("select count(*) from activation.drift") == [(0,)]
    assert home.rows("select count(*) from activation.effective_state where in_doubt") == [(0,)]
    open_attempts = "select count(*) from activation.batches_under_way"
    assert home.rows(open_attempts) == [(0,)]

    _stopped_by_gate_marts(home, alerts, asked)


def _stopped_by_gate_marts(home: Household, alerts: dict[str, str], asked: list[Asked]) -> None:
    """A whole night over damaged data ends at its gate; readers and mailboxes notice nothing.

    test_night.py does the same with gate_landing.
    """
    publications = home.rows("select publication_id from history.publications")
    published, calls = home.published(), len(home.write_calls())
    with psycopg.connect(home.dsn) as connection:
        # The sources read only what changed, so these rows do not come back by themselves.
        connection.execute("update raw_woocommerce.orders set total = total * 100")
    stopped = home.run(FIRST_NIGHT, **alerts)
    assert ("failed_gate", "opened", "gate_marts") in _news(asked)
    assert stopped.returncode == 1
    assert "gate_marts failed: GateFailure" in stopped.stderr
    assert "marts.orders.revenue_reconciles_with_raw" in stopped.stderr
    assert "@" not in stopped.stdout + stopped.stderr
    assert home.rows("select publication_id from history.publications") == publications
    assert home.published() == published
    assert len(home.write_calls()) == calls
