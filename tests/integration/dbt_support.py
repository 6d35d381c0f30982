"""Raw tables in the columns the sources land, and dbt runs over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg

from kundenkreis.warehouse.dbt import run_dbt

MARTS = "marts_blue"
Row = dict[str, Any]

_TIME, _TEXT, _NUMBER = "timestamptz", "text", "numeric"


def _columns(type_: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), type_)


RAW_TABLES: dict[str, dict[str, str]] = {
    "raw_files.customers": {
        **_columns(
            _TEXT,
            "source_name customer_key email first_name last_name phone country"
            " preferred_language acquisition_source phone_e164 linked_source linked_customer_key",
        ),
        "created_at": _TIME,
        "loaded_at": _TIME,
    },
    "raw_files.order_lines": {
        "source_name": _TEXT,
        "order_key": _TEXT,
        "line_number": "bigint",
        "customer_key": _TEXT,
        "email": _TEXT,
        "ordered_at": _TIME,
        "status": _TEXT,
        "currency": _TEXT,
        "product_key": _TEXT,
        "product_name": _TEXT,
        "quantity": _NUMBER,
        "unit_price": _NUMBER,
        "line_amount": _NUMBER,
        "discount_amount": _NUMBER,
        "delivered_at": _TIME,
        "refunds_order_key": _TEXT,
        "loaded_at": _TIME,
    },
    "raw_files.orders": {
        "source_name": _TEXT,
        "order_key": _TEXT,
        "customer_key": _TEXT,
        "email": _TEXT,
        "ordered_at": _TIME,
        "status": _TEXT,
        "currency": _TEXT,
        "total_amount": _NUMBER,
        "discount_amount": _NUMBER,
        "delivered_at": _TIME,
        "refunds_order_key": _TEXT,
        "loaded_at": _TIME,
    },
    "raw_files.products": _columns(_TEXT, "source_name product_key product_name category"),
    "raw_files.consent_events": {
        "source_name": _TEXT,
        "email": _TEXT,
        "channel": _TEXT,
        "evidence": _TEXT,
        "occurred_at": _TIME,
        "wording": _TEXT,
    },
    "raw_files.spend": {
        **_columns(_TEXT, "source_name acquisition_source currency content_hash"),
        "spent_on": "date",
        "amount": _NUMBER,
        "row_number": "bigint",
    },
    "raw_woocommerce.customers": {
        "id": "bigint",
        "date_created_gmt": _TIME,
        "date_modified_gmt": _TIME,
        **_columns(_TEXT, "email first_name last_name role"),
        "is_paying_customer": "boolean",
        **_columns(_TEXT, "billing_country billing_phone newsletter_opt_in"),
        "newsletter_opt_in_at": _TIME,
        "phone_e164": _TEXT,
        "_dlt_load_id": _TEXT,
    },
    "raw_woocommerce.orders": {
        "id": "bigint",
        **_columns(_TEXT, "number status currency"),
        **_columns(_TIME, "date_created_gmt date_modified_gmt date_paid_gmt date_completed_gmt"),
        **_columns(
            _NUMBER, "total total_tax shipping_total shipping_tax discount_total discount_tax"
        ),
        "customer_id": "bigint",
        **_columns(
            _TEXT,
            "billing_email billing_first_name billing_last_name billing_country billing_phone"
            " payment_method created_via newsletter_opt_in",
        ),
        "exchange_rate": _NUMBER,
        "phone_e164": _TEXT,
        **_columns(_TEXT, "_dlt_id _dlt_load_id"),
    },
    "raw_woocommerce.orders__line_items": {
        **_columns("bigint", "id product_id variation_id"),
        **_columns(_TEXT, "name sku"),
        **_columns(_NUMBER, "quantity subtotal total total_tax"),
        "_dlt_parent_id": _TEXT,
        "_dlt_list_idx": "bigint",
    },
    "raw_woocommerce.refunds": {
        "id": "bigint",
        "parent_id": "bigint",
        "date_created_gmt": _TIME,
        "amount": _NUMBER,
        "_dlt_load_id": _TEXT,
    },
    "raw_woocommerce.products": {
        "id": "bigint",
        **_columns(_TEXT, "name sku status"),
        "price": _NUMBER,
        "category_id": "bigint",
        "category_name": _TEXT,
        "date_modified_gmt": _TIME,
    },
    "raw_hubspot.contacts": {
        "id": _TEXT,
        "createdate": _TIME,
        "lastmodifieddate": _TIME,
        **_columns(
            _TEXT,
            "email firstname lastname phone lifecyclestage hs_lead_status hs_language"
            " hs_analytics_source date_of_birth phone_e164 linked_source linked_customer_key",
        ),
        "hs_email_optout": "boolean",
        "hs_emailconfirmationstatus": _TEXT,
        "hs_marketable_status": _TEXT,
        "archived": "boolean",
        **_columns(_TEXT, "_dlt_id _dlt_load_id"),
    },
    "raw_hubspot.contacts__property_history": {
        **_columns(_TEXT, "property value source_type _dlt_parent_id"),
        "changed_at": _TIME,
        "_dlt_list_idx": "bigint",
    },
    "raw_hubspot.deals": {
        **_columns(_TEXT, "id contact_id"),
        **_columns(_TIME, "createdate closedate hs_lastmodifieddate"),
        **_columns(_TEXT, "dealstage pipeline deal_currency_code"),
        "amount": _NUMBER,
        **_columns("boolean", "hs_is_closed hs_is_closed_won archived"),
    },
}


def create_raw_tables(dsn: str, *sources: str) -> None:
    """Create the empty tables of these sources, for example ``files``."""
    with psycopg.connect(dsn) as connection:
        for source in sources:
            connection.execute(f"create schema raw_{source}")
        for table, columns in RAW_TABLES.items():
            if table.split(".")[0].removeprefix("raw_") in sources:
                listed = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
                connection.execute(f"create table {table} ({listed})")


def insert(dsn: str, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Insert rows that name only the columns that matter; the others are null."""
    columns = list(RAW_TABLES[table])
    copy_rows(dsn, table, columns, ([row.get(name) for name in columns] for row in rows))


def copy_rows(dsn: str, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into these columns of a table."""
    statement = f"copy {table} ({', '.join(columns)}) from stdin"
    with (
        psycopg.connect(dsn) as connection,
        connection.cursor() as cursor,
        cursor.copy(statement) as copy,
    ):
        for row in rows:
            copy.write_row(row)


def build(dsn: str, as_of_date: str, *arguments: str, **variables: Any) -> dict[str, int]:
    """`dbt build` into `MARTS` without unit tests; raises TransformError where anything fails."""
    return run_dbt(
        "build",
        [*(arguments or ["--exclude", "tag:plan"]), "--exclude-resource-type", "unit_test"],
        dsn=dsn,
        variables={"as_of_date": as_of_date, "marts_schema": MARTS, **variables},
        progress=lambda line: None,
    )


def build_models(dsn: str, as_of_date: str, *selected: str, **variables: Any) -> None:
    """As `build`, without any test: the models and seeds of these tags."""
    arguments = ("--select", *selected, "--exclude-resource-type", "test")
    build(dsn, as_of_date, *arguments, **variables)


def query(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement; unqualified tables are those of `MARTS`."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"set search_path to {MARTS}")
        return connection.execute(statement, parameters).fetchall()
