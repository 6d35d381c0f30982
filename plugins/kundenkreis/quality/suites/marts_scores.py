"""Gate ``marts``: RFM scores and value (design: RFM, Value)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kundenkreis.quality import limits
from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites.rules import (
    REBUILD,
    changes_add_up,
    changes_alike,
    key,
    no_objectors,
    no_orphans,
    revenue,
    rule,
    same_customers,
)
from kundenkreis.settings import Settings


def customer_rfm(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """RFM: complete, and a higher score is always better."""
    schema = facts.schema
    yield key("customer_rfm", facts, "customer_id", proven="buyers" in facts.agreed)
    # The same people as in customer_360, who are the customers.
    known = {"scored customers", "wide customers"} <= facts.agreed
    yield from no_orphans("customer_rfm", facts, proven=known)
    yield from no_objectors("customer_rfm", facts)
    yield rule(
        "customer_rfm",
        "codes_complete",
        "Scores run from 1 to 5, the code is made of them, and every code has a segment.",
        f"""
            select customer_id, rfm_code from {schema}.customer_rfm
            where least(r_score, f_score, m_score) < 1
                or greatest(r_score, f_score, m_score) > 5
                or rfm_code is distinct from concat(r_score, f_score, m_score)
                or coalesce(rfm_segment, '') = ''
                or as_of_date is distinct from date '{facts.as_of_date}'
        """,
        limit="r, f and m from 1 to 5; code r-f-m; a segment; the as-of date",
    )
    for dimension, value, score, better in (
        ("recency", "recency_days", "r_score", "desc"),
        ("frequency", "frequency", "f_score", "asc"),
        ("monetary", "monetary", "m_score", "asc"),
    ):
        worse = "worst <= previous_best" if better == "asc" else "worst >= previous_best"
        least, most = ("min", "max") if better == "asc" else ("max", "min")
        yield rule(
            "customer_rfm",
            f"{dimension}_score_direction",
            f"A higher {dimension} score always means a better value, and equal values share one.",
            f"""
                select score, worst, previous_best
                from (
                    select
                        score,
                        worst,
                        lag(best) over (order by score) as previous_best
                    from (
                        select {score} as score, {least}({value}) as worst,
                            {most}({value}) as best
                        from {schema}.customer_rfm group by {score}
                    ) as per_score
                ) as ordered
                where {worse}
            """,
            limit="no overlap of values between scores",
        )
    if facts.exists(schema, "orders"):
        yield from _rfm_reconciles(settings, facts)


def _rfm_reconciles(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    proven = "buyers" in facts.agreed
    # A list, which PostgreSQL keeps in memory: it takes the buyers that are missing for so few that
    # it would look each of them up among all customers.
    objectors = ""
    if facts.exists(schema, "customers", "has_profiling_objection"):
        objectors = f"and buyer.customer_id not in ({_objectors(facts)})"
    yield rule(
        "customer_rfm",
        "every_buyer",
        "Every customer with an order that counts has an RFM row.",
        f"""
            select distinct buyer.customer_id from {schema}.orders as buyer
            where is_counted and customer_id is not null{_window(settings, facts)}
                and not exists (
                    select 1 from {schema}.customer_rfm as rfm
                    where rfm.customer_id = buyer.customer_id
                )
                {objectors}
        """,
        limit="no buyer missing (profiling objections aside)",
        proven=proven,
    )
    yield rule(
        "customer_rfm",
        "reconciles_with_orders",
        "Recency, frequency and monetary value are those of the orders that count.",
        f"""
            select rfm.customer_id
            from {schema}.customer_rfm as rfm
            left join ({_buyers(settings, facts)}) as buyer on buyer.customer_id = rfm.customer_id
            where buyer.customer_id is null
                or rfm.frequency <> buyer.frequency
                or rfm.recency_days <> buyer.recency_days
                or abs(rfm.monetary - buyer.monetary) > {limits.RECONCILIATION_TOLERANCE}
        """,
        limit="no difference",
        proven=proven,
    )


AGREEMENTS = ("buyers", "customers of orders", "days of orders")


def buyers_alike(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the `AGREEMENTS` about orders by customer, which are grouped once; or "".

    The RFM rows are those of all buyers, each once: number and checksum of both sides are compared,
    so that neither is looked up in the other. The customers of orders are known: those with orders
    that count have an RFM row, of which the same is asked, or objected, and the few others are
    looked up. The orders and the revenue of all days are those of the orders that count.
    """
    schema = facts.schema
    if not (
        facts.exists(schema, "orders")
        and facts.exists(schema, "customer_rfm")
        and facts.exists(schema, "customers", "has_profiling_objection")
        and facts.exists(schema, "kpi_daily", "orders", "revenue")
    ):
        return ""
    is_scored = f"frequency > 0 and (customer_id in ({_objectors(facts)})) is not true"
    is_known = f"customer_id in (select customer_id from {schema}.customers)"
    checksum = """
        coalesce(sum(hash_numeric_extended(
            cast(monetary as numeric(18, 4)),
            hashint8extended(recency_days, hashint8extended(
                frequency, hashtextextended(customer_id, 0)
            ))
        )){of}, 0)
    """
    is_whole = "false" if settings.model.rfm_window_days else "true"
    return f"""
        select
            rfm.buyers = bought.buyers and rfm.checksum = bought.checksum,
            rfm.buyers = bought.buyers and rfm.checksum = bought.checksum and bought.unknown = 0,
            {is_whole}
            and days.orders = bought.orders
            and abs(days.revenue - bought.revenue) <= {limits.RECONCILIATION_TOLERANCE}
        from (
            select count(*) as buyers, {checksum.format(of="")} as checksum
            from {schema}.customer_rfm
        ) as rfm
        cross join (
            select
                count(*) filter (where customer_id is not null and {is_scored}) as buyers,
                {checksum.format(of=f" filter (where {is_scored})")} as checksum,
                count(*) filter (
                    where customer_id is not null and frequency = 0 and ({is_known}) is not true
                ) as unknown,
                coalesce(sum(frequency), 0) as orders,
                coalesce(sum(monetary), 0) as revenue
            from ({_by_customer(settings, facts)}) as by_customer
        ) as bought
        cross join (
            select coalesce(sum(orders), 0) as orders, coalesce(sum(revenue), 0) as revenue
            from {schema}.kpi_daily
        ) as days
    """


