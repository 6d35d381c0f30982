"""What one reading of the marts proves, so that the rules it is about need not read them again.

A rule names the rows that break it, mostly by putting two large tables side by side, and several
rules put the same two together. An agreement asks once, by totals and checksums, whether there can
be any such row at all. Where it holds, its rules are proven and run over nothing; where it does
not, or cannot be asked, each of them looks for its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import psycopg

from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites import marts_lifecycle, marts_orders, marts_scores
from kundenkreis.quality.suites.rules import KEYS, key_agreement, keys_apart, same_customers
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

_AT_A_TIME = 2


def found(dsn: str, settings: Settings, facts: MartsFacts) -> frozenset[str]:
    """Ask for all agreements, two at a time.

    Returns:
        The names of those that hold.
    """
    queries = queries_of(settings, facts)

    def holds(name: str) -> bool:
        try:
            with connect(dsn, application_name="kundenkreis gate") as connection:
                row = connection.execute(queries[name].encode()).fetchone()
        except psycopg.Error:  # the rules that read the same say what is wrong
            return False
        return bool(row and row[0])

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return frozenset(
            name for name, agreed in zip(queries, pool.map(holds, queries), strict=True) if agreed
        )


def queries_of(settings: Settings, facts: MartsFacts) -> Mapping[str, str]:
    """What is asked, by name: SQL whose one value is true where the agreement holds."""
    asked = {
        "orders": marts_orders.orders_alike(settings, facts),
        "buyers": marts_scores.buyers_alike(settings, facts),
        "stays": marts_lifecycle.stays_in_order(facts),
        "stage changes": marts_lifecycle.stage_changes_alike(facts),
        "segment changes": marts_scores.segment_changes_alike(facts),
        "valued buyers": marts_scores.valued_buyers_alike(facts),
        "wide customers": same_customers(facts, "customer_360", "customers"),
        "customers of records": same_customers(
            facts, "customers", "customer_source_ids", other_has_many=True
        ),
        **{key_agreement(table): keys_apart(facts, table) for table in KEYS},
    }
    return {name: query for name, query in asked.items() if query}
