"""Faults that data can have, and what stops each: a gate's expectation, quarantine or the extract.

A shop trades for weeks and its nights are published. Then one thing goes wrong. Whatever it is,
readers see the former publication, the colour that failed cannot be published, and there is
nothing to deliver.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest

from kundenkreis import night
from kundenkreis.errors import DataError, GateFailure, KundenkreisError, PublicationRefused
from kundenkreis.quality import facts, run_gate
from kundenkreis.settings import Settings, load_settings
from kundenkreis.sources import extract
from kundenkreis.warehouse import publish
from tests.integration import direct_evaluation
from tests.integration.compiled_project import CompiledProject
from tests.integration.conftest import ShopTemplate
from tests.integration.dbt_support import build_models
from tests.integration.generated_shop import Shop, Trade

pytestmark = pytest.mark.integration

DAY = date(2026, 5, 6)
_NIGHTS_BEFORE = 30
_PUBLISHED_NIGHTS = 3
_OF_DAY = "timestamptz '2026-05-06 00:00 Europe/Berlin'"
_RUN = f"night of {DAY}"

WOO = "raw_woocommerce"
LANDING = "landing.raw_woocommerce"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: what a person would call it.
        statements: how it is done to the tables.
        stopped_by: id of a critical expectation that stops the night.
    """

    name: str
    statements: tuple[str, ...]
    stopped_by: str


def _fault(name: str, stopped_by: str, *statements: str) -> Fault:
    return Fault(name, statements, stopped_by)


