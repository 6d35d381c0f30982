"""Gate marts on a real PostgreSQL: every expectation passes on clean data and can fail."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psycopg
import pytest

from kundenkreis.settings import Settings
from tests.integration import gate_runs
from tests.integration import landing_fixture as landing
from tests.integration import marts_fixture as marts
from tests.integration.gate_runs import GateRun

pytestmark = pytest.mark.integration

ROUNDS: dict[str, tuple[str, ...]] = {
    # A text message that did not arrive says nothing of a mailbox, and the other way round.
    "clean": (
        "insert into contactability select customer_id, 'sms', address, true, reason, evidence, "
        "evidence_at from contactability where customer_id = 'c12'",
        "update activation.subscriber_states set state = 'bounced' where vendor_id = '12'",
        "update contactability set is_contactable = false, reason = 'bounced' "
        "where customer_id = 'c12' and channel = 'email'",
        "update segment_members set is_contactable = false where customer_id = 'c12'",
        "update customer_360 set is_contactable = false where customer_id = 'c12'",
    ),
    # Every row twice, rows of nobody, dates after the as-of date, values that contradict.
    "broken": (
        *(
            f"insert into {table} select * from {table}"
            for table in (
                "customer_source_ids",
                "contactability",
                "orders",
                "customer_rfm",
                "customer_value",
                "history_value_parameters",
                "history_rfm_segment_changes",
                "lifecycle_projections",
                "segment_members",
                "customer_360",
                "history_stage_changes",
                "history_kpi_daily",
            )
        ),
        "insert into customers select * from customers where customer_id = 'c3'",
        "delete from customers where customer_id in ('c1', 'c2')",
        "update customers set first_seen_on = '2026-04-05' where customer_id = 'c4'",
        "delete from customer_source_ids where customer_id in ('c5', 'c6')",
        "update contactability set is_contactable = true where evidence is null",
        "update contactability set is_contactable = false, reason = null "
        "where customer_id in ('c10', 'c11')",
        "update contactability set evidence_at = '2026-01-01' where customer_id = 'c12'",
        "update activation.subscriber_states set state = 'unsubscribed' where vendor_id = '12'",
        "update orders set is_counted = false where order_id = '27'",
        "update orders set order_date = '2026-04-03' where order_id = '21'",
        "update orders set revenue_after_refunds = 1000 where order_id = '22'",
        "update orders set revenue_before_refunds = 1000 where order_id = '23'",
        "delete from orders where order_id = '24'",
        "update customer_rfm set f_score = 6 where customer_id = 'c30'",
        "update customer_rfm set r_score = 5, f_score = 5, m_score = 5 where customer_id < 'c15'",
        "delete from customer_rfm where customer_id = 'c31'",
        "delete from history_rfm_cutoffs where dimension = 'frequency'",
        "update history_rfm_cutoffs set method = 'fallback' where dimension = 'monetary'",
        "update history_rfm_segment_changes set to_segment = 'Lost' where customer_id = 'c34'",
        "update customers set has_profiling_objection = true where customer_id = 'c35'",
        "update customers set birthday = '2008-04-01' where customer_id = 'c36'",
        "update customer_value set p_alive = 1.5 where customer_id = 'c32'",
        "delete from customer_value where customer_id = 'c33'",
        "update history_value_parameters set orders_outcome = 'kept', "
        "orders_reason = 'a parameter runs away', orders_parameters_of = '2026-03-30'",
        "update lifecycle_intervals set stage = 'lost' where customer_id = 'c40'",
        "update lifecycle_intervals set valid_to = '2026-03-31' "
        "where customer_id = 'c41' and valid_to is null",
        "update lifecycle_intervals set valid_to = valid_to - 1 where customer_id = 'c42'",
        "update lifecycle_intervals set valid_from = '2026-04-02' "
        "where customer_id = 'c43' and valid_to is null",
        "update lifecycle_intervals set stage = 'reach' where customer_id = 'c44'",
        "update lifecycle_projections set from_date = '2026-03-31' where customer_id = 'c45'",
        "update segment_members set segment = 'unheard_of' where customer_id = 'c50'",
        "update segment_members set member_since = '2026-04-02' where customer_id = 'c51'",
        "update segment_members set is_contactable = true where customer_id in ('c101', 't7')",
        "update contactability set is_contactable = false where customer_id = 't7'",
        "update customers set email = 'other@mail.example' where customer_id = 'c52'",
        "update segment_members set is_holdout = null where customer_id = 'c53'",
        "update segment_members set is_holdout = true "
        "where customer_id in ('c13', 'c14', 'c15', 'c16', 'c17')",
        "insert into segment_members select segment, 'c' || n, member_since, false, false, null "
        "from segment_members, generate_series(1000, 1300) as n "
        "where segment = 'buyers' and customer_id = 'c18'",
        "delete from customer_360 where customer_id = 'c60'",
        "update customer_360 set stage = 'churned' where customer_id = 'c61'",
        "update customer_360 set rfm_code = null",
        "update customer_360 set is_contactable = true where customer_id = 't8'",
        "update contactability set is_contactable = false where customer_id = 't8'",
        "update kpi_daily set churn_alarm = true, orders = orders + 1, customers_churned = 7",
        "insert into kpi_daily select * from kpi_daily",
        "insert into kpi_holdout_lift select * from kpi_holdout_lift",
        "update kpi_holdout_lift set holdout_customers = 12, treated_customers = 388",
        "update customer_360 set as_of_date = '2026-03-30' where customer_id = 'c62'",
        "update marts_blue.customer_360 set stage = 'churned'",
        "update raw_woocommerce.orders set currency = 'XXX' where id % 3 = 1",
        "insert into history.customer_ids values "
        "('woocommerce', 'customer', '70', 'an earlier id', '2026-03-30')",
        "update marts_blue.segment_members set is_holdout = true where customer_id = 'c71'",
        "insert into activation.ledger (plan_row_id, publication_id, run_id, destination, "
        "audience, segment, customer_id, operation, address, payload_hash, state) select 'p', "
        "max(publication_id), 'r', 'listmonk', 'Buyers', 'buyers', 'c71', 'add', 'nobody', 'h', "
        "'confirmed' from history.publications",
        "create view marts.orders as select order_id from marts_green.orders",
    ),
    "contract": (
        "drop table lifecycle_projections",
        *(
            f"alter table {table} drop column {column}"
            for table, column in (
                ("customers", "email"),
                ("customer_source_ids", "source_id"),
                ("contactability", "evidence_at"),
                ("orders", "not_counted_because"),
                ("customer_rfm", "rfm_segment"),
                ("history_rfm_cutoffs", "method"),
                ("history_rfm_segment_changes", "to_segment"),
                ("customer_value", "clv_365d"),
                ("history_value_parameters", "order_value_reason"),
                ("lifecycle_intervals", "entered_because"),
                ("segment_members", "not_contactable_because"),
                ("customer_360", "rfm_code"),
                ("kpi_daily", "churn_rate"),
                ("kpi_holdout_lift", "holdout_percent"),
                ("history_stage_changes", "from_stage"),
                ("history_kpi_daily", "revenue"),
            )
        ),
    ),
    "contract of projections": (
        "alter table lifecycle_projections drop column stage",
        # What the round before did outside the schema that is built anew.
        "update raw_woocommerce.orders set currency = 'EUR'",
        "truncate history.customer_ids, activation.ledger",
        "update marts_blue.segment_members set is_holdout = false",
        "update marts_blue.customer_360 as published set stage = wide.stage "
        "from customer_360 as wide where wide.customer_id = published.customer_id",
        "drop view if exists marts.orders",
        "update activation.subscriber_states set state = 'subscribed' where vendor_id = '12'",
        "update contactability set channel = 'sms' where customer_id = 'c20'",
    ),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return landing.settings(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def runs(module_warehouse_dsn: str, settings: Settings) -> Iterator[dict[str, GateRun]]:
    """One run on clean marts before any publication, then one per kind of corruption after one."""
    dsn = module_warehouse_dsn
    landing.land(dsn)
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        marts.build(dsn)
        found["first night"] = gate_runs.run(
            "marts", settings, dsn, "first", patch, marts_schema=marts.SCHEMA
        )
        marts.publish_before(dsn)
        for name, statements in ROUNDS.items():
            landing.execute(dsn, f"drop schema {marts.SCHEMA} cascade")
            marts.build(dsn)
            landing.execute(dsn, f"set search_path to {marts.SCHEMA}", *statements)
            found[name] = gate_runs.run(
                "marts", settings, dsn, name, patch, marts_schema=marts.SCHEMA
            )
    yield found


def test_clean_marts_pass_before_and_after_a_publication(runs: dict[str, GateRun]) -> None:
    for name in ("first night", "clean"):
        assert runs[name].failure is None
        assert runs[name].failed() == set()
    new = set(runs["clean"].results) - set(runs["first night"].results)
    assert new == {
        "marts.customer_360.few_change_stage",
        "marts.segment_members.holdout_kept",
        "marts.segment_members.no_holdout_delivered",
        "marts.segment_members.size_drift",
    }


def test_consent_to_text_messages_is_none_to_email(runs: dict[str, GateRun]) -> None:
    assert runs["contract of projections"].failed() == {
        "marts.lifecycle_projections.columns",
        "marts.segment_members.contactable_by_consent",
        "marts.segment_members.sent_address_is_contactable",
        "marts.customer_360.contactable_by_consent",
    }


def test_every_expectation_can_fail(runs: dict[str, GateRun]) -> None:
    every = set(runs["clean"].results)
    assert len(every) > 55
    failing = {
        key
        for run in runs.values()
        for key in run.failed()
        # Only a failure counts: an expectation that merely broke has shown nothing.
        if not run.results[key]["raised"]
    }
    # Needs a declaration; test_gates_rejections.py has some.
    assert every - failing == {"marts.contract.declarations_current"}


def test_corruption_stops_the_run_and_warnings_are_told_apart(runs: dict[str, GateRun]) -> None:
    run = runs["broken"]
    assert run.failure is not None
    assert run.failure.startswith("Gate marts stopped the run: ")
    assert {key for key, row in run.results.items() if row["raised"]} == set()
    assert run.failed("warning") == {
        "marts.contactability.verdict_has_reason",
        "marts.customer_360.few_change_stage",
        "marts.history_rfm_cutoffs.from_quantiles",
        "marts.history_value_parameters.fitted",
        "marts.kpi_daily.churn_alarm",
        "marts.kpi_holdout_lift.sample_ratio",
        "marts.segment_members.holdout_kept",
        "marts.segment_members.holdout_share",
        "marts.segment_members.no_holdout_delivered",
        "marts.segment_members.required_columns",
        "marts.segment_members.size_drift",
    }
    drift = run.results["marts.segment_members.size_drift"]["observed"]
    assert drift.startswith("buyers ")
    lacking = run.results["marts.segment_members.required_columns"]["observed"]
    assert lacking.startswith("leads lacks rfm_code (")
    fallback = run.results["marts.history_rfm_cutoffs.from_quantiles"]["observed"]
    assert fallback == "monetary by fallback"
    assert run.results["marts.kpi_daily.churn_alarm"]["observed"] == "churn_rate 0.0123"
    mismatch = run.results["marts.kpi_holdout_lift.sample_ratio"]["observed"]
    assert mismatch.startswith("buyers: 12 of 400, expected 40")
    kept = run.results["marts.history_value_parameters.fitted"]["observed"]
    assert kept.startswith("BG/NBD kept of 2026-03-30: a parameter runs away")


def test_reconciliation_says_how_much_is_missing(runs: dict[str, GateRun]) -> None:
    results = runs["broken"].results
    orders = results["marts.orders.reconcile_with_raw"]
    assert orders["observed"].startswith("woocommerce: 1 missing, ")
    revenue = results["marts.orders.revenue_reconciles_with_raw"]
    assert revenue["observed"].startswith("woocommerce: expected ")
    assert "in 2 orders" in revenue["observed"]


def test_unconsented_members_stop_the_run_by_themselves(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    marts.build(warehouse_dsn)
    landing.execute(
        warehouse_dsn,
        "update marts_green.segment_members set is_contactable = true where customer_id = 'c120'",
    )
    run = gate_runs.verdicts("marts", settings, warehouse_dsn, "run", marts_schema=marts.SCHEMA)
    assert run.failed() == {
        "marts.segment_members.contactable_by_consent",
        "marts.segment_members.sent_address_is_contactable",
    }
    assert run.failure is not None
    assert "segment_members: No member is flagged contactable" in run.failure
    assert "observed: 1 row; allowed: no unconsented member" in run.failure
    assert (
        "find the rows: select member.segment, member.customer_id from marts_green" in run.failure
    )


def test_the_rows_are_found_by_the_sql_of_the_message(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    marts.build(warehouse_dsn)
    landing.execute(warehouse_dsn, "delete from marts_green.orders where order_id = '77'")
    run = gate_runs.verdicts("marts", settings, warehouse_dsn, "run", marts_schema=marts.SCHEMA)
    assert run.failure is not None
    lines = run.failure.splitlines()
    position = next(i for i, line in enumerate(lines) if "reconcile_with_raw" in line)
    found = next(line for line in lines[position:] if "find the rows: " in line)
    with psycopg.connect(warehouse_dsn) as connection:
        rows = connection.execute(found.split("find the rows: ")[1].encode()).fetchall()
    assert rows == [("woocommerce", "77", True, False)]


def test_a_backfill_is_not_compared_with_the_publication(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    marts.build(warehouse_dsn)
    marts.publish_before(warehouse_dsn)
    run = gate_runs.verdicts(
        "marts",
        settings,
        warehouse_dsn,
        "run",
        marts_schema=marts.SCHEMA,
        as_of_date=date(2026, 3, 29),
    )
    assert "marts.segment_members.size_drift" not in run.results


@pytest.mark.parametrize("schemas", [("raw_files",), ("raw_files", "raw_hubspot"), ()])
def test_reconciliation_reads_whichever_sources_there_are(
    warehouse_dsn: str, tmp_path: Path, schemas: tuple[str, ...]
) -> None:
    landing.land(warehouse_dsn)
    marts.build(warehouse_dsn)
    landing.execute(
        warehouse_dsn,
        *(
            f"drop schema {schema} cascade"
            for schema in ("raw_woocommerce", "raw_hubspot", "raw_files")
            if schema not in schemas
        ),
    )
    enabled = "".join(f"{schema.removeprefix('raw_')}: {{}}\n" for schema in schemas)
    (tmp_path / "config").mkdir()
    settings = landing.settings(tmp_path / "config", enabled or "{}")
    run = gate_runs.verdicts("marts", settings, warehouse_dsn, "run", marts_schema=marts.SCHEMA)
    assert {key for key, row in run.results.items() if row["raised"]} == set()
    # The shop's orders have no raw rows any more; the till's reconcile.
    expected = {"marts.orders.reconcile_with_raw"} if schemas else set()
    assert run.failed() == expected
    if schemas:
        observed = run.results["marts.orders.reconcile_with_raw"]["observed"]
        assert observed == "woocommerce: 0 missing, 500 unknown of 500 orders"


def test_the_direct_evaluation_agrees_with_great_expectations(runs: dict[str, GateRun]) -> None:
    assert {name: run.disagreements for name, run in runs.items() if run.disagreements} == {}


def test_results_are_complete(runs: dict[str, GateRun]) -> None:
    for run in runs.values():
        for row in run.results.values():
            empty = [name for name, value in row.items() if value in (None, "")]
            assert empty == (["measured"] if row["raised"] else [])


def test_nothing_that_is_kept_or_shown_holds_an_address(runs: dict[str, GateRun]) -> None:
    for name, run in runs.items():
        assert len(run.stored) > 20
        leaks = [where for where, text in run.texts().items() if "@mail.example" in text.lower()]
        assert leaks == [], name


def test_a_missing_mart_is_named(runs: dict[str, GateRun]) -> None:
    result = runs["contract"].results["marts.tables_exist"]
    assert result["observed"] == "missing: lifecycle_projections"
    assert Path(str(runs["clean"].summary and runs["clean"].summary["data_docs"])).exists()
