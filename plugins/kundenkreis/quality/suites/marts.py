"""Gate ``marts``: may these marts be shown, and these people be written to?

Reads the unpublished marts schema, and the raw tables it is reconciled with. Design: section 1
(``gate_marts``) and section 4 (Lifecycle stage, RFM, Consent, Segments). The rules are computed
again here, apart from the models, so a fault in a model does not hide itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites import (
    marts_customers,
    marts_levels,
    marts_lifecycle,
    marts_orders,
    marts_scores,
    marts_segments,
)
from kundenkreis.quality.suites.common import Check, TableSuite, expect, expect_no_rows, literal
from kundenkreis.settings import Settings

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
    "customer_360": (
        "customer_id",
        "as_of_date",
        "stage",
        "is_contactable",
        "frequency",
        "rfm_code",
    ),
    "kpi_daily": (
        "day",
        *(f"customers_{stage}" for stage in marts_lifecycle.STAGES),
        "orders",
        "revenue",
        "churn_rate",
        "churn_alarm",
    ),
    "kpi_holdout_lift": (
        "segment",
        "holdout_percent",
        "treated_customers",
        "holdout_customers",
        "expected_holdout_customers",
        "conversion_rate_difference",
        "conversion_rate_difference_low",
        "conversion_rate_difference_high",
        "revenue_per_customer_difference",
    ),
    "history_stage_changes": ("as_of_date", "customer_id", "from_stage", "to_stage"),
    "history_kpi_daily": ("as_of_date", "orders", "revenue"),
}


def suites(settings: Settings, facts: MartsFacts) -> list[TableSuite]:
    """The gate's suites: first what exists, then each mart that does."""
    builders = {
        "customers": marts_customers.customers,
        "customer_source_ids": marts_customers.customer_source_ids,
        "contactability": marts_customers.contactability,
        "orders": marts_orders.orders,
        "customer_rfm": marts_scores.customer_rfm,
        "history_rfm_cutoffs": marts_scores.rfm_cutoffs,
        "history_rfm_segment_changes": marts_scores.rfm_segment_changes,
        "lifecycle_intervals": marts_lifecycle.lifecycle_intervals,
        "lifecycle_projections": marts_lifecycle.lifecycle_projections,
        "customer_value": marts_scores.customer_value,
        "history_value_parameters": marts_scores.value_parameters,
        "segment_members": marts_segments.segment_members,
        "customer_360": marts_segments.customer_360,
        "kpi_daily": marts_lifecycle.kpi_daily,
        "kpi_holdout_lift": marts_segments.kpi_holdout_lift,
        "history_stage_changes": marts_lifecycle.stage_changes,
        "history_kpi_daily": marts_lifecycle.kpi_history,
    }
    found = [_catalogue(facts)]
    for table, build in builders.items():
        if facts.exists(facts.schema, table):
            expectations = [_columns(table, facts), *build(settings, facts)]
            found.append(TableSuite(facts.schema, table, tuple(expectations)))
    found.append(marts_levels.levels(facts))
    return [suite for suite in found if suite.expectations]


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
            expect_no_rows(
                Check(
                    id="marts.not_published",
                    table=facts.schema,
                    severity="critical",
                    description="The marts under check are not the ones that readers see.",
                    limit="another schema than the views of marts read",
                    action="The build went into the wrong colour, and readers may have seen half "
                    "of it. Run the night again: it builds the other colour and publishes it.",
                    find_rows=_views_on(facts.schema),
                )
            ),
        ),
    )


def _views_on(schema: str) -> str:
    """SQL for the views of ``marts`` that read a schema."""
    return f"""
        select distinct view.relname as view_name
        from pg_depend as dependency
        inner join pg_rewrite as rewrite on rewrite.oid = dependency.objid
        inner join pg_class as view on view.oid = rewrite.ev_class
        inner join pg_class as target on target.oid = dependency.refobjid
        where dependency.classid = 'pg_rewrite'::regclass
            and dependency.refclassid = 'pg_class'::regclass
            and view.relnamespace = to_regnamespace('marts')
            and target.relnamespace = to_regnamespace({literal(schema)})
    """


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
