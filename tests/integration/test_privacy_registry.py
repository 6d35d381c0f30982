"""No column of the warehouse may name a person without the erasure knowing of it."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import psycopg
import pytest

from kundenkreis.privacy.places import (
    ADDRESS_COLUMNS,
    COLOURS,
    CUSTOMER_COLUMNS,
    NODE_COLUMNS,
    ORDER_TABLES,
    PAYLOAD_COLUMNS,
    conditions_on,
    tables_of,
)
from kundenkreis.privacy.raw_rows import (
    NOBODY,
    RAW_ROWS,
    AddressRows,
    LinkRows,
    OrderRows,
    RecordRows,
)
from kundenkreis.sources import files, hubspot, woocommerce
from kundenkreis.sources.base import Table
from kundenkreis.sources.config import Entity, HubSpotSettings, WooCommerceSettings
from kundenkreis.warehouse.publish import intermediate_schema
from tests.integration.conftest import ShopTemplate

pytestmark = pytest.mark.integration

# A column with one of these words in its name may name somebody.
_SUSPECT = re.compile(
    r"customer|contact|address|e_?mail|name|phone|birth|source_id|source_record|vendor|payload"
    r"|attribute|identity|component|connection|_key$|recipient|subscriber|person"
)
# What has such a word in its name and names nobody, as table.column or column.
_NOBODYS = {
    "product_name",
    "category_name",
    "schema_name",
    "table_name",
    "file_name",
    "source_name",
    "product_key",
    "is_contactable",
    "not_contactable_because",
    "contactable",
    "new_customers",
    "reactivated_customers",
    "churned_customers",
    "customers",
    "payload_hash",
    "rejected_payload_hash",
    "repeat_customers",
    "cohort_customers",
    "net_customer_growth",
    "net_customer_growth_30_days",
    "identity_phone_edges",
    "key_check",
    "audience_name",
    "framework_stage_name",
    "creates_contacts",
    "int_spend.record_key",
}
_COUNTS = re.compile(
    r"^customers_|_customers$|_customers_|^customer_growth|customers$|^cost_per_|_per_customer"
)


def _people_columns(columns: set[str]) -> set[str]:
    return {
        name
        for name in columns
        if _SUSPECT.search(name) and name not in _NOBODYS and not _COUNTS.search(name)
    }


@pytest.fixture(scope="module")
def connection(shop_template: ShopTemplate) -> Any:
    """A warehouse with the raw tables of all sources and every model built once."""
    name = "registry"
    dsn = shop_template.clone(name)
    with psycopg.connect(dsn) as session:
        shop_template.project.build(session, date(2026, 3, 1), "marts_blue")
        session.commit()
        yield session
    shop_template.drop(name)


def test_every_model_that_names_persons_is_emptied_of_one(connection: psycopg.Connection) -> None:
    missed, looked_at = set(), 0
    for colour in COLOURS:
        for schema in (colour, intermediate_schema(colour)):
            for table, columns in tables_of(connection, schema).items():
                looked_at += 1
                suspects = _people_columns(columns) - set(NODE_COLUMNS)
                suspects -= {name for name in suspects if f"{table}.{name}" in _NOBODYS}
                if set(PAYLOAD_COLUMNS) & columns:  # a row goes with the key in its payload
                    suspects -= {*PAYLOAD_COLUMNS, "record_key"}
                if table in ORDER_TABLES:
                    missed |= {f"{table}.{c}" for c in suspects - set(ORDER_TABLES[table])}
                elif suspects and not list(conditions_on(columns)):
                    missed |= {f"{table}.{column}" for column in suspects}
    assert looked_at > 30
    assert missed == set(), "tell kundenkreis.privacy.places, or _NOBODYS here, about these columns"


def test_every_table_of_bookkeeping_that_names_persons_is_emptied_of_one(
    connection: psycopg.Connection,
) -> None:
    missed = set()
    for schema in ("history", "activation", "operations", "quality", "predictions"):
        for table, columns in tables_of(connection, schema).items():
            if _people_columns(columns) and not list(conditions_on(columns)):
                missed |= {f"{schema}.{table}.{column}" for column in _people_columns(columns)}
    # Names of audiences, runs and colours.
    allowed = {"activation.audiences.vendor_id"}
    assert missed - allowed == set()


def test_no_schema_is_unknown_to_the_erasure(connection: psycopg.Connection) -> None:
    schemas = {
        name
        for (name,) in connection.execute(
            "select nspname from pg_namespace where nspname !~ '^(pg_|raw_)' "
            "and nspname not in ('information_schema', 'public')"
        )
    }
    emptied = {"history", "operations", "activation", "quarantine"}
    emptied |= set(COLOURS) | {intermediate_schema(name) for name in COLOURS}
    # Views, seeds, aggregates, and what the erasure itself keeps.
    of_nobody = {"marts", "staging", "seeds", "predictions", "quality", "privacy"}
    assert schemas - emptied - of_nobody == set()


# Raw tables, as the sources declare them


def _declared() -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    apis: dict[str, dict[str, Table]] = {
        "woocommerce": woocommerce.tables(WooCommerceSettings(), None),
        "hubspot": hubspot.tables(HubSpotSettings(), None),
    }
    for source, tables in apis.items():
        for name, table in tables.items():
            found[source, name] = set(table.columns())
            for nested, columns in table.nested().items():
                found[source, f"{name}__{nested}"] = set(columns)
    for entity in Entity:
        found["files", entity.value] = set(files.declared_columns(entity))
    return found


def test_every_raw_table_is_declared() -> None:
    for source, table in _declared():
        assert (table in RAW_ROWS.get(source, {})) != (table in NOBODY.get(source, ())), (
            f"raw_{source}.{table}: say in kundenkreis.privacy.raw_rows whom it is about, or that "
            "it is about nobody"
        )


def test_every_raw_column_that_names_persons_goes_or_is_emptied() -> None:
    missed = set()
    for (source, table), columns in _declared().items():
        rows = RAW_ROWS[source].get(table)
        suspects = _people_columns(columns)
        if isinstance(rows, RecordRows | AddressRows):
            continue  # the whole row goes
        if isinstance(rows, OrderRows):
            suspects -= {rows.key, rows.owner, rows.address, *rows.personal, "refunds_order_key"}
        elif isinstance(rows, LinkRows):
            suspects -= {rows.owner}
        elif table in ("contacts__property_history",):
            continue  # with its contact
        missed |= {f"raw_{source}.{table}.{column}" for column in suspects}
    # Names of products, categories and sources.
    named = {"name", "spend_key"}
    assert {column for column in missed if column.rpartition(".")[2] not in named} == set()


@pytest.mark.parametrize(("source", "table"), [(s, t) for s, ts in RAW_ROWS.items() for t in ts])
def test_what_is_declared_of_a_raw_table_is_there(source: str, table: str) -> None:
    rows = RAW_ROWS[source][table]
    columns = _declared()[source, table] | {"_dlt_load_id"}
    named = {getattr(rows, name, None) for name in ("key", "owner", "address", "created", "dated")}
    named |= {getattr(rows, name, None) for name in ("source", "load", "number")}
    named |= {*getattr(rows, "personal", ()), *(getattr(rows, "link", None) or ())}
    named |= set(getattr(rows, "opt_in", None) or ())
    assert {name for name in named if name} <= columns


def test_the_columns_that_are_looked_at_are_those_of_the_models() -> None:
    assert set(CUSTOMER_COLUMNS) & {"customer_id"}
    assert set(ADDRESS_COLUMNS) & {"address"}
