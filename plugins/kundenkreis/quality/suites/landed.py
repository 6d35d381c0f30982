"""What each source must have landed: its tables, keys, columns, and what is plausible in them."""

from __future__ import annotations

from dataclasses import dataclass

from kundenkreis.quality import limits
from kundenkreis.quality.suites.common import Severity
from kundenkreis.settings import Settings

# https://woocommerce.com/document/managing-orders/order-statuses/, plus WordPress's trash and
# the two drafts that checkouts and the admin create.
WOOCOMMERCE_STATUSES = (
    "pending",
    "processing",
    "on-hold",
    "completed",
    "cancelled",
    "refunded",
    "failed",
    "trash",
    "checkout-draft",
    "auto-draft",
)
FILE_STATUSES = ("completed", "cancelled", "refunded", "returned", "pending", "failed")


@dataclass(frozen=True)
class Landed:
    """One raw table and what is known of it.

    Attributes:
        table: its name in ``raw_<source>``.
        key: columns that identify a row; the ids that messages may show.
        required: columns that must exist, beside those named elsewhere here.
        not_null: columns that hardly any row may lack.
        times: when something happened; must lie in a plausible range.
        not_negative: money and quantities that are never below zero.
        status: the column with the order status.
        changed_at, stale_days: the newest of it tells how fresh the table is.
        parent: (own column, parent table, parent column, severity, what to do).
        key_is_unique: False for child tables, whose rows have no id of their own.
        single_oddity: the severity of one implausible date or amount; many are critical.
    """

    table: str
    key: tuple[str, ...]
    required: tuple[str, ...] = ()
    not_null: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    not_negative: tuple[str, ...] = ()
    status: str | None = None
    changed_at: str | None = None
    stale_days: int = 0
    parent: tuple[str, str, str, Severity, str] | None = None
    key_is_unique: bool = True
    single_oddity: Severity = "warning"

    def columns(self) -> set[str]:
        """All columns that this table must have."""
        names = {*self.key, *self.required, *self.not_null, *self.times, *self.not_negative}
        names |= {name for name in (self.status, self.changed_at) if name}
        return names | ({self.parent[0]} if self.parent else set())


LOADER_FAULT = (
    "The load of this table is damaged; run the extract task again. If it stays, report the load "
    "id in _dlt_load_id."
)

WOOCOMMERCE = (
    Landed(
        "customers",
        ("id",),
        required=("email", "billing_country", "newsletter_opt_in"),
        times=("date_created_gmt", "date_modified_gmt"),
    ),
    Landed(
        "orders",
        ("id",),
        required=("currency", "customer_id", "billing_email", "payment_method", "exchange_rate"),
        not_null=("status", "date_created_gmt", "total"),
        times=("date_created_gmt", "date_modified_gmt", "date_paid_gmt", "date_completed_gmt"),
        not_negative=("total",),
        status="status",
        changed_at="date_modified_gmt",
        stale_days=limits.STALE_ORDERS_DAYS,
    ),
    Landed(
        "orders__line_items",
        ("_dlt_parent_id", "_dlt_list_idx"),
        required=("product_id", "quantity", "total"),
        parent=("_dlt_parent_id", "orders", "_dlt_id", "critical", LOADER_FAULT),
    ),
    Landed(
        "refunds",
        ("id",),
        not_null=("parent_id", "amount"),
        times=("date_created_gmt",),
        not_negative=("amount",),
        parent=(
            "parent_id",
            "orders",
            "id",
            "warning",
            "Refunds of unknown orders change no revenue. Look for the orders in the shop; those "
            "in quarantine are not listed here.",
        ),
    ),
    Landed("products", ("id",), required=("name", "sku", "category_name")),
)

HUBSPOT = (
    Landed(
        "contacts",
        ("id",),
        required=("email", "lifecyclestage", "hs_email_optout", "archived"),
        times=("createdate", "lastmodifieddate"),
        changed_at="lastmodifieddate",
        stale_days=limits.STALE_CONTACTS_DAYS,
    ),
    Landed(
        "contacts__property_history",
        ("_dlt_parent_id", "_dlt_list_idx"),
        required=("property", "value"),
        times=("changed_at",),
        parent=("_dlt_parent_id", "contacts", "_dlt_id", "critical", LOADER_FAULT),
    ),
    Landed(
        "deals",
        ("id",),
        required=("dealstage", "amount", "hs_is_closed", "archived"),
        times=("createdate",),
        parent=(
            "contact_id",
            "contacts",
            "id",
            "info",
            "Deals of contacts that were not read are nobody's sign of interest. Check that the "
            "token may read these contacts.",
        ),
    ),
)

# Amounts of files may be negative: returns are lines with a negative quantity.
FILES = (
    Landed(
        "customers",
        ("source_name", "customer_key"),
        required=("email",),
        times=("created_at",),
    ),
    Landed(
        "order_lines",
        ("source_name", "content_hash", "row_number"),
        required=("customer_key", "quantity", "line_amount"),
        not_null=("order_key", "ordered_at", "status", "currency"),
        times=("ordered_at",),
        not_negative=("unit_price",),
        status="status",
        single_oddity="info",  # till exports book corrections as lines with a negative price
    ),
    Landed(
        "orders",
        ("source_name", "order_key"),
        required=("customer_key", "email"),
        not_null=("ordered_at", "status", "currency", "total_amount"),
        times=("ordered_at",),
        status="status",
    ),
    Landed("products", ("source_name", "product_key"), required=("product_name",)),
    Landed(
        "consent_events",
        ("source_name", "channel", "occurred_at"),
        required=("email",),
        not_null=("evidence",),
        times=("occurred_at",),
        key_is_unique=False,
    ),
    Landed(
        "spend",
        ("source_name", "content_hash", "row_number"),
        required=("currency",),
        not_null=("acquisition_source", "spent_on", "amount"),
        times=("spent_on",),
        not_negative=("amount",),
        single_oddity="info",  # advertisers are sometimes paid back
    ),
)


def landed_tables(settings: Settings) -> dict[str, tuple[Landed, ...]]:
    """The raw tables each enabled source must have landed; of files, those of its datasets."""
    tables: dict[str, tuple[Landed, ...]] = {}
    if "woocommerce" in settings.sources:
        tables["woocommerce"] = WOOCOMMERCE
    if "hubspot" in settings.sources:
        tables["hubspot"] = HUBSPOT
    if "files" in settings.sources:
        entities = {str(dataset.entity) for dataset in settings.sources["files"].datasets}
        tables["files"] = tuple(landed for landed in FILES if landed.table in entities)
    return tables