# What arrives: done to the raw tables, stopped by gate_landing.
AT_LANDING = (
    _fault(
        "a day is missing",
        f"{LANDING}.orders.day.rows",
        f"delete from {WOO}.orders where date_created_gmt >= {_OF_DAY}",
    ),
    _fault(
        "pages of the day are missing",
        f"{LANDING}.orders.day.rows",
        f"delete from {WOO}.orders where date_created_gmt >= {_OF_DAY} and id % 20 <> 0",
    ),
    _fault(
        "a day of the till's file is missing",
        "landing.raw_files.orders.till.day.rows",
        f"delete from raw_files.orders where ordered_at >= {_OF_DAY}",
    ),
    _fault(
        "a load came twice",
        f"{LANDING}.orders.key_unique",
        f"insert into {WOO}.orders select * from {WOO}.orders where date_created_gmt >= {_OF_DAY}",
    ),
    _fault(
        "an import ran twice, under new ids",
        f"{LANDING}.orders.no_second_copy",
        f"create temp table again as select * from {WOO}.orders order by id desc limit 300",
        "update again set id = id + 1000000, _dlt_id = 'again' || id",
        f"insert into {WOO}.orders select * from again",
    ),
    _fault(
        "an export came twice, under new receipts",
        "landing.raw_files.orders.no_second_copy",
        "create temp table again as select * from raw_files.orders",
        "update again set order_key = 'again' || order_key",
        "insert into raw_files.orders select * from again",
    ),
    _fault(
        "names and addresses are swapped",
        f"{LANDING}.customers.email.is_address",
        f"update {WOO}.customers set email = last_name, last_name = email",
    ),
    _fault(
        "telephone numbers stand for addresses",
        "landing.raw_hubspot.contacts.email.is_address",
        "update raw_hubspot.contacts set email = '030 1234567'",
    ),
    _fault(
        "status and currency are swapped",
        f"{LANDING}.orders.mostly_known_statuses",
        f"update {WOO}.orders set status = currency, currency = status",
    ),
    _fault(
        "cents for euros",
        f"{LANDING}.orders.day.amount",
        f"update {WOO}.orders set total = total * 100 where date_created_gmt >= {_OF_DAY}",
    ),
    _fault(
        "euros for cents",
        f"{LANDING}.orders.day.amount",
        f"update {WOO}.orders set total = total / 100 where date_created_gmt >= {_OF_DAY}",
    ),
    _fault(
        "dates in the future",
        f"{LANDING}.orders.date_created_gmt.in_range",
        f"update {WOO}.orders set date_created_gmt = '2027-05-06' where id % 20 = 0",
    ),
    _fault(
        "dates of the epoch",
        f"{LANDING}.orders.date_modified_gmt.in_range",
        f"update {WOO}.orders set date_modified_gmt = '1970-01-01' where id % 20 = 0",
    ),
    _fault(
        "negative totals",
        f"{LANDING}.orders.total.not_negative",
        f"update {WOO}.orders set total = -total where id % 20 = 0",
    ),
    _fault(
        "negative refunds",
        f"{LANDING}.refunds.amount.not_negative",
        f"update {WOO}.refunds set amount = -amount",
    ),
    _fault(
        "the wrong time zone",
        f"{LANDING}.orders.day.at_night",
        f"update {WOO}.orders set date_created_gmt = date_created_gmt + interval '9 hours'",
    ),
    _fault(
        "a column is gone",
        f"{LANDING}.orders.columns",
        "drop view if exists staging.stg_woocommerce__orders cascade",
        f"alter table {WOO}.orders drop column payment_method",
    ),
    _fault(
        "the consent column is gone",
        f"{LANDING}.customers.columns",
        f"alter table {WOO}.customers drop column newsletter_opt_in cascade",
    ),
    _fault(
        "money is text",
        f"{LANDING}.column_types",
        "drop schema staging cascade",
        f"alter table {WOO}.orders alter total type text",
    ),
    _fault(
        "money is a binary float",
        f"{LANDING}.column_types",
        "drop schema staging cascade",
        f"alter table {WOO}.orders alter total type double precision",
    ),
    _fault(
        "times have no zone",
        f"{LANDING}.column_types",
        "drop schema staging cascade",
        f"alter table {WOO}.orders alter date_created_gmt type timestamp",
    ),
    _fault(
        "a column came in a second type",
        f"{LANDING}.no_variant_columns",
        f"alter table {WOO}.orders add column total__v_text text",
    ),
    _fault("a source is empty", f"{LANDING}.orders.volume", f"truncate {WOO}.orders"),
    _fault("a table is missing", f"{LANDING}.tables_exist", f"drop table {WOO}.products cascade"),
    _fault(
        "half of the customers are gone",
        f"{LANDING}.customers.volume",
        f"delete from {WOO}.customers where id % 2 = 0",
    ),
    _fault(
        "half of the contacts are gone",
        "landing.raw_hubspot.contacts.volume",
        "delete from raw_hubspot.contacts where ctid in "
        "(select ctid from raw_hubspot.contacts limit (select count(*) / 2 from "
        "raw_hubspot.contacts))",
    ),
    _fault(
        "names are in the wrong encoding",
        f"{LANDING}.customers.readable",
        f"update {WOO}.customers set "
        "last_name = convert_from(convert_to(last_name, 'UTF8'), 'LATIN1')",
    ),
    _fault(
        "names lost letters",
        "landing.raw_hubspot.contacts.readable",
        "update raw_hubspot.contacts set lastname = replace(lastname, 'ú', chr(65533))",
    ),
    _fault(
        "a key is empty",
        f"{LANDING}.customers.key_present",
        f"update {WOO}.customers set id = null where id = (select min(id) from {WOO}.customers)",
    ),
    _fault(
        "orders have no date",
        f"{LANDING}.orders.date_created_gmt.present",
        f"update {WOO}.orders set date_created_gmt = null where id % 20 = 0",
    ),
    _fault(
        "orders have no status",
        f"{LANDING}.orders.status.present",
        f"update {WOO}.orders set status = null where id % 20 = 0",
    ),
    _fault(
        "orders have no total",
        f"{LANDING}.orders.total.present",
        f"update {WOO}.orders set total = null where id % 20 = 0",
    ),
    _fault(
        "the day's orders have no address",
        f"{LANDING}.orders.day.filled.billing_email",
        f"update {WOO}.orders set billing_email = null where date_created_gmt >= {_OF_DAY}",
    ),
    _fault(
        "the shop's feed is dead",
        f"{LANDING}.orders.not_dead",
        f"update {WOO}.orders set date_modified_gmt = date_modified_gmt - interval '20 days'",
    ),
    _fault(
        "the CRM's feed is dead",
        "landing.raw_hubspot.contacts.not_dead",
        "update raw_hubspot.contacts set lastmodifieddate = lastmodifieddate - interval '50 days'",
    ),
    _fault(
        "lines have lost their orders",
        f"{LANDING}.orders__line_items.has_parent",
        f"update {WOO}.orders__line_items set _dlt_parent_id = 'nobody' where id % 2 = 0",
    ),
    _fault(
        "too many rows were refused",
        f"{LANDING}.rejected_rows.critical",
        "insert into quarantine.rejected_records (record_hash, source, table_name, record_key, "
        "reason_code, reason, run_id) select 'h' || n, 'woocommerce', 'orders', n::text, "
        f"'invalid_total', 'No number.', '{_RUN}' from generate_series(1, 2000) as n",
    ),
    _fault(
        "withdrawals would not be found",
        "landing.activation.subscriber_states.address_normalised",
        "update activation.subscriber_states set address = upper(address)",
    ),
)

