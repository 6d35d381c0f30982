"""Systems are reached over real HTTP, at the same time, and none is waited for too long."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kundenkreis.connections import Connection, connection_from_environment
from kundenkreis.doctor import systems
from kundenkreis.doctor.findings import Finding, Patient
from kundenkreis.doctor.parallel import together
from kundenkreis.settings import load_settings

SECRET = "s3cret-value"
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """A server on a port of its own, with the requests it got."""
    requests: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            requests.append((self.command, self.path))
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            answer(self)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + self.server.ahead, usegmt=True)  # type: ignore[attr-defined]

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.ahead = getattr(answer, "ahead", timedelta())  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], requests
    finally:
        server.shutdown()
        server.server_close()


def _json(status: int, body: Any, ahead: timedelta = timedelta()) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-type", "application/json")
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    answer.ahead = ahead  # type: ignore[attr-defined]
    return answer


@pytest.fixture
def examine(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    """Checks the systems of a config folder."""

    def check(sources: str, destinations: str = "{}", **connections: str) -> list[Finding]:
        (tmp_path / "sources.yml").write_text(sources)
        (tmp_path / "destinations.yml").write_text(destinations)
        for name, text in connections.items():
            clean_env.setenv(f"AIRFLOW_CONN_{name.upper()}", text)
        patient = Patient(load_settings(tmp_path), None, connection_from_environment, {})
        found = list(systems.check(patient))
        assert SECRET not in str(found)
        return found

    return check


def _connection(port: int, **more: str) -> str:
    return json.dumps(
        {"conn_type": "http", "host": "127.0.0.1", "port": port, "password": SECRET, **more}
    )


def test_a_source_that_answers_is_only_read(examine: Callable[..., list[Finding]]) -> None:
    with serving(_json(200, [])) as (port, requests):
        found = examine("woocommerce: {}", woocommerce=_connection(port, login="ck"))
    assert [(finding.level, finding.what) for finding in found] == [("ok", "woocommerce answers")]
    assert {method for method, _ in requests} == {"GET"}
    assert all("per_page=1" in path for _, path in requests)


def test_hubspot_is_asked_for_one_record_of_each_kind(
    examine: Callable[..., list[Finding]],
) -> None:
    with serving(_json(200, {"results": []})) as (port, requests):
        found = examine("hubspot: {}", hubspot=_connection(port))
    assert [finding.level for finding in found] == ["ok"]
    assert [path.rpartition("/2026-03/")[2] for _, path in requests] == [
        "contacts/search",
        "deals/search",
    ]


def test_a_refused_key_names_its_connection(examine: Callable[..., list[Finding]]) -> None:
    with serving(_json(401, {"code": "nope"})) as (port, _):
        found = examine("hubspot: {}", hubspot=_connection(port))
    assert [finding.level for finding in found] == ["error"]
    assert found[0].where == "connection 'hubspot'"
    assert "answered 401" in found[0].what
    assert found[0].fix.startswith("export AIRFLOW_CONN_HUBSPOT=")


def test_a_failing_system_is_asked_once(examine: Callable[..., list[Finding]]) -> None:
    with serving(_json(503, {})) as (port, requests):
        found = examine("hubspot: {}", hubspot=_connection(port))
    assert [finding.level for finding in found] == ["error"]
    assert len(requests) == 1


def test_a_connection_that_nobody_set_is_an_error(examine: Callable[..., list[Finding]]) -> None:
    found = examine("hubspot: {}", "listmonk: {}")
    assert [(finding.subject, finding.level) for finding in found] == [
        ("source", "error"),
        ("destination", "error"),
    ]


def test_files_that_are_not_there_are_named(examine: Callable[..., list[Finding]]) -> None:
    columns = "{order_key: A, ordered_at: B, total_amount: C, status: S, currency: D}"
    dataset = f"{{name: till, entity: orders, path: till.csv, columns: {columns}}}"
    found = examine(f"files: {{datasets: [{dataset}]}}")
    assert [finding.level for finding in found] == ["error"]
    assert "dataset till: path: there is no file till.csv" in found[0].what


def test_a_system_that_hangs_is_not_waited_for(
    examine: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "ALL_SECONDS", 0.3)
    freed = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        freed.wait(20)

    with serving(hang) as (port, _):
        try:
            found = examine("hubspot: {}", hubspot=_connection(port))
        finally:
            freed.set()
    assert [finding.level for finding in found] == ["error"]
    assert "did not answer within" in found[0].what


def test_a_clock_that_goes_wrong_shows_in_the_answers(
    examine: Callable[..., list[Finding]],
) -> None:
    with serving(_json(200, [], ahead=timedelta(minutes=10))) as (port, _):
        found = examine("woocommerce: {}", woocommerce=_connection(port, login="ck"))
    assert [(finding.subject, finding.level) for finding in found] == [
        ("source", "ok"),
        ("clock", "error"),
    ]
    assert "behind woocommerce's Date header" in found[1].what


def test_a_tool_is_read_and_not_written(examine: Callable[..., list[Finding]]) -> None:
    page = {"data": {"results": [], "total": 0, "per_page": 1000, "page": 1}}
    with serving(_json(200, page)) as (port, requests):
        found = examine("{}", "listmonk: {}", listmonk=_connection(port, login="api"))
    assert [finding.level for finding in found] == ["ok"], found
    assert {method for method, _ in requests} == {"GET"}


def test_a_bug_in_a_check_is_a_finding_without_values() -> None:
    from kundenkreis.doctor import examination

    def broken(patient: Patient) -> list[Finding]:
        raise KeyError("anna@example.com")

    found = _collected(examination, broken)
    assert [finding.level for finding in found] == ["error"]
    assert "KeyError" in found[0].what
    assert "anna" not in found[0].what


def _collected(examination: Any, check: Any) -> list[Finding]:
    def nowhere(name: str) -> Connection:
        raise AssertionError(name)

    patient = Patient(None, None, nowhere, {})
    done = together({"a check": lambda: examination._findings(check, patient)}, 10)
    return list(examination._collected("a check", done["a check"]))
