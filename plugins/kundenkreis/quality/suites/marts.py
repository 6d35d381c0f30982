"""Gate ``marts``: may these marts be shown, and these people be written to?

Reads the unpublished marts schema, and the raw tables it is reconciled with. Design: section 1
(``gate_marts``) and section 4 (Lifecycle stage, RFM, Consent, Segments). The rules are computed
again here, apart from the models, so a fault in a model does not hide itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kundenkreis.quality import limits
from kundenkreis.quality.facts import MartsFacts, end_of_day
from kundenkreis.quality.suites.common import (
    Check,
    Severity,
    TableSuite,
    expect,
    expect_no_rows,
    literal,
    literals,
)
from kundenkreis.settings import Settings

STAGES = (
    "reach",
    "acquisition",
    "dormant_lead",
    "conversion",
    "development",
    "retention",
    "loyalty",
    "at_risk",
    "churned",
    "reactivated",
)

# The columns this gate and the delivery rely on; the models' own contracts hold the rest.
REQUIRED_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "customers": (
        "customer_id",
        "first_seen_on",
        "email",
        "birthday",
        "has_profiling_objection",
        "is_minor",
    ),
    "customer_source_ids": ("customer_id", "source", "source_record_type", "source_id"),
    "contactability": (
        "customer_id",
        "channel",
        "address",
        "is_contactable",
        "reason",
        "evidence",
        "evidence_at",
    ),
    "orders": (
        "source",
        "order_id",
        "customer_id",
        "order_date",
        "revenue_before_refunds",
        "revenue_after_refunds",
        "is_counted",
        "not_counted_because",
    ),
    "customer_rfm": (
        "customer_id",
        "as_of_date",
        "recency_days",
        "frequency",
        "monetary",
        "r_score",
        "f_score",
        "m_score",
        "rfm_code",
        "rfm_segment",
    ),
    "history_rfm_cutoffs": ("as_of_date", "dimension", "quantile", "cutoff", "method"),
    "history_rfm_segment_changes": ("as_of_date", "customer_id", "from_segment", "to_segment"),
    "lifecycle_intervals": ("customer_id", "stage", "valid_from", "valid_to", "entered_because"),
    "lifecycle_projections": ("customer_id", "stage", "from_date"),
    "customer_value": (
        "customer_id",
        "as_of_date",
        "p_alive",
        "expected_orders_90d",
        "expected_orders_365d",
        "expected_order_value",
        "clv_90d",
        "clv_365d",
        "expected_next_order_date",
    ),
    "history_value_parameters": (
        "as_of_date",
        "orders_outcome",
        "orders_reason",
        "orders_parameters_of",
        "order_value_outcome",
        "order_value_reason",
        "order_value_parameters_of",
    ),
    "segment_members": (
        "segment",
        "customer_id",
        "member_since",
        "is_holdout",
        "is_contactable",
        "not_contactable_because",
    ),
    "customer_360": ("customer_id", "stage", "is_contactable", "frequency", "rfm_code"),
    "kpi_daily": ("day", "churn_rate", "churn_alarm"),
}

# Evidence that suffices, weakest allowed first (design section 4, Consent).
_SUFFICIENT_EVIDENCE = {
    "double": ("double",),
    "single": ("double", "single"),
    "existing_customer": ("double", "single", "existing_customer"),
}

# The model to look at when a mart is wrong.
_MODELS: Mapping[str, str] = {
    "customers": "int_customer_profiles",
    "customer_source_ids": "int_customer_identities",
    "contactability": "int_contactability",
    "orders": "int_orders",
    "customer_rfm": "int_rfm_values and customer_rfm",
    "history_rfm_cutoffs": "int_rfm_cutoffs",
    "history_rfm_segment_changes": "history_rfm_segment_changes",
    "lifecycle_intervals": "int_lifecycle_schedule",
    "lifecycle_projections": "int_lifecycle_schedule",
    "customer_value": "int_value_statistics and customer_value",
    "history_value_parameters": "history_value_parameters",
    "segment_members": "segment_members",
    "customer_360": "customer_360",
    "kpi_daily": "kpi_daily",
}
_REBUILD = "Then run the night again: it builds this schema afresh."

# Where the columns of customer_360 come from that not every shop has.
_FILLED_BY: Mapping[str, str] = {
    **dict.fromkeys(
        ("birthday", "next_birthday_on", "days_until_birthday", "age_years"),
        "from date_of_birth of HubSpot contacts",
    ),
    **dict.fromkeys(
        ("favourite_category", "favourite_category_share"),
        "from products with a category: WooCommerce, or files of entity products that map category",
    ),
    **dict.fromkeys(
        ("last_delivered_on", "days_since_delivery"),
        "from the completed date of WooCommerce orders, or files that map delivered_at",
    ),
    "discount_share": "from WooCommerce orders, or files that map discount_amount",
    **dict.fromkeys(
        ("last_abandoned_checkout_on", "days_since_abandoned_checkout"),
        "from WooCommerce orders of status checkout-draft",
    ),
    "acquisition_source": "from HubSpot contacts, or files of customers that map it",
    **dict.fromkeys(
        (
            "p_alive",
            "expected_orders_90d",
            "expected_orders_365d",
            "expected_order_value",
            "clv_90d",
            "clv_365d",
            "expected_next_order_date",
        ),
        "from the task predict, which needs enough repeat buyers",
    ),
}
_FILLED_BY_OTHERS = "docs/data_model.md says what it stands on"


def suites(settings: Settings, facts: MartsFacts) -> list[TableSuite]:
    """The gate's suites: first what exists, then each mart that does."""
    builders = {
        "customers": _customers,
        "customer_source_ids": _customer_source_ids,
        "contactability": _contactability,
        "orders": _orders,
        "customer_rfm": _customer_rfm,
        "history_rfm_cutoffs": _rfm_cutoffs,
        "history_rfm_segment_changes": _rfm_segment_changes,
        "lifecycle_intervals": _lifecycle_intervals,
        "lifecycle_projections": _lifecycle_projections,
        "customer_value": _customer_value,
        "history_value_parameters": _value_parameters,
        "segment_members": _segment_members,
        "customer_360": _customer_360,
        "kpi_daily": _kpi_daily,
    }
    found = [_catalogue(facts)]
    for table, build in builders.items():
        if facts.exists(facts.schema, table):
            expectations = [_columns(table, facts), *build(settings, facts)]
            found.append(TableSuite(facts.schema, table, tuple(expectations)))
    return found