_GREEN = "set search_path to marts_green, intermediate_green"

# What the models make of it: done to the marts that are about to be published.
IN_THE_MARTS = (
    _fault(
        "intervals overlap",
        "marts.lifecycle_intervals.no_gap_no_overlap",
        "update int_lifecycle_schedule set valid_to = valid_to + 3 where valid_to < '2026-05-01'",
    ),
    _fault(
        "intervals have gaps",
        "marts.lifecycle_intervals.no_gap_no_overlap",
        "update int_lifecycle_schedule set valid_from = valid_from + 1 "
        "where valid_from < '2026-04-01' and valid_to < '2026-05-01' and valid_to > valid_from + 1",
    ),
    _fault(
        "customers have two stages",
        "marts.lifecycle_intervals.one_open_interval",
        "insert into int_lifecycle_schedule select * from int_lifecycle_schedule "
        "where valid_from <= '2026-05-06' and (valid_to is null or valid_to > '2026-05-06')",
    ),
    _fault(
        "buyers are leads",
        "marts.lifecycle_intervals.buyers_are_past_acquisition",
        "update int_lifecycle_schedule set stage = 'reach' where stage = 'conversion'",
    ),
    _fault(
        "a stage is unknown",
        "marts.lifecycle_intervals.known_stages",
        "update int_lifecycle_schedule set stage = 'lost' where stage = 'at_risk'",
    ),
    _fault(
        "everybody changes stage",
        "marts.customer_360.few_change_stage",
        "update customer_360 set stage = 'churned'",
    ),
    _fault(
        "scores are inverted",
        "marts.customer_rfm.recency_score_direction",
        "update customer_rfm set r_score = 6 - r_score, "
        "rfm_code = concat(6 - r_score, f_score, m_score)",
    ),
    _fault(
        "a score is none",
        "marts.customer_rfm.codes_complete",
        "update customer_rfm set f_score = 7 where f_score = 5",
    ),
    _fault(
        "everybody is in one RFM segment",
        "marts.customer_rfm.share.hibernating.not_everybody",
        "update customer_rfm set rfm_segment = 'hibernating'",
    ),
    _fault(
        "buyers are not scored",
        "marts.customer_rfm.every_buyer",
        "delete from customer_rfm where m_score = 3",
    ),
    _fault(
        "customers are there twice",
        "marts.customers.key",
        "insert into customers select * from customers limit 5",
    ),
    _fault(
        "orders belong to nobody that is known",
        "marts.orders.known_customers",
        "update int_orders set customer_id = 'nobody' where order_date = '2026-05-06'",
    ),
    _fault(
        "orders are lost",
        "marts.orders.reconcile_with_raw",
        "delete from int_orders where order_date = '2026-05-05'",
    ),
    _fault(
        "totals are off",
        "marts.orders.revenue_reconciles_with_raw",
        "update int_orders set revenue_before_refunds = revenue_before_refunds * 1.19 "
        "where order_date > '2026-05-01'",
    ),
    _fault(
        "refunds are added",
        "marts.orders.refunds_lower_revenue",
        "update int_orders set revenue_after_refunds = revenue_before_refunds + 5 "
        "where order_date > '2026-05-01'",
    ),
    _fault(
        "orders are of tomorrow",
        "marts.orders.dated_by_as_of",
        "update int_orders set order_date = '2026-05-07' where order_date = '2026-05-06'",
    ),
    _fault(
        "half of the customers are gone",
        "marts.customer_360.customers",
        "delete from customer_360 where customer_id < "
        "(select percentile_disc(0.5) within group (order by customer_id) from customer_360)",
    ),
    _fault(
        "customers are missing in the wide table",
        "marts.customer_360.every_customer",
        "delete from customer_360 where customer_id = (select min(customer_id) from customer_360)",
    ),
    _fault(
        "consent evidence is gone",
        "marts.customer_360.contactable",
        "update contactability set is_contactable = false, reason = 'consent_unknown'",
        "update customer_360 set is_contactable = false",
        "update segment_members set is_contactable = false",
    ),
    _fault(
        "consent without evidence",
        "marts.contactability.evidence_suffices",
        "update contactability set is_contactable = true where evidence is null",
    ),
    _fault(
        "a withdrawal is overlooked",
        "marts.contactability.agrees_with_tools",
        "update activation.subscriber_states set state = 'unsubscribed', "
        "state_changed_at = '2026-05-05' where address in "
        "(select address from activation.subscriber_states inner join contactability "
        "using (address) where is_contactable and evidence_at < '2026-05-01' limit 3)",
    ),
    _fault(
        "members without consent",
        "marts.segment_members.contactable_by_consent",
        "update segment_members set is_contactable = true",
    ),
    _fault(
        "another address would be sent",
        "marts.segment_members.sent_address_is_contactable",
        "update customers set email = 'another@mail.example'",
    ),
    _fault(
        "members who objected to profiling",
        "marts.segment_members.eligible",
        "update customers set has_profiling_objection = true where customer_id = "
        "(select min(customer_id) from segment_members)",
    ),
    _fault(
        "nobody knows who is held out",
        "marts.segment_members.holdout_decided",
        "update segment_members set is_holdout = null",
    ),
    _fault(
        "members of a segment that is switched off",
        "marts.segment_members.known_segments",
        "update segment_members set segment = 'closed' where segment = 'welcome'",
    ),
    _fault(
        "an attribute that is sent is empty",
        "marts.customer_360.filled.last_order_date",
        "update customer_360 set last_order_date = null",
    ),
    _fault(
        "ids are given anew",
        "marts.customer_source_ids.ids_kept",
        "update int_customer_identities set customer_id = 'new' || customer_id "
        "where customer_id = (select customer_id from int_customer_identities inner join "
        "history.customer_ids using (source, source_record_type, source_id, customer_id) "
        "order by 1 limit 1)",
    ),
    _fault(
        "records belong to nobody",
        "marts.customer_source_ids.reconciles_with_raw",
        "delete from int_customer_identities where customer_id = "
        "(select customer_id from int_customer_identities "
        "where source_record_type = 'contact' limit 1)",
    ),
    _fault(
        "changes of stage are missing in history",
        "marts.history_stage_changes.add_up",
        "delete from history_stage_changes",
    ),
    _fault(
        "changes of RFM segment are missing in history",
        "marts.history_rfm_segment_changes.add_up",
        "delete from history_rfm_segment_changes",
    ),
    _fault(
        "the day is missing in history",
        "marts.history_kpi_daily.of_this_night",
        "delete from history_kpi_daily",
    ),
    _fault(
        "cut points are missing",
        "marts.history_rfm_cutoffs.present",
        "delete from history_rfm_cutoffs where dimension = 'monetary'",
    ),
    _fault(
        "key figures count orders twice",
        "marts.kpi_daily.reconciles_with_orders",
        "update kpi_daily set orders = orders * 2",
    ),
    _fault(
        "key figures count customers wrong",
        "marts.kpi_daily.stages_reconcile",
        "update kpi_daily set customers_churned = customers_churned + 1",
    ),
    _fault(
        "probabilities are none",
        "marts.customer_value.plausible",
        "update customer_value set p_alive = p_alive + 1",
    ),
    _fault(
        "half of the buyers have no value",
        "marts.customer_value.every_buyer",
        "delete from customer_value where p_alive < "
        "(select percentile_disc(0.5) within group (order by p_alive) from customer_value)",
    ),
    _fault(
        "coming stages lie behind",
        "marts.lifecycle_projections.in_the_future",
        "create or replace view lifecycle_projections as select customer_id, stage, "
        "valid_from as from_date from int_lifecycle_schedule where valid_from < '2026-05-06'",
    ),
    _fault(
        "the wide table is of yesterday",
        "marts.customer_360.of_this_night",
        "update customer_360 set as_of_date = '2026-05-05'",
    ),
    _fault(
        "a mart lost a column",
        "marts.contactability.columns",
        "alter table contactability drop column evidence_at cascade",
    ),
    _fault("a mart is missing", "marts.tables_exist", "drop table customer_value cascade"),
)

