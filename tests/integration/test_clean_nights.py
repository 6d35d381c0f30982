"""Two hundred nights of shops with which nothing is wrong: no gate stops one of them.

The marts of every night are really built, from the project's own compiled SQL, checked and
published; only Great Expectations is left out (see `direct_evaluation`).
"""

from __future__ import annotations

import math
import os
from datetime import date, timedelta

import psycopg
import pytest

from kundenkreis.quality import run_gate
from kundenkreis.settings import Settings
from kundenkreis.warehouse import publish
from tests.integration import direct_evaluation
from tests.integration.conftest import ShopTemplate
from tests.integration.generated_shop import Shop, Trade, nights

pytestmark = pytest.mark.integration

NIGHTS = int(os.environ.get("KUNDENKREIS_TEST_CLEAN_NIGHTS", "50"))  # of each of the shops
SEED = int(os.environ.get("KUNDENKREIS_TEST_SEED", "1"))


def _closed_on_sundays(day: date) -> float:
    if day.weekday() == 6 or day == date(2026, 4, 6):
        return 0.0
    return 50.0 if day.weekday() < 5 else 15.0


def _growing(day: date) -> float:
    return 5.0 * math.exp((day - date(2026, 6, 1)).days / 30)


def _after_christmas(day: date) -> float:
    """Twice as much towards Christmas, little between the years, and slow in January."""
    peak = 1 + 1.2 * math.exp(-(((day - date(2025, 12, 12)).days / 14) ** 2))
    if day.month == 12 and day.day >= 24:
        return 4.0 if day.day < 27 else 16.0
    return (30.0 if day.month > 6 else 20.0) * peak


SHOPS = {
    "closed on Sundays and on a holiday": Trade(SEED, date(2026, 2, 18), _closed_on_sundays),
    "growing fast": Trade(SEED + 100, date(2026, 6, 1), _growing),
    "seasonal, with a sale": Trade(
        SEED + 200, date(2025, 11, 15), _after_christmas, sales=((date(2025, 11, 28), 6.0),)
    ),
    "small, with an import of contacts": Trade(
        SEED + 300, date(2026, 8, 1), lambda day: 1.5, imports=((date(2026, 8, 20), 250),)
    ),
}


def _silent(line: str) -> None:
    """What a gate says while it runs; its results are looked at afterwards."""


@pytest.mark.parametrize("name", sorted(SHOPS))
def test_no_clean_night_is_stopped(
    name: str,
    shop_settings: Settings,
    shop_template: ShopTemplate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    direct_evaluation.use_in_gates(monkeypatch)
    settings, project = shop_settings, shop_template.project
    warehouse = shop_template.clone(f"{shop_template.database}_nights")
    shop = Shop(SHOPS[name])
    shop.open(warehouse)
    with psycopg.connect(warehouse, autocommit=True) as connection:
        for number, day in enumerate(nights(shop.trade, NIGHTS)):
            run_id = f"night of {day}"
            shop.live(warehouse, day, run_id)
            schema = publish.begin_build(warehouse, run_id, day, is_backfill=False)
            # A gate that stops the night raises.
            run_gate("landing", settings, warehouse, run_id, day, None, _silent)
            project.build(connection, day, schema)
            run_gate("marts", settings, warehouse, run_id, day, schema, _silent)
            publish.publish(warehouse, run_id, day, schema, {})
            if number % 8 == 1:  # dbt does so with every model it builds
                connection.execute("analyze")
        checked = connection.execute(
            "select count(distinct run_id), count(*) filter (where raised),"
            " count(*) filter (where severity = 'critical' and not success),"
            " count(distinct expectation_id) from quality.gate_results"
        ).fetchone()
        # A young shop is told night after night what it cannot have yet; that is no alarm.
        warned = connection.execute(
            "select expectation_id, count(*), min(as_of_date::text || ': ' || observed)"
            " from quality.gate_results where not success and expectation_id not in"
            " ('marts.segment_members.required_columns',"
            " 'marts.history_rfm_cutoffs.from_quantiles', 'marts.history_value_parameters.fitted')"
            " group by expectation_id order by 2 desc"
        ).fetchall()
        counts = connection.execute(
            "select (select count(*) from marts.customer_360), (select count(*) from marts.orders),"
            " (select count(*) from marts.segment_members where is_contactable),"
            " (select count(*) from history.publications)"
        ).fetchone()
    shop_template.drop(f"{shop_template.database}_nights")
    assert checked is not None
    assert checked[:3] == (NIGHTS, 0, 0)
    assert checked[3] > 150
    assert counts is not None
    assert min(counts) >= NIGHTS, counts
    # Warnings are to be rare, or nobody reads them.
    assert sum(count for _, count, _ in warned) <= NIGHTS / 5, warned


def test_the_shops_are_what_they_say() -> None:
    """Sundays are empty, growth is growth and the sale is one; else the nights prove little."""
    assert _closed_on_sundays(date(2026, 3, 1)) == 0
    assert _growing(date(2026, 7, 20)) > 3 * _growing(date(2026, 6, 1))
    assert _after_christmas(date(2025, 12, 12)) > 3 * _after_christmas(date(2025, 12, 28))
    for trade in SHOPS.values():
        special = [day for day, _ in (*trade.sales, *trade.imports)]
        last = trade.first_night + timedelta(days=49)
        assert all(trade.first_night < day < last for day in special)