def _by_customer(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the orders that count by customer, and of nobody those whose customer was erased."""
    counts = f"filter (where is_counted{_window(settings, facts)})"
    return f"""
        select
            customer_id,
            count(*) {counts} as frequency,
            sum({revenue(settings)}) {counts} as monetary,
            date '{facts.as_of_date}' - max(order_date) {counts} as recency_days
        from {facts.schema}.orders
        group by customer_id
    """


def _buyers(settings: Settings, facts: MartsFacts) -> str:
    return f"""
        select
            customer_id,
            count(*) as frequency,
            sum({revenue(settings)}) as monetary,
            date '{facts.as_of_date}' - max(order_date) as recency_days
        from {facts.schema}.orders
        where is_counted and customer_id is not null{_window(settings, facts)}
        group by customer_id
    """


def _window(settings: Settings, facts: MartsFacts) -> str:
    days = settings.model.rfm_window_days
    return f" and order_date > date '{facts.as_of_date}' - {days}" if days else ""


def _objectors(facts: MartsFacts) -> str:
    return f"select customer_id from {facts.schema}.customers where has_profiling_objection"


def rfm_cutoffs(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """The cut points behind the scores."""
    table = f"{facts.schema}.history_rfm_cutoffs"
    by_dimension = f"""
        select dimension, count(*) as cut_points
        from (
            select
                dimension,
                cutoff,
                cutoff < lag(cutoff) over (partition by dimension order by quantile) as falls
            from {table} where as_of_date = date '{facts.as_of_date}'
        ) as cut
        group by dimension
        having count(cutoff) <> 4 or bool_or(falls)
    """
    if facts.exists(facts.schema, "customer_rfm"):
        yield rule(
            "history_rfm_cutoffs",
            "present",
            "The four cut points of each dimension are kept for this as-of date, and rise.",
            f"""
                select dimension, cut_points from ({by_dimension}) as broken
                union all
                select 'all', count(distinct dimension) from {table}
                where as_of_date = date '{facts.as_of_date}'
                having count(distinct dimension) <> 3
                    and exists (select 1 from {facts.schema}.customer_rfm)
            """,
            limit="3 dimensions with 4 cut points each",
        )
    if settings.model.rfm_cutoffs == "quantiles":
        fallback = (
            f"select dimension, method from {table} where as_of_date = date '{facts.as_of_date}' "
            "and method not in ('quantile', 'quantiles') group by dimension, method"
        )
        yield rule(
            "history_rfm_cutoffs",
            "from_quantiles",
            "Cut points come from this shop's own quantiles.",
            fallback,
            severity="warning",
            limit="method quantiles in every dimension",
            action="Too many customers share a value (often: most bought once), so the fixed "
            "rfm_fallback_cutoffs of model.yml are used. Set them to numbers that fit this shop.",
            measure=f"select string_agg(dimension || ' by ' || method, ', ') from ({fallback}) "
            "as t",
        )


def rfm_segment_changes(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """The changes of RFM segment that this night adds to history."""
    yield key("history_rfm_segment_changes", facts, "customer_id")
    if not facts.exists("history", "rfm_segment_changes"):
        return
    if facts.exists(facts.schema, "customer_rfm", "rfm_segment"):
        yield changes_add_up(
            "history_rfm_segment_changes",
            facts,
            "RFM segments",
            "to_segment",
            _segments_now(facts),
            "no customer whose recorded segment is another",
            proven="segment changes" in facts.agreed,
        )


def segment_changes_alike(facts: MartsFacts) -> str:
    """SQL that says whether the recorded changes add up to the RFM segments of now; or ""."""
    if not (
        facts.exists("history", "rfm_segment_changes")
        and facts.exists(facts.schema, "history_rfm_segment_changes", "from_segment")
        and facts.exists(facts.schema, "customer_rfm", "rfm_segment")
    ):
        return ""
    alike = changes_alike(
        "history_rfm_segment_changes", facts, "from_segment", "to_segment", _segments_now(facts)
    )
    return f"select is_alike from ({alike}) as recorded (is_alike, checksum)"


def _segments_now(facts: MartsFacts) -> str:
    return f"select customer_id, rfm_segment as value from {facts.schema}.customer_rfm"


def customer_value(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Value: plausible, and for every buyer."""
    schema = facts.schema
    value = f"{schema}.customer_value"
    # The same people as in customer_rfm, of which the same is asked.
    proven = "valued buyers" in facts.agreed
    yield key("customer_value", facts, "customer_id", proven=proven)
    yield from no_orphans("customer_value", facts, proven=proven)
    yield from no_objectors("customer_value", facts)
    yield rule(
        "customer_value",
        "plausible",
        "A probability lies between 0 and 1, nothing expected is negative, and a year holds at "
        "least what its first 90 days hold.",
        f"""
            select customer_id from {value}
            where not coalesce(
                p_alive between 0 and 1
                and expected_orders_90d >= 0
                and expected_orders_365d between expected_orders_90d and 'infinity'
                and expected_orders_365d <> 'infinity'
                and expected_next_order_date > date '{facts.as_of_date}'
                and as_of_date = date '{facts.as_of_date}',
                false
            )
            or expected_order_value < 0 or clv_90d < 0 or clv_365d < clv_90d
            or num_nulls(expected_order_value, clv_90d, clv_365d) not in (0, 3)
        """,
        limit="p_alive from 0 to 1; orders and money not below 0; the as-of date",
    )
    if facts.exists(schema, "customer_rfm") and facts.exists(
        schema, "history_value_parameters", "orders_outcome"
    ):
        yield rule(
            "customer_value",
            "every_buyer",
            "Every scored buyer has a value, unless the reason why nobody has is recorded.",
            f"""
                select buyer.customer_id from {schema}.customer_rfm as buyer
                where not exists (
                    select 1 from {value} as valued where valued.customer_id = buyer.customer_id
                )
                and not exists (
                    select 1 from {schema}.history_value_parameters
                    where orders_outcome = 'none' and orders_reason <> ''
                )
            """,
            action="Look at the log of the task predict. " + REBUILD,
            proven=proven,
        )


def valued_buyers_alike(facts: MartsFacts) -> str:
    """SQL that says whether the customers with a value are those with scores; or ""."""
    return same_customers(facts, "customer_value", "customer_rfm")


def value_parameters(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """How the value models were fitted."""
    table = f"{facts.schema}.history_value_parameters"
    yield rule(
        "history_value_parameters",
        "of_this_night",
        "The task predict said how it fitted the value models for the as-of date.",
        f"""
            select found.nights from (
                select count(*) as nights from {table} where as_of_date = date '{facts.as_of_date}'
            ) as found
            where found.nights <> 1
        """,
        limit="one row of the as-of date",
        action="Clear the task predict with what follows it.",
    )
    unfitted = " union all ".join(
        f"""
            select '{title}' as model, {model}_outcome as outcome, {model}_reason as reason,
                {model}_parameters_of as parameters_of
            from {table} where {model}_outcome <> 'fitted'
        """
        for model, title in (("orders", "BG/NBD"), ("order_value", "Gamma-Gamma"))
    )
    yield rule(
        "history_value_parameters",
        "fitted",
        "Both value models were fitted on this night's orders.",
        unfitted,
        severity="warning",
        limit="both fitted",
        action="Values come from the last night that could be fitted, or there are none yet. A "
        "young shop needs more repeat buyers; in a larger one compare history.value_parameters "
        "with the nights before.",
        measure="select string_agg(model || ' ' || outcome || coalesce(' of ' || parameters_of, '')"
        f" || ': ' || coalesce(reason, 'no reason'), '; ') from ({unfitted}) as t",
    )