# What the order policy cannot use goes to quarantine; a feed of it stops the night.
IN_THE_MODELS = (
    (
        "a currency without a rate",
        "no_exchange_rate",
        f"update {WOO}.orders set currency = 'SEK' where id in (select id from {WOO}.orders "
        f"where date_created_gmt >= {_OF_DAY} and currency = 'EUR' order by id limit 2)",
    ),
    (
        "an order without a currency",
        "order_without_currency",
        f"update {WOO}.orders set currency = null where id in (select id from {WOO}.orders "
        f"where date_created_gmt >= {_OF_DAY} order by id limit 2)",
    ),
    (
        "an order without an amount",
        "order_without_amount",
        f"update {WOO}.orders set total = null where id in (select id from {WOO}.orders "
        f"where date_created_gmt >= {_OF_DAY} order by id limit 2)",
    ),
    (
        "an order without a date",
        "order_without_date",
        f"update {WOO}.orders set date_created_gmt = null where id in (select id from "
        f"{WOO}.orders where date_created_gmt < {_OF_DAY} order by id desc limit 2)",
    ),
)

# What stands in a file: rows go to quarantine, a file that cannot be read stops the extract.
_HEADER = "Receipt;Customer;Date;Currency;Total\n"
_GOOD = "".join(f"R{n};K{n};2026-05-06 10:{n:02d};EUR;{n},50\n" for n in range(10, 40))
ROWS_OF_A_FILE = (
    ("bytes that are no text", "invalid_encoding", b"R1;K\xff;2026-05-06 10:00;EUR;1,00\n"),
    ("a cell too many", "ragged_row", b"R2;K2;2026-05-06 10:00;EUR;1,00;x\n"),
    ("a currency that is none", "invalid_currency", b"R3;K3;2026-05-06 10:00;Euro;1,00\n"),
    ("a date that is none", "invalid_ordered_at", b"R4;K4;06/05;EUR;1,00\n"),
    ("an amount that is none", "invalid_total_amount", b"R5;K5;2026-05-06 10:00;EUR;1.00\n"),
    ("no date", "missing_ordered_at", b"R6;K6;;EUR;1,00\n"),
    ("no receipt number", "missing_order_key", b";K7;2026-05-06 10:00;EUR;1,00\n"),
)
WHOLE_FILES = (
    (
        "columns are swapped",
        "none of its 30 rows can be used",
        "Receipt;Customer;Total;Currency;Date\n" + _GOOD,
    ),
    ("a column is gone", "has no column Total", _HEADER.replace(";Total", "") + "R1;K1;x;EUR\n"),
    ("it ends inside a quote", "opens a quote that is never closed", _HEADER + 'R9;"K9\n' + _GOOD),
    ("it is empty", "is empty", ""),
)

