"""Where the sources keep persons: one declaration per raw table that holds any.

The erasure, the copy for a person, the retention and the check of every load stand upon these. A
raw table that is not here holds nobody; tests/integration/test_privacy_registry.py says so of
every column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class RecordRows:
    """Each row is a source record of a person: it goes with the person.

    Attributes:
        record_type: as in ``customer_source_ids``.
        key: its id in the source.
        address: the person's.
        created: when the record came to be.
        source: column that names the source; None where the schema does.
        opt_in: columns of a newsletter's state and of its time.
        history: nested records of dated changes, whose confirmed opt-ins are new signs of life.
        link: columns with source and id of the same person's record elsewhere.
        nested: tables whose rows hang on this one's by ``_dlt_parent_id``.
        number: a telephone number as received, that no model reads.
    """

    record_type: str
    key: str
    address: str
    created: str
    source: str | None = None
    opt_in: tuple[str, str] | None = None
    history: str | None = None
    link: tuple[str, str] | None = None
    nested: tuple[str, ...] = ()
    number: str | None = None


@dataclass(frozen=True)
class OrderRows:
    """Each row is an order, or a line of one: it stays, without the person.

    Attributes:
        key: the order's id.
        owner: column with the account's id.
        no_owner: what stands there for nobody.
        address: the buyer's.
        dated: when it was ordered.
        personal: more columns about the buyer.
        load: column that names the load, by which builds find what is new.
        number: as of records.
    """

    key: str
    owner: str
    no_owner: int | None
    address: str
    dated: str
    personal: tuple[str, ...]
    load: str
    source: str | None = None
    number: str | None = None
    owner_type: str = "customer"
    guest_type: str = "guest_order"


@dataclass(frozen=True)
class LinkRows:
    """Each row names the person it is about (a deal): it stays, about nobody."""

    key: str
    owner: str
    owner_type: str
    dated: str


@dataclass(frozen=True)
class AddressRows:
    """Each row is a fact about an address (a consent): it goes with the person."""

    address: str
    dated: str


RawRows = RecordRows | OrderRows | LinkRows | AddressRows

_FILE_ORDERS = OrderRows(
    key="order_key",
    owner="customer_key",
    no_owner=None,
    address="email",
    dated="ordered_at",
    personal=(),
    load="loaded_at",
    source="source_name",
)

RAW_ROWS: Mapping[str, Mapping[str, RawRows]] = {
    "files": {
        "customers": RecordRows(
            record_type="customer",
            key="customer_key",
            address="email",
            created="created_at",
            source="source_name",
            link=("linked_source", "linked_customer_key"),
            number="phone",
        ),
        "orders": _FILE_ORDERS,
        "order_lines": _FILE_ORDERS,
        "consent_events": AddressRows(address="email", dated="occurred_at"),
    },
    "hubspot": {
        "contacts": RecordRows(
            record_type="contact",
            key="id",
            address="email",
            created="createdate",
            history="property_history",
            link=("linked_source", "linked_customer_key"),
            nested=("contacts__property_history",),
            number="phone",
        ),
        "deals": LinkRows(key="id", owner="contact_id", owner_type="contact", dated="createdate"),
    },
    "woocommerce": {
        "customers": RecordRows(
            record_type="customer",
            key="id",
            address="email",
            created="date_created_gmt",
            opt_in=("newsletter_opt_in", "newsletter_opt_in_at"),
            number="billing_phone",
        ),
        "orders": OrderRows(
            key="id",
            owner="customer_id",
            no_owner=0,
            address="billing_email",
            dated="date_created_gmt",
            personal=(
                "billing_first_name",
                "billing_last_name",
                "billing_phone",
                "phone_e164",
                "newsletter_opt_in",
            ),
            load="_dlt_load_id",
            number="billing_phone",
        ),
    },
}
"""Per source and table."""

NOBODY: Mapping[str, tuple[str, ...]] = {
    "files": ("products", "spend"),
    "hubspot": ("contacts__property_history",),  # with its contact
    "woocommerce": ("orders__line_items", "refunds", "products"),
}
"""Raw tables that name no person, or only through their parent."""
