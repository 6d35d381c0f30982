"""What gates leave behind holds nobody's address, name, number or birthday, on the worst of data.

The values stand where they belong and where they do not: columns are swapped, so that whatever a
gate quotes from a wrong column would show.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.integration import gate_runs, landing_fixture, marts_fixture
from tests.integration.gate_runs import GateRun

pytestmark = pytest.mark.integration

ADDRESS = "'somebody' || {n} || '@mail.example'"
NAME = "'Zwetschgenbaum' || {n}"
NUMBER = "'+4915155500' || {n}"
BIRTHDAY = "date '1961-07-14'"
PERSONAL = ("@mail.example", "zwetschgenbaum", "4915155500", "1961-07-14")

# Tables that hold a person's data, or get them in a column that is another's.
LANDING = {
    "raw_woocommerce.customers": {"first_name": NAME, "billing_phone": NUMBER, "role": ADDRESS},
    "raw_woocommerce.orders": {
        "status": ADDRESS,
        "currency": NAME,
        "number": NUMBER,
        "payment_method": ADDRESS,
        "total": "-1",
    },
    "raw_woocommerce.orders__line_items": {"name": NAME, "sku": ADDRESS, "_dlt_parent_id": NUMBER},
    "raw_woocommerce.products": {"status": NAME, "category_name": ADDRESS},
    "raw_hubspot.contacts": {
        "id": ADDRESS,
        "lastname": NAME,
        "phone": NUMBER,
        "lifecyclestage": NUMBER,
        "date_of_birth": f"{BIRTHDAY}::text",
    },
    "raw_hubspot.deals": {"contact_id": ADDRESS, "dealstage": NAME, "deal_currency_code": NUMBER},
    "raw_files.order_lines": {"status": ADDRESS, "currency": NAME, "customer_key": ADDRESS},
    "raw_files.spend": {"acquisition_source": ADDRESS, "currency": NAME},
    "activation.subscriber_states": {"vendor_id": ADDRESS, "run_id": NAME},
}
# Names and numbers where something that a source sends may end up, addresses everywhere.
MARTS = {
    "customers": {
        "first_name": NAME,
        "last_name": NUMBER,
        "birthday": BIRTHDAY,
        "country": ADDRESS,
        "preferred_language": NAME,
    },
    "customer_source_ids": {"source": ADDRESS, "source_record_type": NAME},
    "contactability": {"channel": NAME, "reason": ADDRESS, "evidence": NUMBER},
    "orders": {"currency": NAME, "not_counted_because": ADDRESS},
    "customer_rfm": {"rfm_code": NUMBER, "rfm_segment": ADDRESS},
    "lifecycle_intervals": {"stage": ADDRESS, "entered_because": ADDRESS},
    "lifecycle_projections": {"stage": ADDRESS},
    "customer_360": {"stage": ADDRESS, "rfm_code": NUMBER},
    "segment_members": {"segment": ADDRESS, "not_contactable_because": ADDRESS},
    "history_rfm_cutoffs": {"method": ADDRESS},
    "history_value_parameters": {"orders_outcome": ADDRESS, "orders_reason": ADDRESS},
}


def _spoil(dsn: str, tables: dict[str, dict[str, str]]) -> None:
    with psycopg.connect(dsn) as connection:
        for table, columns in tables.items():
            changes = ", ".join(
                f"{column} = {value.format(n='(1000 + n)')}" for column, value in columns.items()
            )
            connection.execute(
                f"update {table} as t set {changes} from (select ctid, row_number() over () % 99 "
                f"as n from {table}) as numbered where numbered.ctid = t.ctid".encode()
            )


@pytest.fixture(scope="module")
def gates(
    module_warehouse_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, GateRun]:
    dsn, name = module_warehouse_dsn, landing_fixture.RUN_ID
    settings = landing_fixture.settings(tmp_path_factory.mktemp("config"))
    landing_fixture.land(dsn)
    marts_fixture.build(dsn)
    _spoil(dsn, {f"{marts_fixture.SCHEMA}.{table}": columns for table, columns in MARTS.items()})
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        found["marts"] = gate_runs.run(
            "marts", settings, dsn, name, patch, marts_schema=marts_fixture.SCHEMA
        )
        _spoil(dsn, LANDING)
        found["landing"] = gate_runs.run("landing", settings, dsn, name, patch)
    return found


@pytest.mark.parametrize("gate", ["landing", "marts"])
def test_nothing_personal_is_kept_or_shown(gates: dict[str, GateRun], gate: str) -> None:
    run = gates[gate]
    assert run.failure
    assert len(run.failed()) > 5, "too few expectations failed to prove anything"
    texts = run.texts()
    assert any(Path(name).suffix == ".html" for name in texts)
    found = {
        (name, value) for name, text in texts.items() for value in PERSONAL if value in text.lower()
    }
    assert not found
