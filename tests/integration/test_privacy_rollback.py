"""A rollback shows an older night; nobody who was erased or withdrew since comes back with it."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from kundenkreis.connections import Connection
from kundenkreis.errors import CredentialError
from kundenkreis.privacy.erasure import erase
from kundenkreis.warehouse.rollback import Rollback, roll_back
from tests.integration.privacy_warehouse import (
    ANNA,
    ANNA_ASCII,
    BEN,
    KEY,
    errand,
    fill,
    texts,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def dsn(warehouse_dsn: str) -> str:
    """Blue is published, green held the publication before."""
    fill(warehouse_dsn)
    return warehouse_dsn


def _roll_back(dsn: str) -> Rollback:
    return roll_back(
        dsn,
        "ben",
        wait_minutes=1,
        resolve=lambda name: Connection(name, "https", "", password=KEY),
    )


def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def test_an_erased_person_is_in_neither_colour(dsn: str) -> None:
    erase(errand(dsn, {}), ANNA, "ben")
    done = _roll_back(dsn)
    assert done.publication.schema_name == "marts_green"
    assert done.erased == 0
    assert _rows(dsn, "select customer_id from marts.customers") == [("c-ben",)]
    # Nor does the id come back that the publication had changed.
    ids = "select source_id from history.customer_ids"
    assert _rows(dsn, ids) == [("18",)]


def test_a_colour_from_a_backup_is_emptied_of_who_was_erased(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        for schema in ("marts_green", "intermediate_green"):
            connection.execute(f"alter schema {schema} rename to kept_{schema}".encode())
    erase(errand(dsn, {}), ANNA, "ben")
    with psycopg.connect(dsn) as connection:
        for schema in ("marts_green", "intermediate_green"):
            connection.execute(f"alter schema kept_{schema} rename to {schema}".encode())
    assert _rows(dsn, "select count(*) from marts_green.customers") == [(2,)]
    assert _roll_back(dsn).erased == 1
    left = {
        table
        for table, text in texts(dsn).items()
        if ANNA_ASCII in text or "c-anna" in text or "Abel" in text
    }
    assert left == set()
    assert _rows(dsn, "select order_id, customer_id from marts_green.orders order by 1") == [
        ("1", None),
        ("3", "c-ben"),
    ]


def test_without_the_key_nothing_is_shown_that_could_bring_somebody_back(dsn: str) -> None:
    erase(errand(dsn, {}), ANNA, "ben")

    def none(name: str) -> Connection:
        raise CredentialError(f"Connection '{name}' is not set.")

    with pytest.raises(CredentialError, match="key of erasures is missing"):
        roll_back(dsn, "ben", wait_minutes=1, resolve=none)
    assert _rows(dsn, "select count(*) from history.publications") == [(2,)]


@pytest.mark.parametrize("told_by", ["the night", "the tool", "the tool, a bounce"])
def test_who_withdrew_since_is_contactable_no_more(dsn: str, told_by: str) -> None:
    with psycopg.connect(dsn) as connection:
        if told_by == "the night":
            connection.execute(
                "update marts_blue.contactability set is_contactable = false, "
                "is_preferred = false, reason = 'withdrawn' where customer_id = 'c-anna'"
            )
        else:
            connection.execute(
                "update activation.subscriber_states set state = %s, state_changed_at = now() "
                "where address = %s",
                ("bounced" if "bounce" in told_by else "unsubscribed", ANNA_ASCII),
            )
    reason = "bounced" if "bounce" in told_by else "withdrawn"
    assert _roll_back(dsn).withdrawn == 1
    verdicts = (
        "select address, is_contactable, is_preferred, reason from marts_green.contactability"
    )
    assert _rows(dsn, f"{verdicts} order by address") == [
        (ANNA_ASCII, False, False, reason),
        (BEN, True, True, "consent_double"),
    ]
    for table in ("customer_360", "segment_members"):
        members = f"select customer_id, not_contactable_because from marts_green.{table} order by 1"
        assert _rows(dsn, members) == [("c-anna", reason), ("c-ben", None)]


def test_who_had_withdrawn_before_a_newer_opt_in_stays_contactable(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update activation.subscriber_states set state = 'unsubscribed', "
            "state_changed_at = '2026-02-01' where address = %s",
            (ANNA_ASCII,),
        )
    assert _roll_back(dsn).withdrawn == 0
