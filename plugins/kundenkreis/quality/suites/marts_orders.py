"""Gate ``marts``: orders, reconciled with what was landed (design: Orders under one policy)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kundenkreis.quality import limits
from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites.common import literal, percent
from kundenkreis.quality.suites.rules import (
    REBUILD,
    as_of_end,
    key,
    no_orphans,
    rule,
)
from kundenkreis.settings import Settings

_UNDECIDED = """
    is_counted is null
    or is_counted = (not_counted_because is not null)
    or (is_counted and (
        (customer_id is null and not coalesce(
            (source, order_id) in (select source, order_id from privacy.anonymised_orders), false
        ))
        or revenue_before_refunds is null
        or revenue_after_refunds is null
    ))
"""
_REFUNDS_RAISE = "revenue_after_refunds > revenue_before_refunds"


def _dated_later(facts: MartsFacts) -> str:
    return f"(order_date is null or order_date > date '{facts.as_of_date}')"


def orders(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Orders: each is there once, dated, and worth what the shop states."""
    schema = facts.schema
    yield key("orders", facts, "source", "order_id", proven="orders" in facts.agreed)
    proven = "orders" in facts.agreed
    yield from no_orphans(
        "orders", facts, "source, order_id", proven="customers of orders" in facts.agreed
    )
    yield rule(
        "orders",
        "counted_or_reason",
        "Every order counts or says why not; those that count have revenue, and a customer where "
        "none was erased.",
        f"select source, order_id from {schema}.orders where {_UNDECIDED}",
        proven=proven,
    )
    yield rule(
        "orders",
        "dated_by_as_of",
        "No order is dated after the as-of date.",
        f"select source, order_id, order_date from {schema}.orders where {_dated_later(facts)}",
        limit=f"order_date not after {facts.as_of_date}",
        proven=proven,
    )
    yield rule(
        "orders",
        "refunds_lower_revenue",
        "Refunds never raise the revenue of an order.",
        f"select source, order_id from {schema}.orders where {_REFUNDS_RAISE}",
        proven=proven,
    )
    yield from _orders_reconcile(settings, facts)
    yield from _mostly_priced(settings, facts)


