"""WooCommerce and HubSpot against the sandbox: complete, never doubled, clear when things fail."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from kundenkreis.connections import Connection, parse_connection
from kundenkreis.errors import CredentialError, KundenkreisError, VendorError
from kundenkreis.http import VendorClient
from kundenkreis.settings import ModelSettings
from kundenkreis.sources import extract, probe, woocommerce
from kundenkreis.sources.config import HubSpotSettings, WooCommerceSettings
from sandbox.testing import Handle, running_sandbox

pytestmark = pytest.mark.integration

SOURCES = {
    "woocommerce": WooCommerceSettings(page_size=50),
    "hubspot": HubSpotSettings(
        page_size=40,
        searches_per_second=50,
        foreign_ids={"woocommerce_customer_id": "woocommerce.customer"},
    ),
}
TABLES = {
    "woocommerce": ["customers", "orders", "orders__line_items", "refunds", "products"],
    "hubspot": ["contacts", "contacts__property_history", "deals"],
}
FIRST_CALL = {
    "woocommerce": "GET /wp-json/wc/v3/products",
    "hubspot": "POST /crm/objects/2026-03/contacts/search",
}
both = pytest.mark.parametrize("source", ["woocommerce", "hubspot"])


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox"), customers=300, seed=3) as handle:
        yield handle


@pytest.fixture(autouse=True)
def no_faults(sandbox: Handle) -> Iterator[None]:
    yield
    sandbox.clear_faults()


def resolver(connections: dict[str, str]) -> Any:
    def resolve(connection_id: str) -> Connection:
        value = connections[f"AIRFLOW_CONN_{connection_id.upper()}"]
        return parse_connection(connection_id, value)

    return resolve


def load(source: str, connections: dict[str, str], dsn: str) -> dict[str, Any]:
    settings: Any = SimpleNamespace(folder=Path(), sources=SOURCES, model=ModelSettings())
    day = date(2026, 11, 22)
    return extract(source, settings, resolver(connections), dsn, "run", day, lambda _: None)


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def content(dsn: str, source: str) -> dict[str, list[tuple[Any, ...]]]:
    """All tables of a source without the columns that differ between loads."""
    found = {}
    for table in TABLES[source]:
        columns = query(
            dsn,
            "select string_agg(column_name, ', ' order by column_name) "
            f"from information_schema.columns where table_schema = 'raw_{source}' "
            f"and table_name = '{table}' and column_name not like '\\_dlt\\_%'",
        )[0][0]
        rows = query(dsn, f"select {columns} from raw_{source}.{table}")
        found[table] = sorted(rows, key=repr)
    return found


def drop(dsn: str, source: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"drop schema raw_{source}, raw_{source}_staging cascade".encode())


@both
def test_a_probe_reads_one_record_of_each_kind(sandbox: Handle, source: str) -> None:
    settings: Any = SimpleNamespace(folder=Path(), sources=SOURCES, model=ModelSettings())
    sandbox.clear_requests()
    probe(source, settings, resolver(sandbox.connections), attempts=1)
    asked = [(request["method"], request["path"]) for request in sandbox.requests()]
    assert len(asked) == 2
    assert all(method == "GET" or path.endswith("/search") for method, path in asked)
    sandbox.faults(vendor=source, kind="unauthorised", times=-1)
    with pytest.raises(CredentialError, match=f"connection '{source}'"):
        probe(source, settings, resolver(sandbox.connections), attempts=1)


def every_page(sandbox: Handle, path: str) -> list[dict[str, Any]]:
    """All records of a shop route by plain page numbers, as a check on the connector's paging."""
    connection = resolver(sandbox.connections)("woocommerce")
    auth = woocommerce._authentication(connection)
    records: list[dict[str, Any]] = []
    with VendorClient("check", connection, auth=auth) as client:
        while True:
            page = len(records) // 100 + 1
            params = {"per_page": 100, "page": page, "orderby": "id", "order": "asc"}
            found = client.get_json(f"/wp-json/wc/v3{path}", params=params)
            records += found
            if len(found) < 100:
                return records


