"""What each source must have landed: its tables, keys, columns, and what is plausible in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from kundenkreis.quality.suites.common import Severity, literal
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
        changed_at: the newest of it tells how fresh the table is.
        happened_at: when the record came about; the rows of a day are counted by it.
        amount: the money that a row is about.
        filled: columns of which a day's rows fill about the usual share.
        texts: what people write; shows text that was read in the wrong encoding.
        address: the column with an email address.
        told_apart_by: columns that are all equal only where a row was loaded under two keys.
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
    happened_at: str | None = None
    amount: str | None = None
    filled: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    address: str | None = None
    told_apart_by: tuple[str, ...] = ()
    parent: tuple[str, str, str, Severity, str] | None = None
    key_is_unique: bool = True
    single_oddity: Severity = "warning"

    def columns(self) -> set[str]:
        """All columns that this table must have."""
        names = {*self.key, *self.required, *self.not_null, *self.times, *self.not_negative}
        names |= {*self.filled, *self.texts, *self.told_apart_by}
        single = (self.status, self.changed_at, self.happened_at, self.amount, self.address)
        names |= {name for name in single if name}
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
        happened_at="date_created_gmt",
        filled=("email",),
        texts=("first_name", "last_name"),
        address="email",
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
        happened_at="date_created_gmt",
        amount="total",
        filled=("billing_email",),
        address="billing_email",
        told_apart_by=("customer_id", "billing_email", "date_created_gmt", "total"),
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
    Landed("products", ("id",), required=("sku", "category_name"), texts=("name",)),
)

HUBSPOT = (
    Landed(
        "contacts",
        ("id",),
        required=("email", "lifecyclestage", "hs_email_optout", "archived"),
        times=("createdate", "lastmodifieddate"),
        changed_at="lastmodifieddate",
        happened_at="createdate",
        filled=("email",),
        texts=("firstname", "lastname"),
        address="email",
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
        times=("created_at",),
        texts=("first_name", "last_name"),
        address="email",
    ),
    Landed(
        "order_lines",
        ("source_name", "content_hash", "row_number"),
        required=("quantity",),
        not_null=("order_key", "ordered_at", "status", "currency"),
        times=("ordered_at",),
        changed_at="ordered_at",
        happened_at="ordered_at",
        amount="line_amount",
        filled=("customer_key", "email"),
        texts=("product_name",),
        address="email",
        told_apart_by=(
            "source_name",
            "customer_key",
            "ordered_at",
            "product_key",
            "product_name",
            "quantity",
            "line_amount",
        ),
        not_negative=("unit_price",),
        status="status",
        single_oddity="info",  # till exports book corrections as lines with a negative price
    ),
    Landed(
        "orders",
        ("source_name", "order_key"),
        not_null=("ordered_at", "status", "currency", "total_amount"),
        times=("ordered_at",),
        changed_at="ordered_at",
        happened_at="ordered_at",
        amount="total_amount",
        filled=("customer_key", "email"),
        address="email",
        told_apart_by=("source_name", "customer_key", "ordered_at", "total_amount"),
        status="status",
    ),
    Landed("products", ("source_name", "product_key"), texts=("product_name",)),
    Landed(
        "consent_events",
        ("source_name", "channel", "occurred_at"),
        not_null=("evidence",),
        address="email",
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


@dataclass(frozen=True)
class Feed:
    """What one system sends into one table: of files one dataset, else the whole table.

    Attributes:
        label: the dataset's source; None where the table has one source only.
        fresh_within_days: the source's schedule; None: it is never stale.
        quiet_days: days without the usual number of records.
    """

    source: str
    landed: Landed
    label: str | None
    fresh_within_days: int | None
    quiet_days: tuple[str, ...]

    @property
    def schema(self) -> str:
        """The raw schema."""
        return f"raw_{self.source}"

    @property
    def name(self) -> str:
        """The table, as shown to people."""
        return f"{self.schema}.{self.landed.table}"

    @property
    def where(self) -> str:
        """SQL for the feed's rows of the table."""
        return f"source_name = {literal(self.label)}" if self.label else "true"

    def measure(self, figure: str) -> str:
        """The name of a figure of a day of this feed."""
        return f"{self.label}.day.{figure}" if self.label else f"day.{figure}"

    def is_quiet(self, day: date) -> bool:
        """Whether a day is one of the quiet ones."""
        return bool({day.isoformat(), f"{day:%m-%d}"} & set(self.quiet_days))


def feeds(settings: Settings) -> tuple[Feed, ...]:
    """The feeds of the enabled sources whose tables know when something happened."""
    found = []
    for source, tables in landed_tables(settings).items():
        own = settings.sources[source]
        for landed in tables:
            if landed.happened_at is None and landed.changed_at is None:
                continue
            if source != "files":
                days = (own.fresh_within_days, own.quiet_days)
                found.append(Feed(source, landed, None, *days))
                continue
            for dataset in own.datasets:
                if dataset.entity == landed.table:
                    days = (dataset.fresh_within_days, dataset.quiet_days)
                    found.append(Feed(source, landed, dataset.label, *days))
    return tuple(found)
