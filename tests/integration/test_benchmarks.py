"""The benchmarks' own code at a small size: what they compare is the same. Nothing is timed."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from benchmarks import delivery, floors, nights, shop
from kundenkreis.settings import repository_root

pytestmark = pytest.mark.integration

_PERSONS = 400


def test_floors_give_what_the_models_give(warehouse_dsn: str) -> None:
    shop.create_history(warehouse_dsn, _PERSONS)
    as_of_date = shop.add_night(warehouse_dsn, _PERSONS, 1)
    assert as_of_date == shop.LAST_DAY + timedelta(days=1)

    run = nights.run_context(warehouse_dsn, as_of_date, nights.default_settings())
    built = nights.build(run)
    gates = nights.gates(run, built.schema)
    assert {name: gate["stopped"] for name, gate in gates.items()} == {"landing": "", "marts": ""}
    floors.run(warehouse_dsn, floors.TABLES, as_of_date, built.schemas)
    compared = floors.compare(warehouse_dsn, floors.TABLES, built.schemas)

    rows = {comparison.table: comparison.rows for comparison in compared}
    assert rows["customer_360"] >= _PERSONS
    assert all(rows.values()), "every table must hold something to compare"
    stages = _column(warehouse_dsn, f"select distinct stage from {built.schema}.customer_360")
    assert len(stages) >= 8, "the shop must reach nearly every stage"
    assert set(nights.GROWING) < set(nights.GROUPS)
    grouped = {name for names in nights.GROUPS.values() for name in names}
    models = {file.stem for file in (repository_root() / "dbt_project/models").rglob("*.sql")}
    assert grouped <= models, "every model that is added up must exist"
    # A full build lacks only what says what has changed.
    assert all(
        re.search("changed|affected|recomputed", name) for name in grouped - set(built.schemas)
    )

    with psycopg.connect(warehouse_dsn) as connection:
        connection.execute(
            "update floor.customer_rfm set monetary = monetary + 0.0001"
            " where customer_id = (select min(customer_id) from floor.customer_rfm)"
        )
    with pytest.raises(floors.FloorDiffers, match="customer_rfm"):
        floors.compare(warehouse_dsn, ["rfm"], built.schemas)


def test_a_night_changes_one_person_in_a_hundred_and_is_the_same_every_time(
    warehouse_dsn: str,
) -> None:
    persons = 4_000
    shop.create_history(warehouse_dsn, persons)
    before = _column(
        warehouse_dsn, "select order_key || status || total_amount from raw_files.orders"
    )
    shop.add_night(warehouse_dsn, persons, 1)
    changed = _column(
        warehouse_dsn,
        "select email from raw_files.orders where _dlt_load_id = (select max(load_id) from"
        " raw_files._dlt_loads) union select lower(trim(email)) from raw_files.customers where"
        " _dlt_load_id = (select max(load_id) from raw_files._dlt_loads)",
    )
    assert 0.005 < len(changed) / persons < 0.015
    corrected = _column(
        warehouse_dsn,
        "select order_key from raw_files.orders where order_key like 'o%%' and _dlt_load_id ="
        " (select max(load_id) from raw_files._dlt_loads)",
    )
    assert corrected
    duplicates = _column(
        warehouse_dsn,
        "select order_key from raw_files.orders group by order_key having count(*) > 1",
    )
    assert duplicates == []

    with psycopg.connect(warehouse_dsn) as connection:
        connection.execute("drop schema raw_files cascade")
        connection.execute("drop schema benchmark cascade")
    shop.create_history(warehouse_dsn, persons)
    again = _column(
        warehouse_dsn, "select order_key || status || total_amount from raw_files.orders"
    )
    assert sorted(again) == sorted(before)
    assert 9 < len(again) / persons < 11
    once = _column(
        warehouse_dsn,
        "select email from raw_files.orders group by email having count(*) = 1",
    )
    assert 0.2 < len(once) / persons < 0.35


def _column(dsn: str, statement: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(statement.encode(), ())]


def test_delivery_and_its_floor_bring_the_same_contacts(warehouse_dsn: str, tmp_path: Path) -> None:
    bench = delivery.Bench(warehouse_dsn, tmp_path, Path(sys.executable), lambda line: None)
    bench.prepare()
    runs: dict[str, Any] = {}
    with delivery.tool(latency_ms=0) as port:
        bench.keep_faster(runs, "floor", 1_200, port, bench.floor)
        bench.keep_faster(runs, "kundenkreis", 1_200, port, bench.deliver)
        bench.keep_faster(runs, "members", 1_200, port, bench.deliver, ("upsert", "add"))
    nights = bench.later_nights(1_000)

    assert {name: run["writes"] for name, run in runs.items()} == {
        "floor": 3,
        "kundenkreis": 3 + 6,  # six merge fields
        "members": 3 + 6 + 3 + 1,
    }
    assert (nights["unchanged_writes"], nights["changed_writes"]) == (0, nights["forced_writes"])
