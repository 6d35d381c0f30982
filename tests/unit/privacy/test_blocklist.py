"""Who was erased does not come back with a load, and who comes again is somebody new."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kundenkreis.privacy.blocklist import Blocklist, anonymous_address
from kundenkreis.privacy.keys import ErasureKey
from kundenkreis.warehouse.quarantine import Rejection

KEY = ErasureKey(b"k" * 32)
ERASED = datetime(2026, 6, 30, 12, tzinfo=UTC)
BEFORE, AFTER = ERASED - timedelta(days=1), ERASED + timedelta(days=1)
ANNA = "anna@bücher.example"


def _blocklist(*identifiers: tuple[str, ...]) -> Blocklist:
    known = identifiers or (
        ("address", "anna@xn--bcher-kva.example"),
        ("record", "woocommerce", "customer", "17"),
        ("record", "woocommerce", "guest_order", "8"),
        ("record", "hubspot", "contact", "5"),
        ("record", "till", "customer", "card-3"),
    )
    hashes = {KEY.hash_of(*identifier): ERASED for identifier in known}
    return Blocklist(hashes, KEY, frozenset({"example.test"}))


def _order(**values: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "customer_id": 0,
        "billing_email": "ben@mail.example",
        "billing_first_name": "Ben",
        "billing_last_name": "Zeh",
        "billing_phone": "030 1",
        "phone_e164": "+49301",
        "newsletter_opt_in": "double",
        "billing_country": "DE",
        "date_created_gmt": BEFORE,
        "total": 10,
        "line_items": [{"id": 1}],
        **values,
    }


def _account(**values: Any) -> dict[str, Any]:
    return {
        "id": 17,
        "email": ANNA,
        "date_created_gmt": BEFORE,
        "newsletter_opt_in": "double",
        "newsletter_opt_in_at": BEFORE,
        **values,
    }


def _contact(**values: Any) -> dict[str, Any]:
    return {
        "id": "5",
        "email": ANNA,
        "createdate": BEFORE,
        "property_history": [],
        "linked_source": None,
        "linked_customer_key": None,
        **values,
    }


def _change(moment: datetime, value: str = "confirmed", name: str = "") -> dict[str, Any]:
    return {
        "property": name or "hs_emailconfirmationstatus",
        "value": value,
        "changed_at": moment,
    }


def test_without_erasures_nothing_is_looked_at() -> None:
    rows = [_account(), _order()]
    blocklist = Blocklist()
    assert not blocklist
    assert blocklist.admit_all("woocommerce", "customers", rows) == rows


@pytest.mark.parametrize(
    "address", ["Anna@Bücher.example", " ANNA@BÜCHER.EXAMPLE ", "anna@xn--bcher-kva.example"]
)
def test_an_address_is_recognised_however_it_is_spelled(address: str) -> None:
    assert _blocklist().address_erased_at(address) == ERASED


def test_a_record_from_before_is_left_out_by_its_address_or_its_id() -> None:
    blocklist = _blocklist()
    moved = _account(email="new@mail.example")
    other = _account(id=18, email="ben@mail.example")
    again = _account(id=19)
    assert blocklist.admit_all("woocommerce", "customers", [_account(), moved, again, other]) == [
        other
    ]
    assert blocklist.kept_out == 3


def test_a_record_without_a_date_is_left_out() -> None:
    account = _account(date_created_gmt=None)
    assert _blocklist().admit_all("woocommerce", "customers", [account]) == []


def test_a_new_account_with_the_address_is_a_new_customer() -> None:
    blocklist = _blocklist()
    account = _account(id=20, date_created_gmt=AFTER)
    assert blocklist.admit_all("woocommerce", "customers", [account]) == [account]
    # Its id was never the erased person's, so what is derived from it is new anyway.
    assert blocklist.returned == {}


def test_an_old_account_with_a_new_opt_in_comes_back_as_of_then_and_under_a_new_id() -> None:
    blocklist = _blocklist()
    account = _account(newsletter_opt_in_at=AFTER)
    found = blocklist.admit_all("woocommerce", "customers", [account])
    assert found == [{**account, "date_created_gmt": AFTER}]
    assert blocklist.returned == {("woocommerce", "customer", "17"): ERASED}


@pytest.mark.parametrize("state", ["withdrawn", "", None, "no"])
def test_a_withdrawal_after_the_erasure_brings_nobody_back(state: str | None) -> None:
    account = _account(newsletter_opt_in=state, newsletter_opt_in_at=AFTER)
    assert _blocklist().admit_all("woocommerce", "customers", [account]) == []


def test_a_contact_comes_back_with_a_confirmed_opt_in_and_nothing_from_before() -> None:
    blocklist = _blocklist()
    new = _change(AFTER)
    contact = _contact(property_history=[_change(BEFORE), new])
    found = blocklist.admit_all("hubspot", "contacts", [contact])
    assert found == [{**contact, "createdate": AFTER, "property_history": [new]}]
    assert blocklist.returned == {("hubspot", "contact", "5"): ERASED}


def test_what_staff_did_to_a_contact_brings_nobody_back() -> None:
    contact = _contact(property_history=[_change(AFTER, "open", "hs_lead_status")])
    assert _blocklist().admit_all("hubspot", "contacts", [contact]) == []


def test_a_link_to_an_erased_record_is_forgotten() -> None:
    contact = _contact(
        id="6", email="ben@mail.example", linked_source="woocommerce", linked_customer_key="17"
    )
    found = _blocklist().admit_all("hubspot", "contacts", [contact])
    assert found == [{**contact, "linked_source": None, "linked_customer_key": None}]


@pytest.mark.parametrize(
    "values",
    [{"customer_id": 17}, {"id": 8}, {"billing_email": ANNA}],
    ids=["account", "guest", "address"],
)
def test_an_order_from_before_stays_without_the_person(values: dict[str, Any]) -> None:
    blocklist = _blocklist()
    order = _order(**values)
    (found,) = blocklist.admit_all("woocommerce", "orders", [order])
    assert found == {
        **order,
        "customer_id": 0,
        "billing_email": None,
        "billing_first_name": None,
        "billing_last_name": None,
        "billing_phone": None,
        "phone_e164": None,
        "newsletter_opt_in": None,
    }
    assert blocklist.anonymised == {("woocommerce", str(order["id"]))}


def test_somebody_elses_order_loses_only_the_address() -> None:
    blocklist = _blocklist()
    (found,) = blocklist.admit_all(
        "woocommerce", "orders", [_order(customer_id=4, billing_email=ANNA)]
    )
    assert (found["customer_id"], found["billing_email"]) == (4, None)
    assert blocklist.anonymised == set()


def test_an_order_after_the_erasure_is_kept_whole_and_its_account_gets_a_new_id() -> None:
    blocklist = _blocklist()
    order = _order(customer_id=17, billing_email=ANNA, date_created_gmt=AFTER)
    assert blocklist.admit_all("woocommerce", "orders", [order]) == [order]
    assert blocklist.returned == {("woocommerce", "customer", "17"): ERASED}
    assert blocklist.anonymised == set()


def test_a_testers_order_stays_a_test() -> None:
    blocklist = _blocklist(("address", "anna@example.test"))
    (found,) = blocklist.admit_all(
        "woocommerce", "orders", [_order(billing_email="Anna@Example.test ")]
    )
    assert found["billing_email"] == "erased@example.test"


def test_only_testers_domains_are_kept() -> None:
    assert anonymous_address("anna@mail.example", ["example.test"]) is None
    assert anonymous_address(None, ["example.test"]) is None


def test_a_deal_is_about_nobody() -> None:
    deal = {"id": "1", "contact_id": "5", "createdate": BEFORE}
    assert _blocklist().admit_all("hubspot", "deals", [deal]) == [{**deal, "contact_id": None}]
    new = {**deal, "createdate": AFTER}
    assert _blocklist().admit_all("hubspot", "deals", [new]) == [new]


def test_a_consent_counts_by_its_date() -> None:
    old = {"source_name": "desk", "email": ANNA, "occurred_at": BEFORE}
    undated, new = {**old, "occurred_at": None}, {**old, "occurred_at": AFTER}
    assert _blocklist().admit_all("files", "consent_events", [old, undated, new]) == [new]


def test_a_files_record_is_known_by_the_name_of_its_source() -> None:
    row = {"source_name": "till", "customer_key": "card-3", "email": None, "created_at": BEFORE}
    other = {**row, "source_name": "club"}
    assert _blocklist().admit_all("files", "customers", [row, other]) == [other]


def _rejection(table: str, key: str, payload: dict[str, Any]) -> Rejection:
    return Rejection("woocommerce", table, key, "invalid_total", "total: is no number", payload)


def test_a_rejected_order_is_kept_without_its_content() -> None:
    payload = {"id": 3, "billing": {"email": ANNA}, "date_created_gmt": "2026-06-01T00:00:00"}
    (kept,) = _blocklist().admit_rejections([_rejection("orders", "3", payload)])
    assert (kept.record_key, kept.reason_code, kept.payload) == ("3", "invalid_total", {})


def test_a_rejected_record_of_the_person_is_not_kept() -> None:
    payload = {"id": 17, "email": "broken", "date_created_gmt": "2026-06-01T00:00:00"}
    assert _blocklist().admit_rejections([_rejection("customers", "17", payload)]) == []


def test_what_was_rejected_after_the_erasure_is_kept_as_it_came() -> None:
    payload = {"id": 3, "billing": {"email": ANNA}, "date_created_gmt": "2026-07-01T13:00:00"}
    rejection = _rejection("orders", "3", payload)
    assert _blocklist().admit_rejections([rejection]) == [rejection]


def test_other_peoples_rejections_are_kept_as_they_came() -> None:
    rejection = _rejection("orders", "3", {"id": 3, "billing": {"email": "ben@mail.example"}})
    assert _blocklist().admit_rejections([rejection]) == [rejection]
