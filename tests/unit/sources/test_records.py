"""Records of API sources: what becomes a row, what becomes a rejection, what the table declares."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qsl, unquote

import httpx
import pytest

from kundenkreis.sources import base, hubspot, woocommerce
from kundenkreis.sources.base import Table
from kundenkreis.warehouse.quarantine import Rejection

ORDER: dict[str, Any] = {
    "id": 7,
    "status": "completed",
    "currency": "EUR",
    "date_created_gmt": "2026-01-01T10:00:00",
    "date_modified_gmt": "2026-01-02T10:00:00",
    "date_paid_gmt": "",
    "date_completed_gmt": "2026-01-02T10:00:00",
    "total": "19.90",
    "discount_total": "1.68",
    "discount_tax": "0.32",
    "customer_id": 0,
    "billing": {"email": "anna@example.org", "phone": ""},
    "meta_data": [
        {"key": "newsletter_opt_in", "value": "yes"},
        {"key": "_exchange_rate", "value": "0.9"},
        {"key": "other", "value": {"a": 1}},
        "noise",
    ],
    "line_items": [
        {"id": 1, "name": "Cup", "quantity": 1, "total": "9.95"},
        {"id": 1, "name": "Cup", "quantity": 1, "total": "9.95"},
    ],
}
META = {"newsletter_opt_in": "newsletter_opt_in", "_exchange_rate": "exchange_rate"}
ORDERS = Table("orders", woocommerce.Order, shape=woocommerce._with_meta(META))


def check(record: Any, table: Table = ORDERS) -> tuple[list[dict[str, Any]], list[Rejection]]:
    rejections: list[Rejection] = []
    return base.checked([record], table, "shop", rejections), rejections


def test_an_order_becomes_a_row_with_its_lines() -> None:
    (row,), rejections = check(ORDER)
    assert rejections == []
    assert row["total"] == Decimal("19.90")
    assert row["date_created_gmt"] == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert row["date_paid_gmt"] is None
    assert row["date_completed_gmt"] == datetime(2026, 1, 2, 10, tzinfo=UTC)
    assert (row["discount_total"], row["discount_tax"]) == (Decimal("1.68"), Decimal("0.32"))
    assert (row["billing_email"], row["billing_phone"]) == ("anna@example.org", None)
    assert (row["newsletter_opt_in"], row["exchange_rate"]) == ("yes", Decimal("0.9"))
    assert len(row["line_items"]) == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": None}, "invalid_id"),
        ({"total": "12,50"}, "invalid_total"),
        ({"total": "NaN"}, "invalid_total"),
        ({"total": "1e30"}, "invalid_total"),
        ({"currency": "Euro"}, "invalid_currency"),
        ({"date_created_gmt": "0"}, "invalid_date_created_gmt"),
        ({"date_created_gmt": "2026-13-01T00:00:00"}, "invalid_date_created_gmt"),
        ({"date_created_gmt": 1767261600}, "invalid_date_created_gmt"),
        ({"number": "7\x00"}, "invalid_number"),
        ({"number": "\uf026" + "7"}, "invalid_number"),
        ({"number": "\ud800"}, "invalid_number"),
        ({"customer_id": 2**63}, "invalid_customer_id"),
        ({"line_items": [{"id": 1, "quantity": "two", "total": "1"}]}, "invalid_line_items"),
    ],
)
def test_a_malformed_order_is_rejected_without_repeating_its_values(
    change: Mapping[str, Any], code: str
) -> None:
    rows, (rejection,) = check({**ORDER, **change})
    assert rows == []
    assert rejection.reason_code == code
    assert rejection.payload["billing"]["email"] == "anna@example.org"
    assert "anna" not in rejection.reason
    for value in change.values():
        assert str(value) not in rejection.reason


@pytest.mark.parametrize("field", ["id", "status", "total", "date_modified_gmt"])
def test_a_missing_field_is_named(field: str) -> None:
    _, (rejection,) = check({key: value for key, value in ORDER.items() if key != field})
    assert rejection.reason_code == f"missing_{field}"
    assert rejection.reason == f"{field}: field required"


@pytest.mark.parametrize("record", [None, "text", 5, [], {}])
def test_what_is_no_record_is_rejected_too(record: Any) -> None:
    rows, (rejection,) = check(record)
    assert rows == []
    assert rejection.record_key is None


def test_a_refund_is_positive() -> None:
    refund = {"id": 1, "parent_id": 7, "date_created_gmt": "2026-01-01T00:00:00", "amount": "-3.5"}
    (row,), _ = check(refund, Table("refunds", woocommerce.Refund))
    assert row["amount"] == Decimal("3.5")


def test_a_contact_becomes_a_row_with_its_history_oldest_first() -> None:
    contact = {
        "id": "30",
        "properties": {"email": "anna@example.org", "hs_email_optout": "true", "phone": ""},
        "propertiesWithHistory": {
            "lifecyclestage": [
                {"value": "customer", "timestamp": "2026-02-01T00:00:00Z", "sourceType": "CRM_UI"},
                {"value": "lead", "timestamp": "2026-01-01T00:00:00Z", "sourceType": "FORM"},
            ],
            "hs_lead_status": None,
        },
    }
    table = Table("contacts", hubspot.Contact, shape=hubspot._with_history)
    (row,), _ = check(contact, table)
    assert (row["hs_email_optout"], row["phone"], row["archived"]) == (True, None, False)
    assert [change["value"] for change in row["property_history"]] == ["lead", "customer"]


@pytest.mark.parametrize(
    ("properties", "link"),
    [
        ({"shop_id": "12", "till_id": "9"}, ("woocommerce", "12")),
        ({"shop_id": " ", "till_id": " 9 "}, ("till", "9")),
        ({"shop_id": "0", "till_id": None}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_the_first_filled_foreign_id_links_a_contact(
    properties: dict[str, Any], link: tuple[str | None, str | None]
) -> None:
    foreign_ids = {"shop_id": "woocommerce.customer", "till_id": "till.customer"}
    table = Table("contacts", hubspot.Contact, shape=hubspot._shape(foreign_ids, "DE"))
    phone = {"phone": "0170 / 123 45 67"}
    (row,), _ = check({"id": "30", "properties": {**phone, **properties}}, table)
    assert (row["linked_source"], row["linked_customer_key"]) == link
    assert (row["phone"], row["phone_e164"]) == ("0170 / 123 45 67", "+491701234567")


@pytest.mark.parametrize("record", [None, "text", [], {"id": "1", "properties": []}])
def test_a_contact_that_cannot_be_understood_is_left_to_its_check(record: Any) -> None:
    table = Table(
        "contacts", hubspot.Contact, shape=hubspot._shape({"shop_id": "w.customer"}, "DE")
    )
    rows, rejections = check(record, table)
    assert len(rows) + len(rejections) == 1
    assert all("phone_e164" not in rejection.payload for rejection in rejections)


def test_a_phone_is_read_in_the_country_of_its_bill() -> None:
    table = Table("orders", woocommerce.Order, shape=woocommerce._shape(META, "DE"))
    billing = {"email": "anna@example.org", "phone": "0664 1234567", "country": "AT"}
    (row,), _ = check({**ORDER, "billing": billing}, table)
    assert (row["phone_e164"], row["newsletter_opt_in"]) == ("+436641234567", "yes")
    (row,), _ = check({**ORDER, "billing": {**billing, "phone": 491701234567}}, table)
    assert row["phone_e164"] is None
    (row,), _ = check({**ORDER, "billing": None, "phone_e164": "forged"}, table)
    assert row["phone_e164"] is None


def test_the_model_declares_the_table() -> None:
    columns = ORDERS.columns()
    assert "line_items" not in columns
    assert columns["id"].data_type == "bigint"
    assert columns["billing_email"].data_type == "text"
    assert columns["exchange_rate"].data_type == "decimal"
    assert columns["date_paid_gmt"].data_type == "timestamp"
    assert set(ORDERS.nested()["line_items"]) == set(woocommerce.LineItem.model_fields)
    assert Table("c", hubspot.Contact).columns()["archived"].data_type == "bool"


def test_oauth_signature_matches_an_independent_calculation() -> None:
    """The expected signature was calculated apart, by the steps of RFC 5849, section 3.4."""
    auth = woocommerce.OneLeggedOAuth(
        "ck_abc", "cs_def", clock=lambda: 1_767_261_600.9, nonce="0123456789abcdef"
    )
    request = httpx.Request(
        "GET",
        "http://127.0.0.1:8080/wp-json/wc/v3/orders",
        params={"modified_after": "2026-01-01T00:00:00", "status": "any", "x": "a b&c=ü~"},
    )
    signed = next(auth.auth_flow(request))
    header = signed.headers["Authorization"]
    assert header.startswith("OAuth ")
    fields = dict(part.split("=", 1) for part in header.removeprefix("OAuth ").split(", "))
    assert unquote(fields["oauth_timestamp"].strip('"')) == "1767261600"
    assert unquote(fields["oauth_signature"].strip('"')) == SIGNATURE
    assert "cs_def" not in header
    assert dict(parse_qsl(signed.url.query.decode())) == dict(request.url.params)


SIGNATURE = "sbpLNQG6gwKYZEpDi6mA6Oe5H5NFkjLlnjgdOl2AS1c="
