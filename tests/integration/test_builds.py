"""When a build may stand upon the colour's last one, and why it may not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from kundenkreis.errors import WarehouseError
from kundenkreis.warehouse import builds, publish
from tests.integration.dbt_support import create_raw_tables, insert

pytestmark = pytest.mark.integration

DAY = date(2026, 3, 1)
FINGERPRINT = "as it is"


@pytest.fixture(scope="module")
def shop(module_warehouse_dsn: str) -> str:
    """A warehouse with a hundred orders of one load."""
    create_raw_tables(module_warehouse_dsn, "files")
    _load(module_warehouse_dsn, "2026-03-01 01:00+00", range(100))
    return module_warehouse_dsn


@pytest.fixture
def built(shop: str) -> Iterator[str]:
    """The blue colour holds a complete build of DAY that was published."""
    _complete(shop, _begin(shop))
    yield shop
    with psycopg.connect(shop) as connection:
        connection.execute(
            "truncate operations.build_state, operations.built_loads, operations.dirty_schemas,"
            " history.publications"
        )


def _load(dsn: str, loaded_at: str, numbers: range) -> None:
    insert(
        dsn,
        "raw_files.orders",
        ({"source_name": "till", "order_key": str(n), "loaded_at": loaded_at} for n in numbers),
    )


def _begin(
    dsn: str, day: date = DAY, schema: str = publish.BLUE, fingerprint: str = FINGERPRINT
) -> builds.Build:
    return builds.begin(dsn, schema, day, fingerprint, ["files"])


def _complete(dsn: str, build: builds.Build, *, published: bool = True) -> None:
    builds.complete(dsn, build, "run")
    if published:
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "insert into history.publications (as_of_date, dag_run_id, schema_name)"
                " values (%s, 'run', %s)",
                (build.as_of_date, build.schema),
            )


def test_the_first_build_of_a_colour_is_a_full_one(shop: str) -> None:
    build = _begin(shop, schema=publish.GREEN)
    assert build.built_as_of_date is None
    assert build.full_because == "this schema holds no complete build"
    assert build.loads == (("files", "2026-03-01 01:00:00+00"),)


def test_the_next_one_stands_upon_it(built: str) -> None:
    build = _begin(built, DAY + timedelta(days=2))
    assert (build.built_as_of_date, build.full_because) == (DAY, None)
    assert build.variables() == {"built_as_of_date": "2026-03-01", "new_loads": {}}
    builds.complete(built, build, "next")
    assert builds.variables_of(built, publish.BLUE) == build.variables()


def test_the_same_day_again_stands_upon_it(built: str) -> None:
    assert _begin(built).full_because is None


def test_a_build_that_died_leaves_a_colour_to_be_built_in_full(built: str) -> None:
    _begin(built)
    assert _begin(built).full_because == "this schema holds no complete build"
    assert builds.variables_of(built, publish.BLUE)["built_as_of_date"] is None


def test_a_build_that_was_not_published_is_not_built_upon(shop: str, built: str) -> None:
    _complete(shop, _begin(shop, schema=publish.GREEN), published=False)
    build = _begin(shop, schema=publish.GREEN)
    assert build.full_because == "the last build of this schema was not published"


def test_a_colour_that_failed_its_gate_is_not_built_upon(built: str) -> None:
    publish.mark_dirty(built, publish.BLUE, "gate_marts failed")
    assert _begin(built).full_because == "gate_marts failed"


def test_other_rules_make_a_full_build(built: str) -> None:
    assert _begin(built, fingerprint="another").full_because == (
        "models or configuration have changed"
    )


def test_an_earlier_day_makes_a_full_build(built: str) -> None:
    build = _begin(built, DAY - timedelta(days=1))
    assert build.full_because == "the last build of this schema computed 2026-03-01"


def test_a_backfill_is_a_full_build(built: str) -> None:
    _complete(built, _begin(built, schema=publish.BACKFILL))
    build = _begin(built, DAY + timedelta(days=1), schema=publish.BACKFILL)
    assert build.full_because == "a backfill is built in full"


def test_a_fifth_of_a_table_is_the_most_that_is_built_upon(built: str) -> None:
    _load(built, "2026-03-02 01:00+00", range(1000, 1025))
    build = _begin(built)
    assert build.full_because is None, "25 of 125 rows are a fifth"
    assert build.new_loads == {"files": ["2026-03-02 01:00:00+00"]}
    assert len(build.loads) == 2
    with psycopg.connect(built) as connection:
        connection.execute("truncate operations.build_state, operations.built_loads")
        connection.execute("delete from raw_files.orders where order_key::int >= 1000")
    _complete(built, _begin(built))
    _load(built, "2026-03-02 01:00+00", range(1000, 1026))
    assert _begin(built).full_because == "26 of 126 rows of raw_files.orders are new"
    with psycopg.connect(built) as connection:
        connection.execute("delete from raw_files.orders where order_key::int >= 1000")


def test_the_fingerprint_is_of_rules_and_models_and_not_of_the_night() -> None:
    night = {"as_of_date": "2026-03-01", "refund_policy": "net", "run_id": "a", "segments": []}
    same = {"as_of_date": "2026-03-02", "refund_policy": "net", "run_id": "b", "segments": [1]}
    assert builds.fingerprint(night) == builds.fingerprint(same)
    assert builds.fingerprint(night) != builds.fingerprint({**night, "refund_policy": "gross"})


def test_the_fingerprint_changes_with_a_model_a_macro_and_a_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "repository_root", lambda: tmp_path)
    project = tmp_path / "dbt_project"
    for name in ("models/orders.sql", "macros/policy.sql", "seeds/domains.csv", "dbt_project.yml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("before")
    seen = {builds.fingerprint({})}
    for name in ("models/orders.sql", "macros/policy.sql", "seeds/domains.csv", "dbt_project.yml"):
        (project / name).write_text("after")
        seen.add(builds.fingerprint({}))
    (project / "models/orders.yml").write_text("a description")
    seen.add(builds.fingerprint({}))
    assert len(seen) == 5


def test_raw_tables_name_every_raw_table_that_says_what_changed() -> None:
    models = builds.repository_root() / "dbt_project" / "models" / "intermediate"
    asked = "".join(
        (models / f"{name}.sql").read_text()
        for name in ("int_changed_orders", "int_changed_records")
    )
    named = {
        f"stg_{source}__{table}"
        for source, tables in builds.RAW_TABLES.items()
        for table, _ in tables
    }
    staged = {path.stem for path in (models.parent / "staging").rglob("*.sql")}
    assert {model for model in staged if f"'{model}'" in asked} == named


def test_what_a_removed_model_left_is_dropped_and_nothing_else(warehouse_dsn: str) -> None:
    with psycopg.connect(warehouse_dsn) as session:
        session.execute("create schema if not exists marts_green")
        for statement in (
            "create table marts_green.customers (customer_id text)",
            "create table marts_green.history_stage_changes (customer_id text)",
            "create table marts_green.old_scores (customer_id text)",
            "create view marts_green.old_report as select * from marts_green.old_scores",
            "create view marts_green.orders as select * from marts_green.customers",
        ):
            session.execute(statement.encode())
    assert builds.drop_what_is_no_model(warehouse_dsn, "marts_green") == [
        "old_report",
        "old_scores",
    ]
    assert builds.drop_what_is_no_model(warehouse_dsn, "marts_green") == []
    with psycopg.connect(warehouse_dsn) as session:
        rows = session.execute(
            "select relname from pg_class where relnamespace = 'marts_green'::regnamespace "
            "and relkind in ('r', 'v') order by 1"
        ).fetchall()
        assert [name for (name,) in rows] == ["customers", "history_stage_changes", "orders"]
        session.execute("create table marts_green.old_scores (customer_id text)")
        session.execute("create schema team")
        session.execute("create view team.report as select * from marts_green.old_scores")
    with pytest.raises(WarehouseError, match=r"something stands on it: view team\.report"):
        builds.drop_what_is_no_model(warehouse_dsn, "marts_green")
