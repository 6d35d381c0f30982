"""The plain functions that destinations share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from kundenkreis.destinations.base import (
    Outcome,
    Row,
    RowLimit,
    create_once,
    deliver_isolating,
    normalise_address,
    one_row_per_address,
    parse_time,
    rejected,
    share_outcomes,
    spellings,
)
from kundenkreis.http import OutcomeUnknown, RefusedRequest


def row(address: str, key: str | None = None) -> Row:
    return Row(key or address, address)


def test_a_refused_batch_is_halved_until_the_bad_rows_stand_alone() -> None:
    sent: list[int] = []

    def send(rows: Sequence[Row]) -> list[Outcome]:
        sent.append(len(rows))
        if any(r.address.startswith("bad") for r in rows):
            raise RefusedRequest("400", httpx.Response(400), "invalid_resource")
        return [Outcome(r.key, "confirmed") for r in rows]

    rows = [row(f"{name}@shop.de") for name in ("a", "b", "bad1", "c", "d", "e", "bad2", "f")]
    outcomes = {outcome.key: outcome for outcome in deliver_isolating(rows, send)}

    assert {key for key, o in outcomes.items() if o.state == "rejected"} == {
        "bad1@shop.de",
        "bad2@shop.de",
    }
    assert outcomes["bad1@shop.de"].reason_code == "invalid_resource"
    assert len(outcomes) == 8
    assert sent[0] == 8
    assert deliver_isolating([], send) == []


def too_large_beyond(most: int, sent: list[int], giants: frozenset[str] = frozenset()) -> Any:
    def send(rows: Sequence[Row]) -> list[Outcome]:
        sent.append(len(rows))
        if len(rows) > most or any(r.address in giants for r in rows):
            raise RefusedRequest("413", httpx.Response(413), None)
        return [Outcome(r.key, "confirmed") for r in rows]

    return send


def test_a_request_that_is_too_large_is_halved_and_the_size_is_remembered() -> None:
    limit, sent = RowLimit(100), list[int]()
    rows = [row(f"p{number}@shop.de") for number in range(100)]
    send = too_large_beyond(30, sent)

    outcomes = deliver_isolating(rows, send, limit)
    again = deliver_isolating(rows, send, limit)

    assert {o.state for o in [*outcomes, *again]} == {"confirmed"}
    assert sent == [100, 50, 25, 25, 50, 25, 25, 25, 25, 25, 25]
    assert limit.rows == 25


def test_one_row_that_is_too_large_for_itself_does_not_make_all_later_calls_small() -> None:
    limit, sent = RowLimit(64), list[int]()
    rows = [row(f"p{number}@shop.de") for number in range(64)]

    outcomes = deliver_isolating(rows, too_large_beyond(64, sent, frozenset({"p7@shop.de"})), limit)

    assert [(o.key, o.reason_code) for o in outcomes if o.state == "rejected"] == [
        ("p7@shop.de", "http_413")
    ]
    assert limit.rows == 32


def test_a_request_refused_for_its_content_leaves_the_size_alone() -> None:
    limit = RowLimit(8)

    def send(rows: Sequence[Row]) -> list[Outcome]:
        if any(r.address.startswith("bad") for r in rows):
            raise RefusedRequest("400", httpx.Response(400), None)
        return [Outcome(r.key, "confirmed") for r in rows]

    deliver_isolating([row("bad@shop.de"), row("a@shop.de")], send, limit)

    assert limit.rows == 8


def test_duplicates_share_the_outcome_of_the_last_row_of_their_address() -> None:
    rows = [row("Anna@Shop.de", "1"), row("bert@shop.de", "2"), row(" anna@shop.de", "3")]

    by_address, keys = one_row_per_address(rows)
    outcomes = share_outcomes(
        [Outcome("3", "confirmed", vendor_id="9"), Outcome("2", "rejected", "no")], keys, by_address
    )

    assert by_address["anna@shop.de"].key == "3"
    assert {(o.key, o.state, o.vendor_id) for o in outcomes} == {
        ("1", "confirmed", "9"),
        ("3", "confirmed", "9"),
        ("2", "rejected", None),
    }


def test_a_refusal_holds_no_address() -> None:
    outcome = rejected("1", "bad value anna@shop.de", "anna@shop.de looks fake")

    assert "anna" not in f"{outcome.reason_code}{outcome.reason}"


def test_creating_looks_before_it_repeats() -> None:
    answers: list[Exception | str] = [OutcomeUnknown("lost"), OutcomeUnknown("lost"), "made"]

    def create() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert create_once(create, lambda: None) == "made"
    answers[:] = [OutcomeUnknown("lost"), "made twice"]
    assert create_once(create, lambda: "found") == "found"
    answers[:] = [OutcomeUnknown("lost")] * 3
    with pytest.raises(OutcomeUnknown):
        create_once(create, lambda: None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-29T01:30:00Z", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("2026-03-29T03:30:00+02:00", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("2026-03-29 01:30:00", None),  # without a zone it is nobody's time
        ("", None),
        (None, None),
        ("yesterday", None),
    ],
)
def test_only_times_with_a_zone_are_times(text: str | None, moment: datetime | None) -> None:
    assert parse_time(text) == moment


@pytest.mark.parametrize(
    ("shown", "compared"),
    [
        (" Anna@Shop.DE\u200b", "anna@shop.de"),
        ("rück@Bücher.example", "rück@xn--bcher-kva.example"),
        ("a@mu\u0308ller.example", "a@xn--mller-kva.example"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("a@straße.example", "a@xn--strae-oqa.example"),
        ("no address", "no address"),
        ("", ""),
    ],
)
def test_addresses_compare_as_the_warehouse_compares_them(shown: str, compared: str) -> None:
    assert normalise_address(shown) == compared


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("Anna@Shop.de", ("anna@shop.de",)),
        ("zoe@bücher.example", ("zoe@xn--bcher-kva.example", "zoe@bücher.example")),
        ("zoe@mail.XN--bcher-kva.example",
         ("zoe@mail.xn--bcher-kva.example", "zoe@mail.bücher.example")),
        ("zoe@xn--99999999999.example", ("zoe@xn--99999999999.example",)),
    ],
)  # fmt: skip
def test_a_tool_may_know_a_domain_in_either_spelling(
    address: str, expected: tuple[str, ...]
) -> None:
    assert spellings(address) == expected