def test_woocommerce_lands_every_order_and_every_line(sandbox: Handle, warehouse_dsn: str) -> None:
    result = load("woocommerce", sandbox.connections, warehouse_dsn)
    there = {order["id"]: order for order in every_page(sandbox, "/orders")}
    landed = {row[0] for row in query(warehouse_dsn, "select id from raw_woocommerce.orders")}
    rejected = query(
        warehouse_dsn,
        "select record_key::bigint, reason_code from quarantine.rejected_records "
        "where source = 'woocommerce' and table_name = 'orders'",
    )
    assert rejected
    assert result["rejected"] == len(rejected)
    assert landed == set(there) - {key for key, _ in rejected}
    assert {code for _, code in rejected} <= {"invalid_total", "invalid_date_created_gmt"}
    lines = query(
        warehouse_dsn,
        "select orders.id, count(lines.id) from raw_woocommerce.orders left join "
        "raw_woocommerce.orders__line_items as lines on lines._dlt_parent_id = orders._dlt_id "
        "group by orders.id",
    )
    assert {key: len(there[key]["line_items"]) for key in landed} == dict(lines)
    for table, records in (("customers", every_page(sandbox, "/customers")), ("orders", there)):
        phones = query(
            warehouse_dsn,
            f"select id, billing_phone, phone_e164 from raw_woocommerce.{table}"
            " where billing_phone is not null",
        )
        assert len(phones) > len(records) / 4
        read = [phone for _, _, phone in phones if phone]
        assert len(read) > len(phones) / 2
        assert all(re.fullmatch(r"\+[1-9][0-9]{6,14}", phone) for phone in read)


def test_hubspot_lands_every_contact_with_its_history(sandbox: Handle, warehouse_dsn: str) -> None:
    load("hubspot", sandbox.connections, warehouse_dsn)
    rows = query(
        warehouse_dsn,
        "select contacts.id, contacts.lifecyclestage, history.value from raw_hubspot.contacts "
        "join raw_hubspot.contacts__property_history as history "
        "on history._dlt_parent_id = contacts._dlt_id where history.property = 'lifecyclestage' "
        "order by history.changed_at",
    )
    newest = {identity: (stage, value) for identity, stage, value in rows}
    assert len(newest) > 50
    assert all(stage == value for stage, value in newest.values())
    phones = query(
        warehouse_dsn, "select count(phone), count(phone_e164) from raw_hubspot.contacts"
    )
    assert phones[0][0] > phones[0][1] > 10
    linked = query(
        warehouse_dsn,
        "select linked_source, linked_customer_key from raw_hubspot.contacts"
        " where linked_customer_key is not null",
    )
    assert len(linked) > 10
    assert {source for source, _ in linked} == {"woocommerce"}
    accounts = {str(account["id"]) for account in every_page(sandbox, "/customers")}
    assert {key for _, key in linked} <= accounts
    deals = query(warehouse_dsn, "select count(*), count(contact_id) from raw_hubspot.deals")
    assert deals[0][0] >= deals[0][1] > 0


@both
def test_a_second_run_doubles_nothing_and_reads_only_the_window(
    sandbox: Handle, warehouse_dsn: str, source: str
) -> None:
    first = load(source, sandbox.connections, warehouse_dsn)
    before = content(warehouse_dsn, source)
    second = load(source, sandbox.connections, warehouse_dsn)
    assert content(warehouse_dsn, source) == before
    main = "orders" if source == "woocommerce" else "contacts"
    assert second["tables"][main] < first["tables"][main] / 4


@both
def test_night_after_night_ends_as_one_full_load(
    sandbox: Handle, warehouse_dsn: str, source: str
) -> None:
    load(source, sandbox.connections, warehouse_dsn)
    for days in (1, 9):
        sandbox.advance(days)
        load(source, sandbox.connections, warehouse_dsn)
    nightly = content(warehouse_dsn, source)
    drop(warehouse_dsn, source)
    load(source, sandbox.connections, warehouse_dsn)
    assert nightly == content(warehouse_dsn, source)


