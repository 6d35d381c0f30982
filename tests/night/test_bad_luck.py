"""Nights that fail: one message each, nothing half-published or lost, and the next one recovers."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.night.conftest import FIRST_NIGHT, Household

pytestmark = pytest.mark.integration


def test_failed_nights_say_why_and_the_next_one_ends_right(
    household: Callable[..., Household],
) -> None:
    home = household(customers=100, seed=5)

    home.sandbox.faults(vendor="hubspot", kind="unauthorised", times=-1)
    refused = home.run(FIRST_NIGHT)

    assert refused.returncode == 1
    assert "extract.hubspot failed: CredentialError: HubSpot: POST /crm/" in refused.stderr
    assert "connection 'hubspot'" in refused.stderr
    assert home.rows("select count(*) from history.publications") == [(0,)]
    assert home.write_calls() == []

    home.sandbox.clear_faults()
    home.sandbox.faults(vendor="listmonk", kind="error_in_200", method="PUT", times=-1)
    home.sandbox.faults(vendor="mailchimp", kind="error_in_200", method="POST", times=-1)
    unsent = home.run(FIRST_NIGHT)

    assert unsent.returncode == 1
    for system in ("listmonk", "mailchimp"):
        assert f"deliver.{system} failed: VendorError: " in unsent.stderr
    assert "listmonk: PUT " in unsent.stderr
    assert home.rows("select count(*) from history.publications") == [(1,)]
    for night in (refused, unsent):
        assert "Traceback" not in night.stdout + night.stderr
        assert "@" not in night.stdout + night.stderr

    home.sandbox.clear_faults()
    home.run(FIRST_NIGHT, check=True)

    wanted, found = home.desired_audiences(), home.audiences()
    assert any(wanted.values())
    assert {name: found.get(name, set()) for name in wanted} == wanted
    assert home.rows("select count(*) from activation.drift") == [(0,)]
    assert home.rows("select count(*) from activation.delivered_state where in_doubt") == [(0,)]
    open_attempts = "select count(*) from activation.ledger where state in ('intended', 'sent')"
    assert home.rows(open_attempts) == [(0,)]

    _stopped_by_gate_marts(home)


def _stopped_by_gate_marts(home: Household) -> None:
    """A whole night over damaged data ends at its gate; readers and mailboxes notice nothing.

    test_night.py does the same with gate_landing.
    """
    publications = home.rows("select publication_id from history.publications")
    published, calls = home.published(), len(home.write_calls())
    with psycopg.connect(home.dsn) as connection:
        # The sources read only what changed, so these rows do not come back by themselves.
        connection.execute("update raw_woocommerce.orders set total = total * 100")
    stopped = home.run(FIRST_NIGHT)
    assert stopped.returncode == 1
    assert "gate_marts failed: GateFailure" in stopped.stderr
    assert "marts.orders.revenue_reconciles_with_raw" in stopped.stderr
    assert "@" not in stopped.stdout + stopped.stderr
    assert home.rows("select publication_id from history.publications") == publications
    assert home.published() == published
    assert len(home.write_calls()) == calls
