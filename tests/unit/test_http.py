"""The shared HTTP client: what it repeats, how long it waits, what it says, what it never says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from kundenkreis.connections import Connection
from kundenkreis.errors import CredentialError, VendorError
from kundenkreis.http import (
    OutcomeUnknown,
    RateLimit,
    RefusedRequest,
    VendorClient,
    redact_path,
    retry_after_seconds,
    understood_pages,
)

SHOP = Connection(id="shop", scheme="https", host="shop.example", password="s3cret", path="v1")
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


class Script:
    """Answers requests from a list; an exception in the list is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(answer, json={})


def make_client(script: Callable[[httpx.Request], httpx.Response], **options: Any) -> Any:
    waits: list[float] = []
    client = VendorClient(
        "Shop",
        SHOP,
        transport=httpx.MockTransport(script),
        sleep=waits.append,
        now=lambda: NOW,
        jitter=lambda: 0.0,
        **options,
    )
    return client, waits


def test_repeats_throttled_and_failing_requests_until_they_succeed() -> None:
    script = Script(429, 503, httpx.ReadTimeout("slow"), httpx.Response(200, json=[1]))
    client, waits = make_client(script)
    assert client.get_json("/orders") == [1]
    assert len(script.requests) == 4
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("nan", None),
        (None, None),
    ],
)
def test_reads_both_forms_of_retry_after(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header, NOW) == seconds


def test_waits_as_long_as_the_vendor_asks() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "42"}), 200)
    client, waits = make_client(script)
    client.request("GET", "/orders")
    assert waits == [42.0]


def test_does_not_wait_for_hours() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "7200"}))
    client, waits = make_client(script)
    with pytest.raises(VendorError, match="asks to wait 7200 s"):
        client.request("GET", "/orders")
    assert waits == []


def test_gives_up_after_all_attempts_naming_the_call() -> None:
    script = Script(503)
    client, _ = make_client(script, attempts=3)
    with pytest.raises(VendorError, match=r"Shop: GET /orders answered 503, 3 times in a row"):
        client.request("GET", "/orders", params={"email": "anna@example.org"})
    assert len(script.requests) == 3


def test_an_unreachable_system_is_named() -> None:
    client, _ = make_client(Script(httpx.ConnectError("refused")), attempts=2)
    with pytest.raises(VendorError, match=r"GET /orders cannot be reached .*connection 'shop'"):
        client.request("GET", "/orders")


@pytest.mark.parametrize(
    ("method", "answer", "said"),
    [
        ("PUT", httpx.RemoteProtocolError("cut"), "may have been carried out"),
        ("PUT", 500, "may have been carried out"),
        ("PUT", httpx.ConnectError("refused"), "nothing of it was used"),
        ("PUT", 429, "nothing of it was used"),
        ("GET", httpx.RemoteProtocolError("cut"), "nothing of it was used"),
    ],
)
def test_says_whether_what_failed_may_have_been_carried_out(
    method: str, answer: Any, said: str
) -> None:
    client, _ = make_client(Script(answer), attempts=2)
    with pytest.raises(VendorError, match=said):
        client.request(method, "/members")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_names_the_connection_and_is_not_repeated(status: int) -> None:
    script = Script(status)
    client, _ = make_client(script)
    with pytest.raises(CredentialError, match="connection 'shop'") as caught:
        client.request("GET", "/orders")
    assert len(script.requests) == 1
    assert "s3cret" not in str(caught.value)


def test_a_refused_request_carries_status_and_code_but_not_the_body() -> None:
    body = {"code": "rest_invalid_param", "message": "anna@example.org is invalid"}
    client, _ = make_client(Script(httpx.Response(400, json=body)))
    with pytest.raises(RefusedRequest) as caught:
        client.request("POST", "/customers", json={"email": "anna@example.org"})
    assert caught.value.status == 400
    assert caught.value.code == "rest_invalid_param"
    assert "anna" not in str(caught.value)


def test_a_list_of_errors_tells_the_code_of_its_first() -> None:
    error = {"code": "duplicate_profile", "title": "Conflict.", "detail": "anna@example.org exists"}
    client, _ = make_client(Script(httpx.Response(409, json={"errors": [error]})))
    with pytest.raises(RefusedRequest, match="duplicate_profile") as caught:
        client.request("POST", "/profiles")
    assert caught.value.code == "duplicate_profile"
    assert "anna" not in str(caught.value)
    for body in ({"errors": []}, {"errors": ["broken"]}, {"errors": "broken"}):
        client, _ = make_client(Script(httpx.Response(400, json=body)))
        with pytest.raises(RefusedRequest) as caught:
            client.request("POST", "/profiles")
        assert caught.value.code is None


def test_a_wanted_status_is_returned() -> None:
    client, _ = make_client(Script(404))
    assert client.request("GET", "/orders/1", ok=(200, 404)).status_code == 404


def test_a_page_that_is_not_json_is_reported_with_its_type() -> None:
    page = httpx.Response(200, html="<h1>Maintenance</h1>")
    client, _ = make_client(Script(page))
    with pytest.raises(VendorError, match=r"not JSON \(text/html, 20 bytes\)"):
        client.get_json("/orders")