def _orders_reconcile(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    raw = _raw_orders(settings, facts)
    if not raw:
        return
    compared = f"""
        select
            coalesce(landed.source, mart.source) as source,
            coalesce(landed.order_id, mart.order_id) as order_id,
            landed.order_id is null as is_unknown,
            mart.order_id is null as is_missing,
            landed.revenue as expected,
            mart.revenue_before_refunds as found
        from ({raw}) as landed
        full outer join {facts.schema}.orders as mart
            on mart.source = landed.source and mart.order_id = landed.order_id
    """
    yield rule(
        "orders",
        "reconcile_with_raw",
        "Every order that can be priced is in the mart once, and no other is.",
        f"select source, order_id, is_missing, is_unknown from ({compared}) as compared "
        "where is_missing or is_unknown",
        proven="orders" in facts.agreed,
        limit="no order missing, none added",
        action="Orders got lost or doubled between landing and marts. " + REBUILD,
        measure=f"""
            select string_agg(
                source || ': ' || missing || ' missing, ' || unknown || ' unknown of '
                || orders || ' orders', '; ' order by source
            )
            from (
                select
                    source,
                    count(*) as orders,
                    count(*) filter (where is_missing) as missing,
                    count(*) filter (where is_unknown) as unknown
                from ({compared}) as compared
                group by source
            ) as counted
            where missing + unknown > 0
        """,
    )
    wrong = f"abs(expected - found) > {limits.RECONCILIATION_TOLERANCE}"
    yield rule(
        "orders",
        "revenue_reconciles_with_raw",
        "The revenue of every order equals what the shop states, under the order policy.",
        f"select source, order_id, expected, found from ({compared}) as compared where {wrong}",
        proven="orders" in facts.agreed,
        limit=f"differences up to {limits.RECONCILIATION_TOLERANCE} per order",
        action="Money changed between landing and marts: compare the order policy in model.yml "
        "with the model that prices orders. " + REBUILD,
        measure=f"""
            select string_agg(
                source || ': expected ' || expected || ', found ' || found || ' in '
                || orders || ' orders', '; ' order by source
            )
            from (
                select
                    source,
                    count(*) as orders,
                    round(sum(expected), 2) as expected,
                    round(sum(found), 2) as found
                from ({compared}) as compared
                where {wrong}
                group by source
            ) as summed
        """,
    )


AGREEMENTS = ("orders", "all orders priced")


def orders_alike(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the `AGREEMENTS` about orders; or "".

    The mart has the landed orders at their prices, each in order: number and checksum of keys and
    prices are compared, which reads both sides once. Gate landing has found each landed key once,
    so where both agree none is twice in the mart either. What can be judged by an order's own row
    is counted on the way; so are landed orders that cannot be priced.
    """
    landed = _landed_by_table(settings, facts)
    if not landed or not facts.exists(facts.schema, "orders", "revenue_before_refunds"):
        return ""
    counted = """
        count({revenue}) as orders, coalesce(sum(hash_numeric_extended(
            cast({revenue} as numeric(18, 4)), hashtextextended(order_id, hashtext(source))
        )), 0) as checksum
    """
    # Table by table, because PostgreSQL reads their union with one process only.
    counted_by_table = " union all ".join(
        f"""
            select count(*) as all_orders, {counted.format(revenue="revenue")}
            from ({_priced(settings, facts, one)}) as priced
        """
        for one in landed
    )
    broken = (
        f"{_UNDECIDED} or {_dated_later(facts)} or {_REFUNDS_RAISE}"
        " or revenue_before_refunds is null"
    )
    return f"""
        select
            landed.orders = mart.orders and landed.checksum = mart.checksum and mart.broken = 0,
            landed.orders = landed.all_orders
        from (
            select
                sum(all_orders) as all_orders, sum(orders) as orders, sum(checksum) as checksum
            from ({counted_by_table}) as by_table
        ) as landed
        cross join (
            select
                {counted.format(revenue="revenue_before_refunds")},
                count(*) filter (where {broken}) as broken
            from {facts.schema}.orders
        ) as mart
    """


def _mostly_priced(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Orders without a price go to quarantine one by one; a feed of them stops the night."""
    landed = " union all ".join(_landed_by_table(settings, facts))
    if not landed:
        return
    recent = f"""
        from ({_priced(settings, facts, landed)}) as recent
        where ordered_at >= timestamptz '{facts.as_of_date} 00:00:00 UTC'
            - interval '{limits.UNPRICED_DAYS} days'
    """
    yield rule(
        "orders",
        "mostly_priced",
        "Nearly all recent orders can be priced in the reporting currency.",
        f"""
            select source, count(*) as orders, count(*) filter (where revenue is null) as unpriced
            {recent}
            group by source
            having count(*) filter (where revenue is null)
                > greatest({limits.UNPRICED_SHARE} * count(*), {limits.LEAST_MEANINGFUL_COUNT})
        """,
        proven="all orders priced" in facts.agreed,
        limit=f"at most {percent(limits.UNPRICED_SHARE)} of the orders of "
        f"{limits.UNPRICED_DAYS} days in quarantine for want of an amount or a rate",
        action="Read the reasons in quarantine.rejected_records. Add the currency to "
        "exchange_rates in model.yml, or correct the mapping of currency and amount.",
        measure=f"""
            select string_agg(source || ' ' || unpriced || ' of ' || orders, ', ')
            from (
                select source, count(*) as orders,
                    count(*) filter (where revenue is null) as unpriced
                {recent}
                group by source
            ) as counted
            where unpriced > 0
        """,
    )


def _raw_orders(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the raw orders that can be dated and priced: source, order_id, revenue.

    Revenue is in the reporting currency and before refunds (design section 4, Orders).
    """
    queries = _landed_by_table(settings, facts)
    if not queries:
        return ""
    return f"""
        select source, order_id, revenue
        from ({_priced(settings, facts, " union all ".join(queries))}) as priced
        where revenue is not null
    """


def _priced(settings: Settings, facts: MartsFacts, landed: str) -> str:
    """SQL for landed orders of the as-of date: source, order_id, ordered_at, revenue or null."""
    model = settings.model
    rates = "".join(
        f" when upper(currency) = {literal(currency)} then own_revenue * {rate}"
        for currency, rate in sorted(model.exchange_rates.items())
    )
    # Upper case of millions of texts takes longer than all the rest, and most need none.
    reporting = literal(model.reporting_currency)
    revenue = (
        f"case when currency = {reporting} or upper(currency) = {reporting} then own_revenue "
        "when exchange_rate > 0 then own_revenue * exchange_rate"
        f"{_released_rates(facts)}{rates} end"
    )
    return f"""
        select source, order_id, ordered_at, {revenue} as revenue
        from ({landed}) as landed
        where ordered_at < {as_of_end(settings, facts)}
    """


def _landed_by_table(settings: Settings, facts: MartsFacts) -> list[str]:
    """SQL for the orders in each raw table: source, order_id, own_revenue, currency, own rate."""
    model = settings.model
    queries = []
    if facts.exists("raw_woocommerce", "orders", "id", "total", "total_tax", "exchange_rate"):
        revenue = "total"
        if not model.revenue_includes_tax:
            revenue += " - coalesce(total_tax, 0)"
        if not model.revenue_includes_shipping:
            revenue += " - coalesce(shipping_total, 0)"
            if model.revenue_includes_tax:
                revenue += " - coalesce(shipping_tax, 0)"
        queries.append(
            f"""
                select 'woocommerce' as source, id::text as order_id, {revenue} as own_revenue,
                    currency, exchange_rate, date_created_gmt as ordered_at
                from raw_woocommerce.orders
            """
        )
    if facts.exists("raw_files", "order_lines", "order_key", "line_amount"):
        queries.append(
            """
                select source_name as source, order_key::text as order_id,
                    sum(line_amount) as own_revenue,
                    case
                        when min(upper(currency)) = max(upper(currency)) then max(currency)
                        else min(upper(currency)) || '+' || max(upper(currency))
                    end as currency,
                    null::numeric as exchange_rate, min(ordered_at) as ordered_at
                from raw_files.order_lines group by source_name, order_key
            """
        )
    if facts.exists("raw_files", "orders", "order_key", "total_amount"):
        queries.append(
            """
                select source_name as source, order_key::text as order_id,
                    total_amount as own_revenue, currency, null::numeric as exchange_rate,
                    ordered_at
                from raw_files.orders
            """
        )
    return queries


def _released_rates(facts: MartsFacts) -> str:
    """Branches of a case expression: orders that were released from quarantine with a rate."""
    return "".join(
        f" when source = {literal(one['source'])} and order_id = {literal(one['order_id'])} "
        f"and upper(currency) = {literal(one['currency'])} "
        f"then own_revenue * cast({literal(one['rate'])} as numeric)"
        for one in facts.released_rates
    )
