"""What is too old goes; what the marts are made of stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import psycopg
import pytest

from kundenkreis.errors import CredentialError
from kundenkreis.privacy.erasure import Errand
from kundenkreis.privacy.retention import apply_retention
from tests.integration.activation_warehouse import MemoryTool
from tests.integration.conftest import ShopTemplate
from tests.integration.generated_shop import Shop, Trade
from tests.integration.privacy_warehouse import ANNA_ASCII, BEN, errand, fill, texts

pytestmark = pytest.mark.integration

# The rows of the warehouse are of the first of March, 2026, or of now.
MUCH_LATER = date(2032, 1, 1)


@pytest.fixture
def dsn(warehouse_dsn: str) -> str:
    """A warehouse that knows two persons."""
    fill(warehouse_dsn)
    return warehouse_dsn


@pytest.fixture
def due(dsn: str) -> Errand:
    """Retention by its defaults."""
    return errand(dsn, {"listmonk": MemoryTool(states={ANNA_ASCII: "unsubscribed"})})


def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def _run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_nothing_is_due_of_what_is_new(dsn: str, due: Errand) -> None:
    before = texts(dsn)
    found = apply_retention(due, date(2026, 3, 2))
    assert set(found.values()) == {0}
    assert texts(dsn) == before


def test_a_dry_run_counts_and_changes_nothing(dsn: str, due: Errand) -> None:
    before = texts(dsn)
    found = apply_retention(due, MUCH_LATER, dry_run=True)
    assert texts(dsn) == before
    assert found["drift_rows"] == 1
    assert found["ledger_attributes"] == 0  # of the newest publication
    _run(
        dsn,
        "insert into history.publications (as_of_date, dag_run_id, schema_name)"
        " values ('2026-03-03', 'run-3', 'marts_blue')",
    )
    found = apply_retention(due, MUCH_LATER, dry_run=True)
    # Those of the job that nobody asked for any more are attempts by then.
    assert (found["batches"], found["ledger_attributes"], found["ledger_persons"]) == (1, 3, 4)
    assert found["plan_rows"] == 2
    assert apply_retention(due, MUCH_LATER) == found
    assert apply_retention(due, MUCH_LATER, dry_run=True)["ledger_persons"] == 0


def test_numbers_as_received_go_and_the_marts_do_not_need_them(dsn: str, due: Errand) -> None:
    _run(
        dsn,
        "create table raw_woocommerce._dlt_loads (load_id text, status bigint,"
        " inserted_at timestamptz)",
        "insert into raw_woocommerce._dlt_loads values ('1', 0, '2026-03-01'), ('2', 0, now())",
        "update raw_woocommerce.customers set _dlt_load_id = '2' where id = 18",
    )
    found = apply_retention(due, date(2026, 8, 1))
    assert found["raw_telephone_numbers"] == 5
    assert _rows(
        dsn,
        "select id, billing_phone is null, phone_e164 from raw_woocommerce.customers order by 1",
    ) == [(17, True, "+4930171717"), (18, False, "+4930181818")]


def test_the_marts_are_the_same_without_what_no_model_reads(shop_template: ShopTemplate) -> None:
    day, later = date(2026, 3, 31), date(2026, 8, 1)
    dsn = shop_template.clone("retention")
    Shop(Trade(5, day, lambda day: 4.0, leads=3.0, till=1.0)).open(dsn)
    _run(
        dsn,
        "update raw_woocommerce.customers set billing_phone = '030 1', phone_e164 = '+49301'",
        "update raw_woocommerce.orders set billing_phone = '030 2', phone_e164 = '+49302'",
        "update raw_hubspot.contacts set phone = '030 3', _dlt_id = id",
        "insert into raw_hubspot.contacts__property_history"
        " (property, value, changed_at, _dlt_parent_id, _dlt_list_idx)"
        " select property, value, createdate, _dlt_id, 1 from raw_hubspot.contacts,"
        " (values ('hs_lead_status', 'open'), ('hs_marketable_status', 'true'))"
        " as changes (property, value)",
        *(
            f"create table raw_{source}._dlt_loads as select distinct _dlt_load_id as load_id,"
            " 0::bigint as status, timestamptz '2026-03-31' as inserted_at"
            f" from raw_{source}.{table}"
            for source, table in (("woocommerce", "orders"), ("hubspot", "contacts"))
        ),
        "insert into raw_woocommerce._dlt_loads"
        " select distinct _dlt_load_id, 0, timestamptz '2026-03-31'"
        " from raw_woocommerce.customers except select * from raw_woocommerce._dlt_loads",
    )
    with psycopg.connect(dsn) as connection:
        shop_template.project.build(connection, day, "marts_blue")
    removed = apply_retention(errand(dsn, {}), later)
    assert removed["raw_telephone_numbers"] > 50
    assert removed["raw_changes_nobody_reads"] > 10
    with psycopg.connect(dsn) as connection:
        shop_template.project.build(connection, day, "marts_green")
    held = texts(dsn)
    blue = {name.replace("blue", ""): rows for name, rows in held.items() if "_blue." in name}
    green = {name.replace("green", ""): rows for name, rows in held.items() if "_green." in name}
    assert len(blue) > 40
    assert {name for name, rows in blue.items() if green[name] != rows} == set()
    shop_template.drop("retention")


def test_earlier_states_of_loads_go_and_the_newest_stays(dsn: str, due: Errand) -> None:
    _run(
        dsn,
        "create table raw_files._dlt_loads (load_id text, status bigint, inserted_at timestamptz)",
        "insert into raw_files._dlt_loads select n::text, 0, now() from generate_series(1, 3) as n",
        "create table raw_files._dlt_pipeline_state (pipeline_name text, created_at timestamptz,"
        " _dlt_load_id text)",
        "insert into raw_files._dlt_pipeline_state select 'raw_files', '2026-01-01', n::text"
        " from generate_series(1, 3) as n",
    )
    assert apply_retention(due, date(2026, 8, 1))["raw_load_states"] == 2
    assert _rows(dsn, "select _dlt_load_id from raw_files._dlt_pipeline_state") == [("3",)]


def test_closed_rejections_lose_their_content_but_releases_in_force_do_not(
    dsn: str, due: Errand
) -> None:
    _run(
        dsn,
        "update quarantine.rejected_records set state = 'closed', closed_at = '2026-03-01',"
        " last_rejected_at = '2026-03-01', closed_because = 'released' where record_hash <> 'q3'",
        "update quarantine.releases set outcome = 'loaded'",
    )
    assert apply_retention(due, date(2026, 8, 1))["quarantine_payloads"] == 1
    contents = "select record_hash, payload is null from quarantine.rejected_records order by 1"
    assert _rows(dsn, contents) == [("q1", False), ("q2", True), ("q3", False)]
    found = apply_retention(due, date(2027, 8, 1))
    assert found["quarantine_rows"] == 1  # q3 was rejected today
    assert _rows(dsn, contents) == [("q1", False), ("q3", False)]


def test_the_proof_of_a_consent_goes_long_after_its_end_and_the_withdrawal_stays(
    dsn: str, due: Errand
) -> None:
    _run(
        dsn,
        "insert into raw_files.consent_events (source_name, email, evidence, occurred_at)"
        f" values ('desk', '{BEN}', 'withdrawn', '2026-04-01')",
        "insert into intermediate_blue.int_consent_events values"
        f" ('desk', '{BEN}', 'email', 'withdrawn', '2026-04-01', null)",
    )
    assert apply_retention(due, date(2029, 3, 1))["consent_proofs"] == 0
    assert apply_retention(due, date(2029, 4, 2))["consent_proofs"] == 1
    assert _rows(dsn, f"select evidence from raw_files.consent_events where email = '{BEN}'") == [
        ("withdrawn",)
    ]
    # A consent that still holds is proved for as long as it does.
    assert _rows(dsn, "select count(*) from raw_files.consent_events") == [(2,)]


_ANNA_IS_A_LEAD = (
    "update marts_blue.customer_360 set orders_count = 0, is_contactable = false"
    " where customer_id = 'c-anna'",
    "delete from activation.delivered_state where customer_id = 'c-anna'",
    "delete from activation.batches_under_way",
    "update activation.subscriber_states set state = 'unsubscribed'"
    f" where address = '{ANNA_ASCII}'",
)


def test_a_lead_without_a_sign_of_life_goes_and_its_withdrawal_stays(dsn: str, due: Errand) -> None:
    _run(dsn, *_ANNA_IS_A_LEAD)
    assert apply_retention(due, date(2028, 3, 2), dry_run=True)["leads"] == 0  # of her consent
    assert apply_retention(due, date(2029, 3, 2), dry_run=True)["leads"] == 1
    assert apply_retention(due, date(2029, 3, 2))["leads"] == 1
    left = {table for table, text in texts(dsn).items() if "anna" in text.lower()}
    assert left <= {
        "activation.subscriber_states",
        "activation.known_contacts",  # a view of it
        "quarantine.rejected_records",
    }
    assert _rows(
        dsn, f"select state from activation.subscriber_states where address = '{ANNA_ASCII}'"
    ) == [("unsubscribed",)]
    kinds = "select kind, state, requested_by from privacy.erasures"
    assert _rows(dsn, kinds) == [("retention", "done", "retention")]
    assert _rows(dsn, "select distinct blocks_states from privacy.blocked_hashes") == [(False,)]
    assert apply_retention(due, date(2029, 3, 2))["leads"] == 0


def test_a_batch_that_never_ends_becomes_attempts_in_doubt(dsn: str, due: Errand) -> None:
    _run(dsn, "update activation.batches_under_way set intended_at = '2026-03-01'")
    assert apply_retention(due, date(2028, 3, 2), dry_run=True)["batches"] == 1
    assert apply_retention(due, date(2028, 3, 2))["batches"] == 1
    assert _rows(dsn, "select count(*) from activation.batches_under_way") == [(0,)]
    doubts = "select address from activation.delivered_state where in_doubt order by 1"
    assert _rows(dsn, doubts) == [(ANNA_ASCII,), (BEN,)]


@pytest.mark.parametrize(
    "statement",
    [
        "update marts_blue.customer_360 set last_sign_of_interest_on = '2028-12-01'",
        "update marts_blue.customer_360 set is_contactable = true",
        "update marts_blue.customer_360 set orders_count = 1",
        "insert into activation.delivered_state (destination, audience, address, customer_id,"
        f" is_member) values ('listmonk', 'A', '{ANNA_ASCII}', 'c-anna', true)",
        "insert into activation.batches_under_way (publication_id, run_id, destination, audience,"
        " operation, plan_row_ids, customer_ids, addresses, payload_hashes) values (2, 'r',"
        f" 'listmonk', 'A', 'add', '{{p}}', '{{c-anna}}', array['{ANNA_ASCII}'], '{{h}}')",
        # She has ordered since the night: the marts do not know yet.
        "update raw_woocommerce.orders set date_created_gmt = now() where id = 1",
    ],
    ids=["interest", "contactable", "buyer", "member", "under way", "order of today"],
)
def test_who_gives_a_sign_or_is_needed_stays(dsn: str, due: Errand, statement: str) -> None:
    _run(dsn, *_ANNA_IS_A_LEAD, statement)
    assert apply_retention(due, date(2029, 3, 2))["leads"] == 0


def test_without_a_key_leads_wait_in_the_night_and_a_person_is_told(
    dsn: str, due: Errand, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(dsn, *_ANNA_IS_A_LEAD)
    monkeypatch.delenv("KUNDENKREIS_ERASURE_KEY", raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", dsn)

    def none(name: str) -> Any:
        raise CredentialError(f"Connection '{name}' is not set.")

    due = replace(due, resolve=none)
    found = apply_retention(due, date(2029, 3, 2), leads_may_wait=True)
    assert found["leads_without_key"] == 1
    with pytest.raises(CredentialError, match="key of erasures is missing"):
        apply_retention(due, date(2029, 3, 2))