_CONFIG = """
files:
  datasets:
    - name: till
      entity: orders
      path: till.csv
      delimiter: ";"
      decimal_separator: ","
      timezone: Europe/Berlin
      columns:
        order_key: Receipt
        customer_key: Customer
        ordered_at: Date
        status: {constant: completed}
        currency: Currency
        total_amount: Total
"""


@pytest.fixture(scope="module")
def settings(shop_settings: Settings) -> Settings:
    """The shop's, by a shorter name."""
    return shop_settings


@pytest.fixture(scope="module")
def of_files(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of the till's file alone."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "sources.yml").write_text(_CONFIG)
    return load_settings(folder)


@dataclass(frozen=True)
class Nights:
    """The night under way: landed, nothing built (`landed`), or built and not checked (`built`)."""

    template: ShopTemplate
    landed: str
    built: str

    @property
    def project(self) -> CompiledProject:
        """The models."""
        return self.template.project

    def clone(self, of: str) -> str:
        """A copy of a database, to be damaged; its URI."""
        return self.template.clone(f"{self.landed}_fault", of)


@pytest.fixture(scope="module")
def nights(shop_template: ShopTemplate, settings: Settings) -> Iterator[Nights]:
    """Weeks of a shop: the landing gate has measured them, the last nights are published."""
    landed = f"{shop_template.database}_landed"
    dsn, project = shop_template.clone(landed), shop_template.project
    shop = Shop(
        Trade(
            7,
            DAY - timedelta(days=_NIGHTS_BEFORE),
            lambda day: 100.0,
            leads=4.0,
            till=0.5,
            history_days=10,
        )
    )
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.MonkeyPatch.context() as patch:
        direct_evaluation.use_in_gates(patch)
        shop.open(dsn)
        for back in range(_NIGHTS_BEFORE, -1, -1):
            day = DAY - timedelta(days=back)
            run_id = f"night of {day}"
            shop.live(dsn, day, run_id)
            if back > _PUBLISHED_NIGHTS:
                facts.landing_facts(connection, settings, run_id, day)
            elif back:
                _publish_night(connection, dsn, settings, project, day)
    found = Nights(shop_template, landed, f"{landed}_built")
    dsn = shop_template.clone(found.built, landed)
    with psycopg.connect(dsn, autocommit=True) as connection:
        schema = publish.begin_build(dsn, _RUN, DAY, is_backfill=False)
        assert schema == "marts_green"
        project.build(connection, DAY, schema)
    yield found
    shop_template.drop(f"{landed}_fault", found.built, landed)


def _publish_night(
    connection: psycopg.Connection,
    dsn: str,
    settings: Settings,
    project: CompiledProject,
    day: date,
) -> None:
    run_id = f"night of {day}"
    schema = publish.begin_build(dsn, run_id, day, is_backfill=False)
    run_gate("landing", settings, dsn, run_id, day, None, lambda line: None)
    project.build(connection, day, schema)
    run_gate("marts", settings, dsn, run_id, day, schema, lambda line: None)
    publish.publish(dsn, run_id, day, schema, {})


def _context(settings: Settings, dsn: str) -> night.RunContext:
    def resolve(connection_id: str) -> Any:
        raise AssertionError(f"the night wanted to reach {connection_id}")

    return night.RunContext(_RUN, DAY, dsn, settings, resolve, False, lambda line: None)


def _seen(dsn: str) -> list[tuple[Any, ...]]:
    """What readers and mailboxes have: publications, the published rows, and every attempt."""
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select publication_id, as_of_date from history.publications")
        seen: list[tuple[Any, ...]] = found.fetchall()
        views = connection.execute("select viewname from pg_views where schemaname = 'marts'")
        for (view,) in sorted(views.fetchall()):
            digest = f"select '{view}', count(*), sum(hashtext(v::text)) from marts.{view} as v"
            seen += connection.execute(digest.encode()).fetchall()
        for table in ("ledger", "delivered_state", "sync_runs"):
            rows = f"select '{table}', count(*) from activation.{table}"
            seen += connection.execute(rows.encode()).fetchall()
    return seen


def _damage(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _require_in_message(failure: GateFailure, stopped_by: str, dsn: str) -> None:
    """The fault's expectation failed (it did not just break), and the message tells all of it."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select severity, success, raised, observed, expected, table_name "
            "from quality.gate_results where run_id = %s and expectation_id = %s",
            (_RUN, stopped_by),
        ).fetchone()
        failed = connection.execute(
            "select expectation_id from quality.gate_results where run_id = %s and not success",
            (_RUN,),
        ).fetchall()
    assert row is not None, f"{stopped_by} was not evaluated; failed: {failed}"
    severity, success, raised, observed, expected, table = row
    assert (severity, success, raised) == ("critical", False, False), f"{row}; failed: {failed}"
    message = str(failure)
    assert stopped_by in message
    if f"[{stopped_by}," in message:  # the first failures are told in full
        told = message[message.index(f"[{stopped_by},") :]
        assert f"observed: {observed}; allowed: {expected}" in told
        assert f"- {table}: " in message
    assert "@mail.example" not in message


def test_the_catalogue_is_long_and_names_no_fault_twice() -> None:
    stopped = [fault.stopped_by for fault in (*AT_LANDING, *IN_THE_MARTS)]
    names = [fault.name for fault in AT_LANDING], [fault.name for fault in IN_THE_MARTS]
    assert all(len(found) == len(set(found)) for found in names)
    assert len(stopped) + len(IN_THE_MODELS) + len(ROWS_OF_A_FILE) + len(WHOLE_FILES) > 80


def test_without_a_fault_the_night_is_published(
    nights: Nights, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    dsn = nights.clone(nights.built)
    run = _context(settings, dsn)
    night.gate_landing(run)
    gate_results = night.gate_marts(run, "marts_green")
    before = _seen(dsn)
    publish.publish(dsn, _RUN, DAY, "marts_green", gate_results)
    after = _seen(dsn)
    # And `_seen` sees it, or it would prove nothing below.
    assert len(before) < len(after)
    assert [row for row in after if row[0] == "orders"] != [r for r in before if r[0] == "orders"]


def test_the_night_is_what_dbt_builds(nights: Nights, settings: Settings) -> None:
    dsn = nights.clone(nights.built)
    own = {**settings.dbt_vars(), "marts_schema": publish.BACKFILL}
    build_models(dsn, DAY.isoformat(), "tag:transform", **own)
    compared = 0
    with psycopg.connect(dsn) as connection:
        for ours, dbts in (
            ("marts_green", publish.BACKFILL),
            ("intermediate_green", publish.intermediate_schema(publish.BACKFILL)),
        ):
            tables = connection.execute(
                "select table_name from information_schema.tables where table_schema = %s "
                "intersect select table_name from information_schema.tables "
                "where table_schema = %s",
                (ours, dbts),
            ).fetchall()
            for (table,) in tables:
                # Columns may stand in another order: dbt holds a mart to its contract.
                rows = "select count(*), sum(hashtext(to_jsonb(t)::text)) from {}.{} as t"
                found = [
                    connection.execute(rows.format(schema, table).encode()).fetchone()
                    for schema in (ours, dbts)
                ]
                assert found[0] == found[1], f"{table}: ours, dbt's: {found}"
                compared += 1 if found[0] and found[0][0] else 0
    assert compared > 25


@pytest.mark.parametrize("fault", AT_LANDING, ids=lambda fault: fault.name)
def test_what_arrives_is_stopped_by_gate_landing(
    fault: Fault, nights: Nights, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    dsn = nights.clone(nights.landed)
    _damage(dsn, *fault.statements)
    before = _seen(dsn)
    with pytest.raises(GateFailure) as caught:
        night.gate_landing(_context(settings, dsn))
    _require_in_message(caught.value, fault.stopped_by, dsn)
    assert _seen(dsn) == before


@pytest.mark.parametrize("fault", IN_THE_MARTS, ids=lambda fault: fault.name)
def test_what_is_built_is_stopped_by_gate_marts(
    fault: Fault, nights: Nights, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    dsn = nights.clone(nights.built)
    _damage(dsn, _GREEN, *fault.statements)
    before = _seen(dsn)
    with pytest.raises(GateFailure) as caught:
        night.gate_marts(_context(settings, dsn), "marts_green")
    _require_in_message(caught.value, fault.stopped_by, dsn)
    with pytest.raises(PublicationRefused):
        publish.publish(dsn, _RUN, DAY, "marts_green", {}, wait_minutes=0)
    assert _seen(dsn) == before


def test_the_published_colour_is_not_checked_as_if_it_were_new(
    nights: Nights, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    dsn = nights.clone(nights.built)
    with pytest.raises(GateFailure) as caught:
        night.gate_marts(_context(settings, dsn), "marts_blue")
    _require_in_message(caught.value, "marts.not_published", dsn)


@pytest.mark.parametrize(("name", "reason_code", "statement"), IN_THE_MODELS)
def test_what_the_policy_cannot_use_goes_to_quarantine(
    name: str,
    reason_code: str,
    statement: str,
    nights: Nights,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    dsn = nights.clone(nights.landed)
    _damage(dsn, statement)
    run = _context(settings, dsn)
    night.gate_landing(run)
    schema = publish.begin_build(dsn, _RUN, DAY, is_backfill=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        nights.project.build(connection, DAY, schema)
        night._quarantine_rejected(run, schema)
        kept = connection.execute(
            "select record_key from quarantine.rejected_records where reason_code = %s "
            "and run_id = %s and source = 'woocommerce'",
            (reason_code, _RUN),
        ).fetchall()
        used = connection.execute(
            f"select count(*) from {schema}.orders where order_id = any(%s)".encode(),
            ([key for (key,) in kept],),
        ).fetchone()
    assert len(kept) >= 2
    assert used == (0,)
    night.gate_marts(run, schema)


def test_a_feed_in_an_unknown_currency_is_stopped(
    nights: Nights, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    dsn = nights.clone(nights.landed)
    _damage(dsn, f"update {WOO}.orders set currency = 'SEK' where date_created_gmt > '2026-04-25'")
    run = _context(settings, dsn)
    schema = publish.begin_build(dsn, _RUN, DAY, is_backfill=False)
    with psycopg.connect(dsn, autocommit=True) as connection:
        nights.project.build(connection, DAY, schema)
    with pytest.raises(GateFailure) as caught:
        night.gate_marts(run, schema)
    _require_in_message(caught.value, "marts.orders.mostly_priced", dsn)


def _extract(settings: Settings, dsn: str) -> dict[str, Any]:
    return extract("files", settings, lambda _: None, dsn, _RUN, DAY, lambda _: None)  # type: ignore[arg-type, return-value]


def test_bad_rows_of_a_file_go_to_quarantine_each_with_its_reason(
    of_files: Settings, warehouse_dsn: str
) -> None:
    rows = b"".join(row for _, _, row in ROWS_OF_A_FILE)
    (of_files.folder / "till.csv").write_bytes((_HEADER + _GOOD).encode() + rows)
    summary = _extract(of_files, warehouse_dsn)
    with psycopg.connect(warehouse_dsn) as connection:
        kept = connection.execute(
            "select reason_code, run_id from quarantine.rejected_records order by record_key"
        ).fetchall()
        landed = connection.execute("select count(*) from raw_files.orders").fetchone()
    assert sorted(kept) == sorted((code, _RUN) for _, code, _ in ROWS_OF_A_FILE)
    assert (summary["rejected"], landed) == (len(ROWS_OF_A_FILE), (30,))


@pytest.mark.parametrize(("name", "message", "text"), WHOLE_FILES)
def test_a_file_that_cannot_be_used_stops_the_extract(
    name: str, message: str, text: str, of_files: Settings, nights: Nights
) -> None:
    dsn = nights.clone(nights.landed)
    before = _seen(dsn)
    (of_files.folder / "till.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        _extract(of_files, dsn)
    assert "till.csv" in str(caught.value)
    assert isinstance(caught.value, KundenkreisError)
    assert _seen(dsn) == before
