"""What one reading of the marts proves, so that the rules it is about need not read them again.

A rule names the rows that break it, mostly by putting two large tables side by side, and several
rules put the same two together. An agreement asks once, by totals and checksums, whether there can
be any such row at all. Where it holds, its rules are proven and run over nothing; where it does
not, or cannot be asked, each of them looks for its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import psycopg

from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites import marts_lifecycle, marts_orders, marts_scores, marts_segments
from kundenkreis.quality.suites.rules import KEYS, key_agreement, keys_apart, same_customers
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

_AT_A_TIME = 2


def found(dsn: str, settings: Settings, facts: MartsFacts) -> frozenset[str]:
    """Ask for all agreements, two queries at a time.

    Returns:
        The names of those that hold.
    """
    queries = queries_of(settings, facts)

    def holding(names: tuple[str, ...]) -> list[str]:
        try:
            with connect(dsn, application_name="kundenkreis gate") as connection:
                row = connection.execute(queries[names].encode()).fetchone() or ()
        except psycopg.Error:  # the rules that read the same say what is wrong
            return []
        return [name for name, holds in zip(names, row, strict=False) if holds]

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return frozenset(chain.from_iterable(pool.map(holding, queries)))


def queries_of(settings: Settings, facts: MartsFacts) -> Mapping[tuple[str, ...], str]:
    """What is asked: SQL whose row has one value per name, true where that agreement holds."""
    asked: dict[tuple[str, ...], str] = {
        marts_orders.AGREEMENTS: marts_orders.orders_alike(settings, facts),
        marts_scores.AGREEMENTS: marts_scores.buyers_alike(settings, facts),
        ("stays",): marts_lifecycle.stays_in_order(facts),
        marts_lifecycle.AGREEMENTS: marts_lifecycle.stage_changes_alike(facts),
        ("projections",): marts_lifecycle.projections_ahead(facts),
        ("consent",): marts_segments.consent_alike(facts),
        ("segment changes",): marts_scores.segment_changes_alike(facts),
        ("valued buyers",): marts_scores.valued_buyers_alike(facts),
        ("wide customers",): same_customers(facts, "customer_360", "customers"),
        ("customers of records",): same_customers(
            facts, "customers", "customer_source_ids", other_has_many=True
        ),
        **{(key_agreement(table),): keys_apart(facts, table) for table in KEYS},
    }
    return {names: query for names, query in asked.items() if query}
