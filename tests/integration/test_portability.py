"""The marts that DuckDB builds are those that PostgreSQL builds from the same inputs.

A shop trades for a year and some nights on PostgreSQL; what the last night read is copied, and
`dbt build` makes the same night of it on DuckDB. docs/scaling.md says what is the same.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import psycopg
import pytest

from kundenkreis.predictions import predict
from kundenkreis.settings import Settings, repository_root
from kundenkreis.warehouse import publish
from kundenkreis.warehouse.publish import intermediate_schema
from tests.integration import duckdb_warehouse
from tests.integration.conftest import ShopTemplate
from tests.integration.dbt_support import Row, build_models, insert
from tests.integration.duckdb_warehouse import Command
from tests.integration.generated_shop import Shop, Trade, nights

pytestmark = pytest.mark.integration

NIGHTS = 5
TRADE = Trade(
    seed=7,
    first_night=date(2026, 2, 26),
    orders=lambda day: 6.0,
    leads=2.0,
    imports=((date(2026, 2, 27), 40),),
    history_days=420,
)
# Both reckon with 8 bytes, which hold 15 to 16 digits, but add the terms in another order: of sums
# of some thousands of them, as here, 12 digits and more are the same.
RELATIVE_TOLERANCE = 1e-9
_UNICODE, _ASCII = "bücher.example", "xn--bcher-kva.example"


@dataclass(frozen=True)
class Night:
    """One night on both warehouses.

    Attributes:
        postgres, duckdb: columns and rows of each mart.
        statuses: how each model and data test ended on DuckDB.
        rules: how each unit test ended there.
    """

    postgres: dict[str, tuple[list[str], list[tuple[Any, ...]]]]
    duckdb: dict[str, tuple[list[str], list[tuple[Any, ...]]]]
    statuses: dict[str, str]
    rules: dict[str, str]


@pytest.fixture(scope="module")
def night(
    shop_settings: Settings, shop_template: ShopTemplate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Night]:
    """The last of some published nights."""
    name = f"{shop_template.database}_portability"
    dsn = shop_template.clone(name)
    folder = tmp_path_factory.mktemp("duckdb")
    as_of, schema = _live(dsn, shop_template)
    variables = {
        **shop_settings.dbt_vars(),
        "marts_schema": schema,
        "global_holdout_percent": 5.0,
        "identity_phone_edges": True,
    }
    build_models(dsn, as_of.isoformat(), "tag:transform", **variables)
    with psycopg.connect(dsn) as connection:
        predict(
            connection, as_of, lambda line: None, intermediate_schema=intermediate_schema(schema)
        )
    build_models(dsn, as_of.isoformat(), "tag:segment", **variables)
    file = folder / "warehouse.duckdb"
    assert duckdb_warehouse.copy_inputs(dsn, file, folder) > 5000
    on_the_day = {**variables, "as_of_date": as_of.isoformat()}
    statuses, rules = duckdb_warehouse.run_dbt(
        file,
        folder,
        Command("build", on_the_day, ("--exclude-resource-type", "unit_test")),
        # They set what they are about; of holdouts they expect the default.
        Command(
            "test", {**on_the_day, "global_holdout_percent": 0}, ("--select", "test_type:unit")
        ),
    )
    with psycopg.connect(dsn) as ours, duckdb.connect(str(file), read_only=True) as theirs:
        theirs.execute("set TimeZone = 'UTC'")
        yield Night(_relations(ours, schema), _relations(theirs, schema), statuses, rules)
    shop_template.drop(name)


def _live(dsn: str, template: ShopTemplate) -> tuple[date, str]:
    """Publish some nights, land one more and begin its build; returns its day and schema."""
    shop = Shop(TRADE)
    shop.open(dsn)
    for table, rows in _UNUSUAL.items():
        insert(dsn, table, rows)
    *earlier, last = nights(TRADE, NIGHTS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update raw_woocommerce.products set category_name = 'Tea ' || id % 3")
        for day in earlier:
            run_id = f"night of {day}"
            shop.live(dsn, day, run_id)
            schema = publish.begin_build(dsn, run_id, day, is_backfill=False)
            template.project.build(connection, day, schema)
            publish.publish(dsn, run_id, day, schema, {})
        shop.live(dsn, last, "last")
        schema = publish.begin_build(dsn, "last", last, is_backfill=False)
        folders = f"{schema}, {intermediate_schema(schema)}"
        connection.execute(f"drop schema if exists {folders} cascade".encode())
    return last, schema


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _contact(id_: str, **values: Any) -> Row:
    moment = _moment("2026-01-05 10:00:00")
    return {"id": id_, "_dlt_id": id_, "createdate": moment, "lastmodifieddate": moment, **values}


# What the generated shop does not have: names for spend, odd addresses and days, links, telephones.
_UNUSUAL: dict[str, list[Row]] = {
    "raw_hubspot.contacts": [
        _contact("u1", email=" Susi.Sorglos@Shop.Example\u00a0", hs_analytics_source="PAID_SEARCH"),
        _contact("u2", email="no address", date_of_birth="2001-02-30", lastname="Sand"),
        _contact("u3", email="leap@mail.example", date_of_birth="1996-02-29", hs_lead_status="NEW"),
        _contact("u4", email=f"w@{_UNICODE}", hs_analytics_source="paid_search"),
        _contact("u5", email="young@mail.example", date_of_birth="2012-03-03"),
        _contact("u6", phone_e164="+49301", lastname=" Meier", hs_email_optout=True),
        _contact("u7", phone_e164="+49301", lastname="meier", email="m@mail.example"),
        _contact("u8", linked_source="till", linked_customer_key="k7", archived=True),
    ],
    "raw_hubspot.contacts__property_history": [
        {
            "_dlt_parent_id": "u1",
            "_dlt_list_idx": 0,
            "property": "lifecyclestage",
            "value": "Lead",
            "changed_at": _moment("2025-11-30 23:30:00"),
        }
    ],
    "raw_hubspot.deals": [
        {"id": "d1", "contact_id": "u3", "createdate": _moment("2026-01-20 09:00:00")}
    ],
    "raw_files.orders": [
        {
            "source_name": "till",
            "order_key": f"unusual{number}",
            "customer_key": "k7",
            "email": "susi.sorglos@shop.example" if number % 2 else None,
            "ordered_at": _moment(f"2025-{number:02}-28 22:30:00"),
            "status": "Completed",
            "currency": "usd" if number == 3 else "EUR",
            "total_amount": Decimal("19.99") * number,
            "discount_amount": Decimal("-1.005") * number,
            "delivered_at": _moment(f"2025-{number:02}-28 23:30:00"),
        }
        for number in range(1, 13)
    ],
    "raw_files.customers": [
        {"source_name": "till", "customer_key": "k7", "phone_e164": "+49302", "country": "AT"}
    ],
    "raw_files.spend": [
        {
            "source_name": "ads",
            "content_hash": "h",
            "row_number": number,
            "acquisition_source": source,
            "spent_on": date(2026, 1, number),
            "currency": currency,
            "amount": Decimal("33.335"),
        }
        for number, (source, currency) in enumerate(
            [(" Paid_Search", "EUR"), ("paid_search", "usd"), ("radio", "EUR"), ("radio", "XXX")],
            start=1,
        )
    ],
}


def _relations(connection: Any, schema: str) -> dict[str, tuple[list[str], list[tuple[Any, ...]]]]:
    names = connection.execute(
        f"select table_name from information_schema.tables where table_schema = '{schema}'"
    ).fetchall()
    read = {}
    for (name,) in names:
        rows = connection.execute(f"select * from {schema}.{name}")
        read[name] = ([column[0] for column in rows.description], rows.fetchall())
    return read


def _exact(value: Any) -> str:
    """A value that has to be the same, as text that is the same for both drivers."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, str) and value[:1] in ("[", "{"):  # DuckDB hands JSON over as text
        return json.dumps(json.loads(value), sort_keys=True)
    return str(value).replace(_UNICODE, _ASCII)


def _rows(rows: list[tuple[Any, ...]]) -> list[tuple[tuple[str, ...], list[float]]]:
    """Rows in an order of their own: what has to be equal, and the floating point numbers."""
    return sorted(
        (
            tuple("float" if isinstance(value, float) else _exact(value) for value in row),
            [value for value in row if isinstance(value, float)],
        )
        for row in rows
    )


def _differences(night: Night, mart: str) -> list[str]:
    (columns, ours), (their_columns, theirs) = night.postgres[mart], night.duckdb[mart]
    if columns != their_columns:
        return [f"columns {columns} and {their_columns}"]
    if len(ours) != len(theirs):
        return [f"{len(ours)} and {len(theirs)} rows"]
    return [
        f"{our_row} and {their_row}"
        for our_row, their_row in zip(_rows(ours), _rows(theirs), strict=True)
        if our_row[0] != their_row[0]
        or not all(
            math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE)
            for a, b in zip(our_row[1], their_row[1], strict=True)
        )
    ]


def _documented() -> dict[str, str]:
    """The table of docs/scaling.md: mart and what it says of it."""
    text = (repository_root() / "docs" / "scaling.md").read_text(encoding="utf-8")
    section = text.split("## The models on DuckDB")[1].split("\n## ")[0]
    said = {}
    for names, verdict in re.findall(r"^\| (`.+?) \| (.+?) \|$", section, re.M):
        said.update(dict.fromkeys(re.findall(r"`(\w+)`", names), verdict))
    return said


def test_dbt_builds_and_tests_every_model_on_duckdb(night: Night) -> None:
    """Its data tests and the contracts of the marts are part of the build."""
    ended = {
        name: status
        for name, status in night.statuses.items()
        if not name.startswith("exposure.") and status not in ("success", "pass")
    }
    assert ended == {}
    kinds = [name.split(".")[0] for name in night.statuses]
    assert kinds.count("model") > 60
    assert kinds.count("test") > 40


def test_the_rules_hold_on_duckdb(night: Night) -> None:
    """The unit tests of the models, with their boundaries."""
    ended = {name: end for name, end in night.rules.items() if name.startswith("unit_test.")}
    assert {name: end for name, end in ended.items() if end != "pass"} == {}
    assert len(ended) > 80


def test_every_mart_is_as_documented(night: Night) -> None:
    said = _documented()
    assert set(night.postgres) == set(night.duckdb) == set(said)
    differences = {mart: found for mart in said if (found := _differences(night, mart))}
    assert {mart: found[:2] for mart, found in differences.items()} == {}
    assert set(said.values()) == {"the same"}


def test_the_marts_hold_enough_to_tell(night: Night) -> None:
    """An empty mart is the same everywhere."""
    empty = {mart for mart, (_, rows) in night.postgres.items() if not rows}
    assert empty <= {"history_identity_changes"}
    columns, rows = night.postgres["customer_360"]
    stages = {row[columns.index("stage")] for row in rows}
    assert len(stages) >= 8, stages
    assert len(rows) > 1500


def test_only_international_domains_are_spelled_otherwise(night: Night) -> None:
    """The ASCII form needs a function that DuckDB does not have."""
    for built, spelled in ((night.postgres, _ASCII), (night.duckdb, _UNICODE)):
        columns, rows = built["customers"]
        addresses = {row[columns.index("email")] for row in rows}
        assert f"w@{spelled}" in addresses