def _rule(
    table: str,
    rule: str,
    description: str,
    rows: str,
    *,
    action: str | None = None,
    limit: str = "no row",
    severity: Severity = "critical",
    measure: str | None = None,
) -> Any:
    """An expectation that a query on the marts finds nothing."""
    return expect_no_rows(
        Check(
            id=f"marts.{table}.{rule}",
            table=table,
            severity=severity,
            description=description,
            limit=limit,
            action=action or _look_at(table, severity),
            find_rows=rows,
            measure=measure,
        )
    )


def _look_at(table: str, severity: Severity) -> str:
    rebuild = f" {_REBUILD}" if severity == "critical" else ""
    return f"Look at the model {_MODELS[table]} with these rows.{rebuild}"


# ------------------------------------------------------------------------------- catalogue


def _catalogue(facts: MartsFacts) -> TableSuite:
    required = ", ".join(f"({literal(table)})" for table in REQUIRED_COLUMNS)
    missing = f"""
        select required.table_name
        from (values {required}) as required (table_name)
        where not exists (
            select 1
            from information_schema.columns as existing
            where existing.table_schema = {literal(facts.schema)}
                and existing.table_name = required.table_name
        )
    """
    return TableSuite(
        "information_schema",
        "columns",
        (
            expect_no_rows(
                Check(
                    id="marts.tables_exist",
                    table=facts.schema,
                    severity="critical",
                    description="Every mart this gate reads has been built.",
                    limit="no table missing: " + ", ".join(REQUIRED_COLUMNS),
                    action="Look at the log of the tasks transform and segment.",
                    find_rows=missing,
                    measure="select 'missing: ' || string_agg(table_name, ', ') "
                    f"from ({missing}) as t",
                )
            ),
        ),
    )


def _columns(table: str, facts: MartsFacts) -> Any:
    import great_expectations.expectations as gxe

    return expect(
        gxe.ExpectTableColumnsToMatchSet,
        Check(
            id=f"marts.{table}.columns",
            table=table,
            severity="critical",
            description="The mart has the columns that readers and delivery rely on.",
            limit="present: " + ", ".join(REQUIRED_COLUMNS[table]),
            action="A model changed its contract. Restore the column, or change all readers.",
        ),
        column_set=list(REQUIRED_COLUMNS[table]),
        exact_match=False,
    )


def _key(table: str, facts: MartsFacts, *columns: str) -> Any:
    key = ", ".join(columns)
    any_null = " or ".join(f"{column} is null" for column in columns)
    return _rule(
        table,
        "key",
        f"One row per {key}, and none without.",
        f"""
            select {key}, count(*) as rows_found from {facts.schema}.{table}
            group by {key} having count(*) > 1 or {any_null}
        """,
        limit="no key twice, none empty",
    )


