"""The copy for a person holds everything, and nobody without the right gets one."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from kundenkreis.errors import DataError
from kundenkreis.privacy.export import export_person, write_private
from kundenkreis.warehouse import READER, SEES_PERSONAL_DATA, roles
from tests.command_line import Call, entry_point
from tests.integration.privacy_warehouse import ANNA, ANNA_ASCII, KEY, fill

pytestmark = pytest.mark.integration


@pytest.fixture
def dsn(warehouse_dsn: str) -> str:
    """A warehouse that knows two persons."""
    fill(warehouse_dsn)
    return warehouse_dsn


@pytest.fixture
def call(
    dsn: str,
    clean_env: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Call:
    """Call the entry point over the warehouse, with no tool connected."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "sources.yml").write_text("{}\n")
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path / "config"))
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", dsn)
    clean_env.setenv("KUNDENKREIS_ERASURE_KEY", KEY)
    clean_env.setenv("COLUMNS", "200")
    return entry_point(clean_env, capfd)


@pytest.mark.parametrize("subject", ["c-anna", ANNA])
def test_it_holds_every_row_about_the_person_and_none_about_others(dsn: str, subject: str) -> None:
    with psycopg.connect(dsn) as connection:
        copy = export_person(connection, subject)
    assert (copy["customer_ids"], copy["addresses"]) == (
        ["c-anna", "c-anna-before"],
        [ANNA_ASCII],
    )
    held = {
        f"{schema}.{table}": len(rows)
        for schema, place in copy["places"].items()
        for table, rows in place["tables"].items()
    }
    assert held == {
        "raw_files.consent_events": 1,
        "raw_files.customers": 1,
        "raw_files.orders": 1,
        "raw_hubspot.contacts": 1,
        "raw_hubspot.contacts__property_history": 1,
        "raw_hubspot.deals": 1,
        "raw_woocommerce.customers": 1,
        "raw_woocommerce.orders": 2,
        "quarantine.releases": 1,
        "quarantine.rejected_records": 2,
        "intermediate_blue.int_customer_identities": 3,
        "intermediate_blue.int_customer_addresses": 1,
        "intermediate_blue.int_consent_events": 1,
        "intermediate_blue.int_orders": 1,
        "intermediate_blue.int_orders_unioned": 1,
        "marts_blue.customers": 1,
        "marts_blue.contactability": 1,
        "marts_blue.customer_360": 1,
        "marts_blue.segment_members": 1,
        "marts_blue.orders": 1,
        "history.customer_ids": 2,
        "history.identity_changes": 1,
        "history.stage_changes": 2,
        "operations.customer_ids_before": 1,
        "activation.delivered_state": 1,
        "activation.drift": 1,
        "activation.ledger": 1,
        "activation.plan_rows": 1,
        "activation.rows_under_way": 1,
        "activation.subscriber_states": 1,
    }
    assert all(len(place["purpose"]) > 20 for place in copy["places"].values())


@pytest.mark.parametrize("role", [READER, SEES_PERSONAL_DATA])
def test_who_may_not_see_everything_gets_nothing(dsn: str, role: str) -> None:
    roles.create(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"set role {role}")
        with pytest.raises(DataError, match="may not see schema"):
            export_person(connection, ANNA)


def test_the_file_is_for_its_owner_only_and_overwrites_none(tmp_path: Path) -> None:
    file = tmp_path / "anna.json"
    write_private(file, {"a": 1})
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(DataError, match="is there already"):
        write_private(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 1}
    with pytest.raises(DataError, match="cannot be written"):
        write_private(tmp_path / "nowhere" / "x.json", {})


def test_nobody_is_nobody(dsn: str) -> None:
    with psycopg.connect(dsn) as connection, pytest.raises(DataError, match="Nothing is held"):
        export_person(connection, "carl@mail.example")


# The commands


def test_the_command_writes_a_file_and_says_what_is_in_it(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "copy.json"
    code, out, err = call("export-person", ANNA, "--output", str(file))
    assert code == 0, err
    assert "raw_woocommerce" in out
    assert "anna" not in out.lower().replace(str(file), "")
    assert json.loads(file.read_text())["addresses"] == [ANNA_ASCII]


def test_a_person_is_erased_by_address_from_standard_input(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ANNA}\n"))
    code, out, err = call("erase", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["customers"] == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ANNA}\n"))
    code, out, err = call("erase")
    assert code == 1
    assert "say --yes" in err
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{ANNA}\n"))
    code, out, err = call("erase", "--yes", "--by", "officer")
    assert code == 0, err
    assert "Erasure 1 is done; 3 orders stay" in out
    assert "anna" not in (out + err).lower()
    code, out, _ = call("erasures", "list", "--json")
    (certificate,) = json.loads(out)
    assert (certificate["state"], certificate["requested_by"]) == ("done", "officer")
    assert "anna" not in out.lower()
    assert call("erasures", "resume")[1].strip() == "No erasure is pending."
    assert "done" in call("erasures", "show", "1")[1]


def test_without_anybody_the_message_says_how_to_say_who(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = call("erase")
    assert code == 1
    assert "Say who" in err


def test_retention_by_hand_counts_first(call: Call) -> None:
    code, out, err = call("retention", "--dry-run", "--json", "--as-of", "2032-01-01")
    assert code == 0, err
    assert json.loads(out)["drift_rows"] == 1
