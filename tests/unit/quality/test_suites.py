"""The suites themselves: complete, unique, and built from what the config says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from kundenkreis.quality.facts import LandingFacts, MartsFacts, end_of_day
from kundenkreis.quality.suites import landing, marts, marts_orders
from kundenkreis.quality.suites.common import (
    Check,
    TableSuite,
    as_batch_query,
    literal,
    literals,
    percent,
)
from kundenkreis.quality.suites.landed import landed_tables
from kundenkreis.settings import Settings, load_settings

CONFIG = Path(__file__).parents[3] / "config"
SCHEMA = "marts_blue"


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(CONFIG)


def _landing_facts(settings: Settings, **more: Any) -> LandingFacts:
    tables = {
        (f"raw_{source}", landed.table): frozenset(landed.columns())
        for source, found in landed_tables(settings).items()
        for landed in found
    }
    tables["quarantine", "rejected_records"] = frozenset()
    tables["activation", "subscriber_states"] = frozenset()
    moment = datetime(2026, 3, 31, 22, tzinfo=UTC)
    return LandingFacts("run", moment, moment, tables, **more)


def _marts_facts(**more: Any) -> MartsFacts:
    tables = {
        (SCHEMA, table): frozenset(columns) for table, columns in marts.REQUIRED_COLUMNS.items()
    }
    return MartsFacts(SCHEMA, date(2026, 3, 31), tables, **more)


def _expectations(suites: list[TableSuite]) -> Iterator[Any]:
    for suite in suites:
        yield from suite.expectations


@pytest.mark.parametrize("gate", ["landing", "marts"])
def test_every_expectation_says_what_its_owner_needs(gate: str, settings: Settings) -> None:
    built = (
        landing.suites(settings, _landing_facts(settings))
        if gate == "landing"
        else marts.suites(settings, _marts_facts())
    )
    seen = set()
    for expectation in _expectations(built):
        assert expectation.severity.value in ("critical", "warning", "info")
        assert expectation.description.endswith(".")
        assert expectation.meta["id"].startswith(f"{gate}.")
        assert expectation.meta["id"] not in seen
        seen.add(expectation.meta["id"])
        for part in ("table", "limit", "action"):
            assert expectation.meta[part].strip()
        assert expectation.meta["action"].rstrip().endswith((".", "'"))
        assert len(expectation.notes) == 2
    assert len(seen) > 40


@pytest.mark.parametrize("gate", ["landing", "marts"])
def test_queries_never_select_personal_columns(gate: str, settings: Settings) -> None:
    personal = ("email", "first_name", "last_name", "phone", "payload", "wording", "birthday")
    built = (
        landing.suites(settings, _landing_facts(settings))
        if gate == "landing"
        else marts.suites(settings, _marts_facts())
    )
    for expectation in _expectations(built):
        for kind in ("find_rows", "measure"):
            sql = expectation.meta[kind] or ""
            selected = sql.split(" from ")[0]
            assert [name for name in personal if name in selected] == []


def test_only_tables_of_enabled_sources_and_datasets_are_expected(tmp_path: Path) -> None:
    (tmp_path / "sources.yml").write_text("hubspot: {}\n")
    assert set(landed_tables(load_settings(tmp_path))) == {"hubspot"}


def test_a_configured_status_is_a_known_one(tmp_path: Path) -> None:
    (tmp_path / "sources.yml").write_text("woocommerce: {}\n")
    (tmp_path / "model.yml").write_text("counted_order_statuses: {woocommerce: [shipped]}\n")
    statuses = landing._statuses("woocommerce", load_settings(tmp_path))
    assert {"shipped", "completed", "checkout-draft"} <= statuses


@pytest.mark.parametrize(
    ("history", "ids", "least", "most"),
    [
        ([], ["volume"], 0, None),
        ([1000], ["volume", "volume_drift"], 900, None),
        ([1000, 10, 1000], ["volume", "volume_drift"], 900, 3000),
        ([10, 10, 10], ["volume", "volume_drift"], 9, 1010),
    ],
)
def test_volume_bounds_come_from_the_median_of_earlier_runs(
    settings: Settings, history: list[int], ids: list[str], least: int, most: int | None
) -> None:
    facts = _landing_facts(settings, volumes={"landing.raw_x.t.volume": history})
    found = list(landing._volume("raw_x.t", facts))
    assert [expectation.meta["id"].split(".")[-1] for expectation in found] == ids
    assert (found[-1].min_value, found[-1].max_value) == (least, most)


def test_the_as_of_day_ends_at_midnight_of_the_business_time_zone() -> None:
    assert end_of_day(date(2026, 3, 31), "Europe/Berlin").astimezone(UTC) == datetime(
        2026, 3, 31, 22, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, "select 'woocommerce' as source, id::text as order_id, total as own_revenue"),
        (
            {"revenue_includes_tax": "false"},
            "total - coalesce(total_tax, 0) as own_revenue",
        ),
        (
            {"revenue_includes_shipping": "false"},
            "total - coalesce(shipping_total, 0) - coalesce(shipping_tax, 0) as own_revenue",
        ),
    ],
)
def test_reconciliation_follows_the_order_policy(
    tmp_path: Path, policy: dict[str, str], expected: str
) -> None:
    (tmp_path / "sources.yml").write_text("woocommerce: {}\n")
    (tmp_path / "model.yml").write_text(
        "\n".join(f"{key}: {value}" for key, value in policy.items())
    )
    facts = MartsFacts(
        SCHEMA,
        date(2026, 3, 31),
        {
            ("raw_woocommerce", "orders"): frozenset(
                {"id", "total", "total_tax", "exchange_rate", "shipping_total", "shipping_tax"}
            )
        },
    )
    assert expected in " ".join(marts_orders._raw_orders(load_settings(tmp_path), facts).split())


def test_queries_reach_postgres_unchanged() -> None:
    assert as_batch_query("select 1") == "with batch as (select * from {batch}) select 1"
    assert as_batch_query("with a as (select 1) select * from a").startswith(
        "with batch as (select * from {batch}), a as"
    )
    assert as_batch_query("select 1 from a join b using (id)").startswith(
        "with batch as (select * from {batch} as batch_rows)"
    )
    assert as_batch_query("select '{x}', id::text from t where s = ':name'").endswith(
        r"select '{{x}}', id::text from t where s = '\:name'"
    )


def test_literals_quote_what_config_says() -> None:
    assert literal("it's") == "'it''s'"
    assert literals(["b", "a", "a"]) == "'a', 'b'"
    assert literals([]) == "null"
    assert percent(0.05) == "5 %"
    assert percent(0.005) == "0.5 %"


def test_a_check_without_a_query_is_refused() -> None:
    from kundenkreis.quality.suites.common import expect_no_rows

    with pytest.raises(ValueError, match="x: has no query"):
        expect_no_rows(Check("x", "t", "info", "d", "l", "a"))
