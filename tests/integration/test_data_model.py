"""docs/data_model.md says what dbt and the warehouse's schema files say, and they what is there."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from kundenkreis.destinations.config import DestinationsConfig
from kundenkreis.documentation import data_model
from kundenkreis.settings import repository_root


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return data_model.read_manifest()


def test_the_page_is_current(manifest: dict[str, Any]) -> None:
    page = data_model.page().read_text(encoding="utf-8")
    assert page == data_model.data_model_markdown(manifest), (
        "docs/data_model.md is out of date: run `make docs`"
    )


def test_every_mart_has_a_grain_and_every_column_type_and_meaning(
    manifest: dict[str, Any],
) -> None:
    relations = [*data_model.mart_relations(manifest), data_model.plan_relation(manifest)]
    assert {"customer_360", "orders", "kpi_daily", "plan_rows"} <= {r.name for r in relations}
    for relation in relations:
        assert relation.grain.startswith("One row per ")
        for column in relation.columns:
            where = f"{relation.schema}.{relation.name}.{column.name}"
            assert column.type, f"{where} has no type"
            assert len(column.meaning) > 5, f"{where} has no description"


def test_every_model_of_the_marts_is_on_the_page_or_in_history(manifest: dict[str, Any]) -> None:
    shown = {relation.name for relation in data_model.mart_relations(manifest)}
    for node in manifest["nodes"].values():
        if node["resource_type"] == "model" and node["schema"] == "marts_blue":
            assert node["name"] in shown or node["name"].startswith("history_")


def test_every_model_and_seed_says_what_it_is_and_ends_in_its_grain(
    manifest: dict[str, Any],
) -> None:
    described = {
        node["name"]: node["description"]
        for node in manifest["nodes"].values()
        if node["resource_type"] in ("model", "seed")
    }
    assert len(described) > 50
    for name, description in described.items():
        meaning, grain = data_model._split_grain(description)
        assert meaning, f"{name} says its grain only"
        assert grain.count(".") == 1, f"{name} goes on after its grain"


def test_every_column_of_a_mart_has_a_type_and_a_description(manifest: dict[str, Any]) -> None:
    marts = [
        node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["schema"] == "marts_blue"
    ]
    assert len(marts) > 15
    for node in marts:
        assert node["config"]["contract"]["enforced"], f"{node['name']} has no contract"
        assert node["columns"], f"{node['name']} lists no column"
        for column in node["columns"].values():
            where = f"{node['name']}.{column['name']}"
            assert column["data_type"], f"{where} has no type"
            assert len(column["description"]) > 5, f"{where} has no description"


def test_every_reader_of_the_marts_is_an_exposure(manifest: dict[str, Any]) -> None:
    exposures = {exposure["name"]: exposure for exposure in manifest["exposures"].values()}
    names = {f"model.kundenkreis.{mart.name}" for mart in data_model.mart_relations(manifest)}
    assert set(exposures["business_intelligence"]["depends_on"]["nodes"]) == names, (
        "models/exposures.yml must name every mart"
    )
    # One module per destination, and one key of destinations.yml.
    folder = repository_root() / "plugins" / "kundenkreis" / "destinations"
    destinations = {file.stem for file in folder.glob("*.py")} - {"__init__", "base", "config"}
    assert destinations == set(DestinationsConfig.model_fields)
    assert set(exposures) == {"business_intelligence", *destinations}
    for name, exposure in exposures.items():
        assert exposure["owner"]["name"], name
        assert data_model._one_line(exposure["description"]).endswith("."), name
        assert (repository_root() / exposure["url"]).exists(), name
        if name in destinations:
            assert set(exposure["depends_on"]["nodes"]) >= {
                "model.kundenkreis.plan_rows",
                "model.kundenkreis.segment_members",
                "model.kundenkreis.contactability",
            }, name


@pytest.mark.integration
def test_the_schema_files_are_read_as_postgres_reads_them(warehouse_dsn: str) -> None:
    stated = {
        (relation.schema, relation.name, column.name): column.type
        for relation in data_model.schema_relations()
        for column in relation.columns
    }
    with psycopg.connect(warehouse_dsn) as connection:
        rows = connection.execute(
            """
            select namespace.nspname, relation.relname, attribute.attname,
                format_type(attribute.atttypid, attribute.atttypmod)
            from pg_attribute as attribute
            inner join pg_class as relation on relation.oid = attribute.attrelid
            inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
            where namespace.nspname in ('history', 'activation', 'quality', 'quarantine', 'privacy')
                and relation.relkind in ('r', 'v') and attribute.attnum > 0
                and not attribute.attisdropped
            """
        ).fetchall()
    assert stated == {(schema, name, column): type_ for schema, name, column, type_ in rows}


def test_every_column_of_the_schema_files_is_explained() -> None:
    for relation in data_model.schema_relations():
        for column in relation.columns:
            assert column.meaning, f"{relation.schema}.{relation.name}.{column.name}"