def test_money_is_read_as_decimal_where_asked() -> None:
    answer = httpx.Response(200, content=b'{"total": 0.1}')
    client, _ = make_client(Script(answer), decimal_numbers=True)
    assert client.get_json("/orders") == {"total": Decimal("0.1")}


@pytest.mark.parametrize("failure", [httpx.ReadTimeout("x"), 500, 502, 504])
def test_a_request_that_may_have_been_taken_is_not_repeated(failure: Any) -> None:
    script = Script(failure)
    client, _ = make_client(script)
    with pytest.raises(OutcomeUnknown, match="is unknown"):
        client.request("POST", "/orders", json={}, idempotent=False)
    assert len(script.requests) == 1


@pytest.mark.parametrize("failure", [httpx.ConnectError("x"), httpx.ConnectTimeout("x"), 429])
def test_a_request_that_was_never_taken_is_repeated(failure: Any) -> None:
    script = Script(failure, 200)
    client, _ = make_client(script)
    client.request("POST", "/orders", json={}, idempotent=False)
    assert len(script.requests) == 2


def test_paces_calls() -> None:
    moments = iter([0.0, 0.1, 10.0])
    client, waits = make_client(
        Script(200), rate_limit=RateLimit(per_second=2), monotonic=lambda: next(moments)
    )
    for _ in range(3):
        client.request("GET", "/orders")
    assert waits == [pytest.approx(0.4)]


def test_waits_for_the_announced_window() -> None:
    used_up = httpx.Response(200, headers={"X-Left": "0", "X-Window-Ms": "9000"})
    limit = RateLimit(
        remaining_header="X-Left", reset_header="X-Window-Ms", reset_unit_seconds=0.001
    )
    client, waits = make_client(Script(used_up, 200), rate_limit=limit, monotonic=lambda: 0.0)
    client.request("GET", "/orders")
    client.request("GET", "/orders")
    assert waits == [9.0]


def test_repeats_a_200_that_says_it_was_throttled() -> None:
    limit = RateLimit(throttled=lambda r: 3.0 if r.json().get("throttled") else None)
    script = Script(httpx.Response(200, json={"throttled": True}), httpx.Response(200, json={}))
    client, waits = make_client(script, rate_limit=limit)
    client.request("GET", "/orders")
    assert waits == [3.0]


def test_a_budget_that_returns_tomorrow_is_not_waited_for() -> None:
    limit = RateLimit(throttled=lambda r: 7200.0)
    client, waits = make_client(Script(200), rate_limit=limit)
    with pytest.raises(VendorError, match=r"Shop: GET /orders .* 7200 s, more than the 300 s"):
        client.request("GET", "/orders")
    assert waits == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda body: body["members"],
        lambda body: body["list"]["id"],
        lambda body: body["text"].get("id"),
        lambda body: int(body["text"]),
    ],
)
def test_an_answer_of_another_shape_is_the_vendors_fault_and_its_values_are_not_told(
    broken: Callable[[Any], Any], caplog: pytest.LogCaptureFixture
) -> None:
    body = {"list": [1], "text": "anna@shop.example"}
    with pytest.raises(VendorError, match="Shop: reading members was answered in") as raised:
        list(understood_pages("Shop", "reading members", (broken(body) for _ in range(1))))
    assert "anna" not in str(raised.value) + caplog.text
    assert raised.value.__cause__ is None


def test_an_error_inside_a_200_names_system_call_connection_and_code() -> None:
    client, _ = make_client(Script(200))
    path = "/lists/0123456789abcdef0123456789abcdef"
    with_code = client.unexpected("POST", path, "'errors'", {"title": "Quota Exceeded"})
    without = client.unexpected("GET", "/lists", "'lists'", ["anna@shop.example"])
    assert str(with_code).startswith(
        "Shop: POST /lists/<hash> answered 200 without 'errors': it holds the error "
        "'Quota Exceeded'. Check the address and the permissions of connection 'shop'"
    )
    assert "anna" not in str(without)


def test_a_bare_403_can_mean_throttling() -> None:
    limit = RateLimit(throttled_statuses=frozenset({403}))
    client, _ = make_client(Script(403, 200), rate_limit=limit)
    assert client.request("GET", "/orders").status_code == 200
    client, _ = make_client(Script(403), rate_limit=limit, attempts=2)
    with pytest.raises(VendorError):
        client.request("GET", "/orders")


def test_paths_in_messages_hold_no_person() -> None:
    assert redact_path("/members/1b2cf535f27731c974343645a3985328?x=1") == "/members/<hash>"
    assert redact_path("/contacts/anna%40example.org/tags") == "/contacts/***@***/tags"


def test_logs_hold_no_query_and_no_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client, _ = make_client(Script(500, 200), auth=httpx.BasicAuth("ck", "s3cret"))
    client.request("GET", "/orders", params={"email": "anna@example.org"})
    assert "Shop: GET /orders answered 500" in caplog.text
    assert "anna" not in caplog.text
    assert "s3cret" not in caplog.text