@both
@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "429", "times": 3, "retry_after": 0.01},
        {"kind": "500", "times": 1},
        {"kind": "drop_before", "times": 1},
        {"kind": "drop_after", "times": 1},
    ],
    ids=lambda fault: fault["kind"],
)
def test_passing_trouble_changes_nothing(
    sandbox: Handle, warehouse_dsn: str, source: str, fault: dict[str, Any]
) -> None:
    sandbox.faults(vendor=source, skip=2, **fault)
    load(source, sandbox.connections, warehouse_dsn)
    assert sandbox.state()["faults"] == []
    troubled = content(warehouse_dsn, source)
    drop(warehouse_dsn, source)
    load(source, sandbox.connections, warehouse_dsn)
    assert troubled == content(warehouse_dsn, source)


@both
@pytest.mark.parametrize(
    ("kind", "error", "words"),
    [
        ("not_json", VendorError, "not JSON"),
        ("unauthorised", CredentialError, "does not accept the credential of connection"),
    ],
)
def test_lasting_trouble_is_one_clear_error_and_loads_nothing(
    sandbox: Handle,
    warehouse_dsn: str,
    source: str,
    kind: str,
    error: type[KundenkreisError],
    words: str,
) -> None:
    load(source, sandbox.connections, warehouse_dsn)
    before = content(warehouse_dsn, source)
    sandbox.advance(1)
    # Not the first call: something was read already.
    sandbox.faults(vendor=source, kind=kind, times=-1, skip=3)
    with pytest.raises(error, match=words) as caught:
        load(source, sandbox.connections, warehouse_dsn)
    assert content(warehouse_dsn, source) == before
    assert str(caught.value).startswith(("WooCommerce: GET /", "HubSpot: "))
    sandbox.clear_faults()
    load(source, sandbox.connections, warehouse_dsn)


@both
def test_a_wrong_key_is_named_by_its_connection(
    sandbox: Handle, warehouse_dsn: str, source: str
) -> None:
    import json

    name = f"AIRFLOW_CONN_{source.upper()}"
    wrong = {**json.loads(sandbox.connections[name]), "password": "wr0ng-secret"}
    with pytest.raises(CredentialError, match=f"connection '{source}'") as caught:
        load(source, {name: json.dumps(wrong)}, warehouse_dsn)
    assert FIRST_CALL[source] in str(caught.value)
    assert "wr0ng-secret" not in str(caught.value)


@both
def test_an_unreachable_system_is_named(
    sandbox: Handle, warehouse_dsn: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kundenkreis.http.VendorClient._wait", lambda *_: 0.0)
    connection = f'{{"conn_type": "http", "host": "127.0.0.1", "port": 9, "login": "a", "password": "b", "schema": "{source}"}}'  # noqa: E501
    with pytest.raises(VendorError, match="cannot be reached"):
        load(source, {f"AIRFLOW_CONN_{source.upper()}": connection}, warehouse_dsn)


@both
@pytest.mark.parametrize("moment", ["before_load", "after_load"])
def test_a_killed_run_leaves_no_trace_in_the_result(
    sandbox: Handle, warehouse_dsn: str, source: str, moment: str
) -> None:
    root = Path(__file__).parents[2]
    program = (
        "import sys; from tests.contract import test_source_apis as tests; import os;"
        "tests.load(sys.argv[1], dict(os.environ), sys.argv[2])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, source, warehouse_dsn],
        env={
            **os.environ,
            "KUNDENKREIS_FAILPOINT": f"extract.{source}.{moment}",
            "PYTHONPATH": f"{root}:{root / 'plugins'}",
            **sandbox.connections,
        },
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    load(source, sandbox.connections, warehouse_dsn)
    after_kill = content(warehouse_dsn, source)
    drop(warehouse_dsn, source)
    load(source, sandbox.connections, warehouse_dsn)
    assert after_kill == content(warehouse_dsn, source)


def test_nothing_personal_reaches_logs_and_results(
    sandbox: Handle, warehouse_dsn: str, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level("DEBUG")
    sandbox.faults(vendor="woocommerce", kind="429", times=1, retry_after=0.01)
    results = [load(source, sandbox.connections, warehouse_dsn) for source in SOURCES]
    output = capfd.readouterr()
    written = caplog.text + output.out + output.err + repr(results)
    assert "answered 429" in written
    addresses = query(warehouse_dsn, "select distinct email from raw_hubspot.contacts")
    assert addresses
    assert not [address for (address,) in addresses if address and address in written]
    secret = resolver(sandbox.connections)("woocommerce").password
    assert secret not in written