def _no_orphans(table: str, facts: MartsFacts, key: str = "customer_id") -> Iterator[Any]:
    """Every customer_id of the table is a customer's."""
    if not facts.exists(facts.schema, "customers"):
        return
    selected = key if key == "customer_id" else f"{key}, customer_id"
    yield _rule(
        table,
        "known_customers",
        "Every row belongs to a known customer.",
        f"""
            select {selected} from {facts.schema}.{table} as child
            where customer_id is not null
                and not exists (
                    select 1 from {facts.schema}.customers as parent
                    where parent.customer_id = child.customer_id
                )
        """,
        limit="no unknown customer_id",
    )


def _no_objectors(table: str, facts: MartsFacts) -> Iterator[Any]:
    """Nobody in the table objected to profiling."""
    if not facts.exists(facts.schema, "customers", "has_profiling_objection"):
        return
    yield _rule(
        table,
        "no_profiling_objection",
        "Nobody who objected to profiling is scored.",
        f"""
            select scored.customer_id from {facts.schema}.{table} as scored
            inner join {facts.schema}.customers as customer
                on customer.customer_id = scored.customer_id
            where customer.has_profiling_objection
        """,
        limit="no customer with has_profiling_objection",
    )


# ------------------------------------------------------------------------------- customers


def _customers(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    yield _key("customers", facts, "customer_id")
    yield _rule(
        "customers",
        "first_seen_by_as_of",
        "No customer is first seen after the as-of date.",
        f"select customer_id from {schema}.customers "
        f"where first_seen_on is null or first_seen_on > date '{facts.as_of_date}'",
        limit=f"first_seen_on not empty and not after {facts.as_of_date}",
    )
    if facts.exists(schema, "customer_source_ids"):
        yield _rule(
            "customers",
            "has_source_record",
            "Every customer stands on at least one source record.",
            f"""
                select customer_id from {schema}.customers as customer
                where not exists (
                    select 1 from {schema}.customer_source_ids as record
                    where record.customer_id = customer.customer_id
                )
            """,
        )


def _customer_source_ids(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    yield _key("customer_source_ids", facts, "source", "source_record_type", "source_id")
    yield from _no_orphans("customer_source_ids", facts, "source, source_record_type, source_id")
    people = _raw_people(settings, facts)
    if people:
        missing = f"""
            select person.source, person.source_record_type, person.source_id
            from ({people}) as person
            where not exists (
                select 1 from {facts.schema}.customer_source_ids as record
                where record.source = person.source
                    and record.source_record_type = person.source_record_type
                    and record.source_id = person.source_id
            )
        """
        yield _rule(
            "customer_source_ids",
            "reconciles_with_raw",
            "Every person the sources hold on the as-of date is part of a customer.",
            missing,
            limit="no raw person without a customer",
            measure=f"""
                select string_agg(source || ' ' || missing, ', ') || ' missing'
                from (select source, count(*) as missing from ({missing}) as t group by 1) as c
            """,
        )


def _raw_people(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the person records of the raw tables, as the models name them."""
    end = _as_of_end(settings, facts)
    queries = []
    if facts.exists("raw_woocommerce", "customers", "id", "date_created_gmt"):
        queries.append(
            "select 'woocommerce' as source, 'customer' as source_record_type, "
            "id::text as source_id from raw_woocommerce.customers "
            f"where date_created_gmt < {end} or date_created_gmt is null"
        )
    if facts.exists("raw_hubspot", "contacts", "id", "createdate", "archived"):
        queries.append(
            "select 'hubspot' as source, 'contact' as source_record_type, "
            "id::text as source_id from raw_hubspot.contacts "
            f"where (createdate < {end} or createdate is null) and archived is not true"
        )
    if facts.exists("raw_files", "customers", "customer_key", "created_at"):
        queries.append(
            "select source_name as source, 'customer' as source_record_type, "
            "customer_key::text as source_id from raw_files.customers "
            f"where created_at < {end} or created_at is null"
        )
    return " union all ".join(queries)


# ----------------------------------------------------------------------------- contactability


def _contactability(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    yield _key("contactability", facts, "customer_id", "channel", "address")
    yield from _no_orphans("contactability", facts)
    sufficient = _SUFFICIENT_EVIDENCE[settings.model.minimum_consent]
    yield _rule(
        "contactability",
        "evidence_suffices",
        "Nobody is contactable without sufficient evidence of consent.",
        f"""
            select customer_id, channel, evidence from {schema}.contactability
            where is_contactable is null
                or (is_contactable and coalesce(evidence, '') not in ({literals(sufficient)}))
        """,
        limit=f"evidence one of {', '.join(sufficient)} (minimum_consent)",
        action="Unknown is not consent. Look at the consent events of these customers. " + _REBUILD,
    )
    yield _rule(
        "contactability",
        "verdict_has_reason",
        "Every address that is not contactable has a reason.",
        f"select customer_id, channel from {schema}.contactability "
        "where not is_contactable and coalesce(reason, '') = ''",
        severity="warning",
    )
    if settings.destinations and facts.exists("activation", "subscriber_states"):
        yield _rule(
            "contactability",
            "agrees_with_tools",
            "No address is contactable that an email tool reports as lost since the consent.",
            f"""
                select verdict.customer_id, state.destination, state.vendor_id, state.state
                from {schema}.contactability as verdict
                inner join activation.subscriber_states as state
                    on state.address = lower(verdict.address)
                where verdict.is_contactable
                    and state.destination in ({literals(settings.destinations)})
                    and state.state in ('unsubscribed', 'bounced', 'complained', 'blocklisted')
                    and (state.state <> 'bounced' or verdict.channel = 'email')
                    and (
                        verdict.evidence_at is null
                        or verdict.evidence_at <= coalesce(state.state_changed_at, 'infinity')
                    )
                    and coalesce(state.state_changed_at, '-infinity')
                    < {_as_of_end(settings, facts)}
            """,
            limit="no withdrawal, bounce or complaint later than the consent",
            action="These people must not be written to. Compare the tool's subscriber with the "
            "consent events. " + _REBUILD,
        )


# ----------------------------------------------------------------------------------- orders


def _orders(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    yield _key("orders", facts, "source", "order_id")
    yield from _no_orphans("orders", facts, "source, order_id")
    yield _rule(
        "orders",
        "counted_or_reason",
        "Every order counts or says why not; those that count have a customer and revenue.",
        f"""
            select source, order_id from {schema}.orders
            where is_counted is null
                or is_counted = (not_counted_because is not null)
                or (is_counted and (
                    customer_id is null
                    or revenue_before_refunds is null
                    or revenue_after_refunds is null
                ))
        """,
    )
    yield _rule(
        "orders",
        "dated_by_as_of",
        "No order is dated after the as-of date.",
        f"select source, order_id, order_date from {schema}.orders "
        f"where order_date is null or order_date > date '{facts.as_of_date}'",
        limit=f"order_date not after {facts.as_of_date}",
    )
    yield _rule(
        "orders",
        "refunds_lower_revenue",
        "Refunds never raise the revenue of an order.",
        f"select source, order_id from {schema}.orders "
        "where revenue_after_refunds > revenue_before_refunds",
    )
    yield from _orders_reconcile(settings, facts)


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
    yield _rule(
        "orders",
        "reconcile_with_raw",
        "Every order that can be priced is in the mart once, and no other is.",
        f"select source, order_id, is_missing, is_unknown from ({compared}) as compared "
        "where is_missing or is_unknown",
        limit="no order missing, none added",
        action="Orders got lost or doubled between landing and marts. " + _REBUILD,
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
    yield _rule(
        "orders",
        "revenue_reconciles_with_raw",
        "The revenue of every order equals what the shop states, under the order policy.",
        f"select source, order_id, expected, found from ({compared}) as compared where {wrong}",
        limit=f"differences up to {limits.RECONCILIATION_TOLERANCE} per order",
        action="Money changed between landing and marts: compare the order policy in model.yml "
        "with the model that prices orders. " + _REBUILD,
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


def _raw_orders(settings: Settings, facts: MartsFacts) -> str:
    """SQL for the raw orders that can be dated and priced: source, order_id, revenue.

    Revenue is in the reporting currency and before refunds (design section 4, Orders).
    """
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
    if not queries:
        return ""
    rates = "".join(
        f" when upper(currency) = {literal(currency)} then {rate}"
        for currency, rate in sorted(model.exchange_rates.items())
    )
    rate = (
        f"case when upper(currency) = {literal(model.reporting_currency)} then 1 "
        f"when exchange_rate > 0 then exchange_rate{_released_rates(facts)}{rates} end"
    )
    return f"""
        select source, order_id, own_revenue * rate as revenue
        from (
            select source, order_id, own_revenue, {rate} as rate
            from ({" union all ".join(queries)}) as landed
            where ordered_at < {_as_of_end(settings, facts)}
        ) as priced
        where own_revenue is not null and rate is not null
    """


def _released_rates(facts: MartsFacts) -> str:
    """Branches of a case expression: orders that were released from quarantine with a rate."""
    return "".join(
        f" when source = {literal(one['source'])} and order_id = {literal(one['order_id'])} "
        f"and upper(currency) = {literal(one['currency'])} "
        f"then cast({literal(one['rate'])} as numeric)"
        for one in facts.released_rates
    )


# -------------------------------------------------------------------------------------- RFM


def _customer_rfm(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    yield _key("customer_rfm", facts, "customer_id")
    yield from _no_orphans("customer_rfm", facts)
    yield from _no_objectors("customer_rfm", facts)
    yield _rule(
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
        yield _rule(
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
    model = settings.model
    schema = facts.schema
    revenue = "revenue_after_refunds" if model.refund_policy == "net" else "revenue_before_refunds"
    window = (
        f" and order_date > date '{facts.as_of_date}' - {model.rfm_window_days}"
        if model.rfm_window_days
        else ""
    )
    buyers = f"""
        select
            customer_id,
            count(*) as frequency,
            sum({revenue}) as monetary,
            date '{facts.as_of_date}' - max(order_date) as recency_days
        from {schema}.orders
        where is_counted{window}
        group by customer_id
    """
    objectors = ""
    if facts.exists(schema, "customers", "has_profiling_objection"):
        objectors = f"""
            and not exists (
                select 1 from {schema}.customers as objector
                where objector.customer_id = buyer.customer_id
                    and objector.has_profiling_objection
            )
        """
    yield _rule(
        "customer_rfm",
        "every_buyer",
        "Every customer with an order that counts has an RFM row.",
        f"""
            select buyer.customer_id from ({buyers}) as buyer
            where not exists (
                select 1 from {schema}.customer_rfm as rfm
                where rfm.customer_id = buyer.customer_id
            ) {objectors}
        """,
        limit="no buyer missing (profiling objections aside)",
    )
    yield _rule(
        "customer_rfm",
        "reconciles_with_orders",
        "Recency, frequency and monetary value are those of the orders that count.",
        f"""
            select rfm.customer_id
            from {schema}.customer_rfm as rfm
            left join ({buyers}) as buyer on buyer.customer_id = rfm.customer_id
            where buyer.customer_id is null
                or rfm.frequency <> buyer.frequency
                or rfm.recency_days <> buyer.recency_days
                or abs(rfm.monetary - buyer.monetary) > {limits.RECONCILIATION_TOLERANCE}
        """,
        limit="no difference",
    )


def _rfm_cutoffs(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
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
        yield _rule(
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
        yield _rule(
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


def _rfm_segment_changes(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    changes = f"{facts.schema}.history_rfm_segment_changes"
    yield _key("history_rfm_segment_changes", facts, "customer_id")
    if not facts.exists("history", "rfm_segment_changes"):
        return
    if facts.exists(facts.schema, "customer_rfm", "rfm_segment"):
        yield _rule(
            "history_rfm_segment_changes",
            "add_up",
            "What earlier nights recorded and this night's changes give the RFM segments of now.",
            f"""
                select coalesce(recorded.customer_id, rfm.customer_id) as customer_id
                from (
                    select distinct on (customer_id) customer_id, to_segment
                    from (
                        select customer_id, to_segment, as_of_date
                        from history.rfm_segment_changes
                        where as_of_date < date '{facts.as_of_date}'
                        union all
                        select customer_id, to_segment, as_of_date from {changes}
                    ) as every_change
                    order by customer_id, as_of_date desc
                ) as recorded
                full outer join {facts.schema}.customer_rfm as rfm
                    on rfm.customer_id = recorded.customer_id
                where recorded.to_segment is distinct from rfm.rfm_segment
            """,
            limit="no customer whose recorded segment is another",
        )


# -------------------------------------------------------------------------------- lifecycle


def _lifecycle_intervals(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    schema = facts.schema
    table = f"{schema}.lifecycle_intervals"
    day = f"date '{facts.as_of_date}'"
    yield expect(
        gxe.ExpectColumnValuesToBeInSet,
        Check(
            id="marts.lifecycle_intervals.known_stages",
            table="lifecycle_intervals",
            severity="critical",
            description="Every interval has one of the stages of the model.",
            limit=", ".join(STAGES),
            action=f"Look at the model {_MODELS['lifecycle_intervals']}. {_REBUILD}",
            find_rows=f"select stage, count(*) from {table} "
            f"where stage not in ({literals(STAGES)}) group by stage",
        ),
        column="stage",
        value_set=list(STAGES),
    )
    yield from _no_orphans("lifecycle_intervals", facts)
    yield _rule(
        "lifecycle_intervals",
        "one_open_interval",
        "Every customer with a history is in exactly one stage now.",
        f"""
            select customer_id, count(*) filter (where valid_to is null) as open_intervals
            from {table} group by customer_id
            having count(*) filter (where valid_to is null) <> 1
        """,
        limit="one interval per customer with valid_to empty",
    )
    yield _rule(
        "lifecycle_intervals",
        "no_gap_no_overlap",
        "A customer's intervals follow each other without gap and overlap.",
        f"""
            select customer_id, valid_from
            from (
                select
                    customer_id,
                    valid_from,
                    valid_to,
                    lead(valid_from) over (
                        partition by customer_id order by valid_from, valid_to nulls last
                    ) as next_from
                from {table}
            ) as ordered
            where valid_from is null
                or valid_to <= valid_from
                or next_from is distinct from valid_to
        """,
        limit="valid_to equals the next valid_from",
    )
    yield _rule(
        "lifecycle_intervals",
        "begins_by_as_of",
        "No interval begins after the as-of date.",
        f"select customer_id, valid_from from {table} where valid_from > {day}",
        limit=f"valid_from not after {facts.as_of_date}",
    )
    yield _rule(
        "lifecycle_intervals",
        "neighbours_differ",
        "Neighbouring intervals have different stages.",
        f"""
            select customer_id, valid_from
            from (
                select customer_id, valid_from, stage,
                    lag(stage) over (partition by customer_id order by valid_from) as before
                from {table}
            ) as ordered
            where stage = before
        """,
        severity="warning",
        limit="no two equal stages in a row",
    )
    if facts.exists(schema, "customer_rfm"):
        yield _rule(
            "lifecycle_intervals",
            "buyers_are_past_acquisition",
            "Nobody with an order that counts is still a lead.",
            f"""
                select interval.customer_id from {table} as interval
                inner join {schema}.customer_rfm as rfm
                    on rfm.customer_id = interval.customer_id
                where interval.valid_to is null
                    and interval.stage in ('reach', 'acquisition', 'dormant_lead')
            """,
        )


def _lifecycle_projections(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    yield from _no_orphans("lifecycle_projections", facts)
    yield _rule(
        "lifecycle_projections",
        "in_the_future",
        "Projected stages begin after the as-of date.",
        f"select customer_id, from_date from {facts.schema}.lifecycle_projections "
        f"where from_date is null or from_date <= date '{facts.as_of_date}'",
        limit=f"from_date after {facts.as_of_date}",
    )


# ------------------------------------------------------------------------------------- value


def _customer_value(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    value = f"{schema}.customer_value"
    yield _key("customer_value", facts, "customer_id")
    yield from _no_orphans("customer_value", facts)
    yield from _no_objectors("customer_value", facts)
    yield _rule(
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
        yield _rule(
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
            action="Look at the log of the task predict. " + _REBUILD,
        )


def _value_parameters(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    table = f"{facts.schema}.history_value_parameters"
    yield _rule(
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
    yield _rule(
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


# --------------------------------------------------------------------------------- segments


def _segment_members(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    members = f"{schema}.segment_members"
    yield _key("segment_members", facts, "segment", "customer_id")
    yield from _no_orphans("segment_members", facts, "segment")
    yield _rule(
        "segment_members",
        "known_segments",
        "Every membership is of a segment that is switched on.",
        f"select segment, count(*) as members from {members} "
        f"where segment not in ({literals(settings.active_segments)}) group by segment",
        limit="segments of segments.yml",
    )
    yield _rule(
        "segment_members",
        "member_since_by_as_of",
        "Nobody is a member since a day after the as-of date.",
        f"select segment, customer_id from {members} "
        f"where member_since is null or member_since > date '{facts.as_of_date}'",
        limit=f"member_since not after {facts.as_of_date}",
    )
    yield from _members_eligible(facts)
    if facts.exists(schema, "contactability"):
        yield from _members_consent(facts)
    yield from _required_columns(settings, facts)
    yield from _holdouts(settings, facts)
    yield from _size_drift(settings, facts)


def _members_eligible(facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    if not facts.exists(schema, "customers", "birthday", "has_profiling_objection", "is_minor"):
        return
    yield _rule(
        "segment_members",
        "eligible",
        "No member objected to profiling, and none is known to be under 18.",
        f"""
            select member.segment, member.customer_id from {schema}.segment_members as member
            inner join {schema}.customers as customer
                on customer.customer_id = member.customer_id
            where customer.has_profiling_objection
                or customer.is_minor
                or customer.birthday > date '{facts.as_of_date}' - interval '18 years'
        """,
        limit="no objection, no minor",
    )


def _required_columns(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    wide = f"{facts.schema}.customer_360"
    needed = [
        (segment, column)
        for segment, definition in sorted(settings.active_segments.items())
        for column in definition.requires
        if facts.exists(facts.schema, "customer_360", column)
    ]
    if not needed:
        return
    empty = " union all ".join(
        f"select {literal(segment)} as segment, {literal(column)} as lacks, "
        f"{literal(_FILLED_BY.get(column, _FILLED_BY_OTHERS))} as filled_by "
        f"where not exists (select 1 from {wide} where {column} is not null)"
        for segment, column in needed
    )
    yield _rule(
        "segment_members",
        "required_columns",
        "Every column that a segment requires holds a value for somebody.",
        empty,
        severity="warning",
        limit="the columns under `requires` in segments.yml not empty for everybody",
        action="The segment has no members until then. Let a source deliver the column, or set "
        "`enabled: false` for the segment in segments.yml.",
        measure="select string_agg(lacking, '; ') from ("
        "select segment || ' lacks ' || string_agg(lacks || ' (' || filled_by || ')', ', ') "
        f"as lacking from ({empty}) as t group by segment order by segment) as by_segment",
    )


def _members_consent(facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    action = (
        "These people must not be written to. Compare segment_members with contactability. "
        + _REBUILD
    )
    yield _rule(
        "segment_members",
        "contactable_by_consent",
        "No member is flagged contactable without a contactable address.",
        f"""
            select member.segment, member.customer_id from {schema}.segment_members as member
            where member.is_contactable is null
                or (member.is_contactable and not exists (
                    select 1 from {schema}.contactability as verdict
                    where verdict.customer_id = member.customer_id
                        and verdict.channel = 'email' and verdict.is_contactable
                ))
        """,
        limit="no unconsented member",
        action=action,
    )
    if facts.exists(schema, "customers"):
        yield _rule(
            "segment_members",
            "sent_address_is_contactable",
            "The address a contactable member would be sent is itself contactable.",
            f"""
                select distinct member.customer_id
                from {schema}.segment_members as member
                inner join {schema}.customers as customer
                    on customer.customer_id = member.customer_id
                where member.is_contactable
                    and not exists (
                        select 1 from {schema}.contactability as verdict
                        where verdict.customer_id = member.customer_id
                            and verdict.channel = 'email'
                            and verdict.is_contactable
                            and lower(verdict.address) = lower(customer.email)
                    )
            """,
            limit="no other address",
            action=action,
        )


def _holdouts(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    members = f"{facts.schema}.segment_members"
    yield _rule(
        "segment_members",
        "holdout_decided",
        "Every member is either held out or not.",
        f"select segment, customer_id from {members} where is_holdout is null",
    )
    active = settings.active_segments
    everywhere = float(settings.model.global_holdout_percent)
    shares = {
        key: everywhere + float(segment.holdout_percent) * (1 - everywhere / 100)
        for key, segment in active.items()
    }
    if not shares:
        return
    expected = ", ".join(
        f"({literal(key)}, {share / 100})" for key, share in sorted(shares.items())
    )
    # Four standard deviations: a share that far off is no accident of the draw.
    shifted = f"""
        select drawn.segment, drawn.members, drawn.held_out
        from (
            select segment, count(*) as members, count(*) filter (where is_holdout) as held_out
            from {members} where is_contactable or is_holdout group by segment
        ) as drawn
        inner join (values {expected}) as configured (segment, share)
            on configured.segment = drawn.segment
        where (configured.share = 0 and drawn.held_out > 0)
            or (
                drawn.members >= {limits.HOLDOUT_MIN_MEMBERS}
                and abs(drawn.held_out - drawn.members * configured.share)
                > 4 * sqrt(drawn.members * configured.share * (1 - configured.share))
            )
    """
    yield _rule(
        "segment_members",
        "holdout_share",
        "As many members are held out as configured.",
        shifted,
        severity="warning",
        limit="holdout_percent of segments.yml, within four standard deviations",
        action="Expected for a while after holdout_percent was changed, because holdouts are "
        "kept; otherwise look at the segment's members by is_holdout.",
        measure="select string_agg(segment || ': ' || held_out || ' of ' || members, ', ') "
        f"from ({shifted}) as t",
    )
    if _comparable(facts):
        yield _rule(
            "segment_members",
            "holdout_kept",
            "Who stays in a segment, contactable, stays held out or not, as drawn at entry.",
            f"""
                select member.segment, member.customer_id from {members} as member
                inner join marts.segment_members as published
                    on published.segment = member.segment
                    and published.customer_id = member.customer_id
                    and published.member_since = member.member_since
                where published.is_holdout <> member.is_holdout
                    and published.is_contactable and member.is_contactable
            """,
            severity="warning",
            limit="no change while a membership lasts",
            action="Comparisons with the holdout lose their meaning. Expected after holdout_salt "
            "or a holdout_percent was changed.",
        )


def _size_drift(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    active = settings.active_segments
    if not active or not _comparable(facts):
        return
    allowed = ", ".join(
        f"({literal(key)}, {segment.max_change_percent})" for key, segment in sorted(active.items())
    )
    jumped = f"""
        select segment, members_before, members_now
        from (
            select
                configured.segment,
                configured.max_change_percent,
                (
                    select count(*) from marts.segment_members as published
                    where published.segment = configured.segment
                ) as members_before,
                (
                    select count(*) from {facts.schema}.segment_members as member
                    where member.segment = configured.segment
                ) as members_now
            from (values {allowed}) as configured (segment, max_change_percent)
        ) as sized
        where members_before > 0
            and abs(members_now - members_before) >= {limits.SMALL_SEGMENT}
            and abs(members_now - members_before) * 100.0 > max_change_percent * members_before
    """
    yield _rule(
        "segment_members",
        "size_drift",
        "No segment's size changed more than its limit since the current publication.",
        jumped,
        severity="warning",
        limit="max_change_percent of each segment",
        action="Delivery holds such a segment for approval. Look at what changed in the source "
        "or in the segment's definition.",
        measure="select string_agg(segment || ' ' || members_before || ' -> ' || members_now, "
        f"', ') from ({jumped}) as t",
    )


def _comparable(facts: MartsFacts) -> bool:
    """Whether the published marts are an earlier state of these (a backfill's are not)."""
    return facts.is_newer and facts.exists(
        "marts", "segment_members", "segment", "customer_id", "member_since", "is_holdout"
    )


# ----------------------------------------------------------------------------- customer_360


def _customer_360(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    schema = facts.schema
    wide = f"{schema}.customer_360"
    yield _key("customer_360", facts, "customer_id")
    if facts.exists(schema, "customers"):
        yield _rule(
            "customer_360",
            "every_customer",
            "The wide table has exactly the customers.",
            f"""
                (select customer_id from {schema}.customers except select customer_id from {wide})
                union all
                (select customer_id from {wide} except select customer_id from {schema}.customers)
            """,
            limit="no customer missing, none added",
        )
    if facts.exists(schema, "lifecycle_intervals"):
        yield _rule(
            "customer_360",
            "stage_is_current",
            "The stage shown is the customer's open interval.",
            f"""
                select wide.customer_id from {wide} as wide
                left join {schema}.lifecycle_intervals as current
                    on current.customer_id = wide.customer_id and current.valid_to is null
                where wide.stage is distinct from current.stage
            """,
        )
    if facts.exists(schema, "contactability"):
        yield _rule(
            "customer_360",
            "contactable_by_consent",
            "Nobody is shown as contactable without a contactable address.",
            f"""
                select wide.customer_id from {wide} as wide
                where wide.is_contactable and not exists (
                    select 1 from {schema}.contactability as verdict
                    where verdict.customer_id = wide.customer_id
                        and verdict.channel = 'email' and verdict.is_contactable
                )
            """,
        )


# ------------------------------------------------------------------------------------- KPIs


def _kpi_daily(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    table = f"{facts.schema}.kpi_daily"
    percent = settings.model.churn_rate_alarm_percent
    limit = "1.5 times the mean of the 90 days before" if percent is None else f"{percent} %"
    alarmed = (
        f"select day, churn_rate from {table} where day = date '{facts.as_of_date}' and churn_alarm"
    )
    yield _rule(
        "kpi_daily",
        "churn_alarm",
        "The share of buyers lost within 30 days is not much larger than it was.",
        alarmed,
        severity="warning",
        limit=f"churn_rate up to {limit}",
        action="Compare kpi_stage_conversion and lifecycle_matrix_monthly with the months before: "
        "who is lost, and from which stage? Set churn_rate_alarm_percent in model.yml if this is "
        "usual for the shop.",
        measure=f"select 'churn_rate ' || churn_rate from ({alarmed}) as t",
    )


def _as_of_end(settings: Settings, facts: MartsFacts) -> str:
    """The end of the as-of day as an SQL literal."""
    end = end_of_day(facts.as_of_date, settings.model.business_timezone)
    return f"timestamptz '{end.isoformat(sep=' ')}'"
