"""What each task reads and writes, by names that a catalogue knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kundenkreis import lineage
from kundenkreis.connections import parse_connection
from kundenkreis.lineage import Dataset, Warehouse

STORE = Warehouse("postgres://db.example:5433", "house")
NAMESPACE = STORE.namespace


def _names(datasets: tuple[Dataset, ...]) -> list[str]:
    return [f"{one.namespace} {one.name}" for one in datasets]


def test_the_warehouse_is_named_without_login() -> None:
    dsn = "postgresql://loader:s3cret@db.example:5433/house?sslmode=require"
    assert lineage.warehouse(dsn) == STORE
    assert lineage.warehouse("postgresql://me@db.example/house").namespace == (
        "postgres://db.example:5432"
    )


def test_a_system_is_named_by_its_address_without_path_and_login() -> None:
    connection = parse_connection("shop", "https://ck:s3cret@shop.example:8443/secret/path?a=b")
    assert lineage.system(connection) == "https://shop.example:8443"


def test_a_source_fills_its_raw_tables() -> None:
    tables = {"orders": 3, "orders__line_items": 7}
    found = lineage.of_extract("woocommerce", tables, "https://shop.example", STORE)
    # A nested table is no list of its own in the shop.
    assert _names(found.inputs) == ["https://shop.example woocommerce.orders"]
    assert [(one.name, one.rows) for one in found.outputs] == [
        ("house.raw_woocommerce.orders", 3),
        ("house.raw_woocommerce.orders__line_items", 7),
    ]
    files = lineage.of_extract("files", {"orders": 1}, None, STORE)
    assert _names(files.inputs) == ["file files.orders"]


def test_a_delivery_fills_audiences_with_what_was_confirmed() -> None:
    audiences: dict[str, dict[str, Any]] = {
        "Welcome": {"add": {"confirmed": 2, "rejected": 1}, "remove": {"confirmed": 1}},
        "Champions": {"add": {"suppressed": 4}},
    }
    found = lineage.of_delivery("listmonk", audiences, "https://mail.example", STORE)
    assert _names(found.inputs) == [f"{NAMESPACE} house.activation.plan_rows"]
    assert [(one.name, one.rows) for one in found.outputs] == [
        ("house.activation.ledger", None),
        ("listmonk.Champions", 0),
        ("listmonk.Welcome", 3),
    ]


def test_publishing_turns_tables_of_a_colour_into_views() -> None:
    found = lineage.of_publish("marts_green", ["orders", "customers"], STORE)
    assert _names(found.inputs) == [
        f"{NAMESPACE} house.marts_green.customers",
        f"{NAMESPACE} house.marts_green.orders",
    ]
    assert _names(found.outputs)[1] == f"{NAMESPACE} house.marts.orders"


def _node(name: str, kind: str, schema: str, *parents: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "resource_type": kind,
        "schema": schema,
        "depends_on": {"nodes": list(parents)},
        "columns": {},
        **more,
    }


def test_dbt_is_a_job_per_model_and_their_sum(tmp_path: Path) -> None:
    column = {"name": "order_id", "data_type": "text", "description": "The key."}
    manifest = {
        "sources": {
            "source.k.raw.orders": _node("orders", "source", "raw", identifier="shop_orders")
        },
        "nodes": {
            "model.k.stg": _node("stg", "model", "staging", "source.k.raw.orders"),
            "model.k.orders": _node(
                "orders",
                "model",
                "marts_blue",
                *("model.k.stg", "model.k.old"),
                alias="orders",
                columns={"order_id": column},
                description="One row per order.",
                compiled_code="select 1",
            ),
            "model.k.old": _node("old", "model", "marts_blue"),
            "model.k.broken": _node("broken", "model", "marts_blue", "model.k.orders"),
            "test.k.unique": _node("unique", "test", "audit", "model.k.orders"),
        },
    }
    executed = {"name": "execute", "started_at": "2026-07-01T00:20:00Z", "completed_at": "later"}
    results = [
        {"unique_id": "model.k.stg", "status": "success", "adapter_response": {}, "timing": []},
        {
            "unique_id": "model.k.orders",
            "status": "success",
            "adapter_response": {"rows_affected": 12},
            "timing": [executed],
        },
        {"unique_id": "model.k.broken", "status": "error"},
        {"unique_id": "test.k.unique", "status": "pass"},
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "run_results.json").write_text(json.dumps({"results": results}))

    found = lineage.of_dbt(tmp_path, STORE)

    assert [job.name for job in found.jobs] == ["dbt.stg", "dbt.orders"]
    orders = found.jobs[1]
    assert _names(orders.inputs) == [
        f"{NAMESPACE} house.staging.stg",
        f"{NAMESPACE} house.marts_blue.old",
    ]
    assert (orders.started_at, orders.finished_at) == ("2026-07-01T00:20:00Z", "later")
    assert orders.sql == "select 1"
    assert orders.outputs == (
        Dataset(
            NAMESPACE,
            "house.marts_blue.orders",
            (lineage.Column("order_id", "text", "The key."),),
            "One row per order.",
            12,
        ),
    )
    # What was only passed on within the call is no input of the task.
    assert _names(found.inputs) == [
        f"{NAMESPACE} house.raw.shop_orders",
        f"{NAMESPACE} house.marts_blue.old",
    ]
    assert [one.name for one in found.outputs] == ["house.staging.stg", "house.marts_blue.orders"]
