"""Systems are reached over real HTTP, at the same time, and none is waited for too long."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from kundenkreis.connections import Connection, connection_from_environment
from kundenkreis.doctor import systems
from kundenkreis.doctor.findings import Finding, Patient
from kundenkreis.doctor.parallel import together
from kundenkreis.settings import load_settings
from tests.http_server import json_answer, serving

SECRET = "s3cret-value"


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
    with serving(json_answer(200, [])) as (port, requests):
        found = examine("woocommerce: {}", woocommerce=_connection(port, login="ck"))
    assert [(finding.level, finding.what) for finding in found] == [("ok", "woocommerce answers")]
    assert {one.method for one in requests} == {"GET"}
    assert all("per_page=1" in one.path for one in requests)


def test_hubspot_is_asked_for_one_record_of_each_kind(
    examine: Callable[..., list[Finding]],
) -> None:
    with serving(json_answer(200, {"results": []})) as (port, requests):
        found = examine("hubspot: {}", hubspot=_connection(port))
    assert [finding.level for finding in found] == ["ok"]
    assert [one.path.rpartition("/2026-03/")[2] for one in requests] == [
        "contacts/search",
        "deals/search",
    ]


def test_a_refused_key_names_its_connection(examine: Callable[..., list[Finding]]) -> None:
    with serving(json_answer(401, {"code": "nope"})) as (port, _):
        found = examine("hubspot: {}", hubspot=_connection(port))
    assert [finding.level for finding in found] == ["error"]
    assert found[0].where == "connection 'hubspot'"
    assert "answered 401" in found[0].what
    assert found[0].fix.startswith("export AIRFLOW_CONN_HUBSPOT=")


def test_a_failing_system_is_asked_once(examine: Callable[..., list[Finding]]) -> None:
    with serving(json_answer(503, {})) as (port, requests):
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
    with serving(json_answer(200, []), timedelta(minutes=10)) as (port, _):
        found = examine("woocommerce: {}", woocommerce=_connection(port, login="ck"))
    assert [(finding.subject, finding.level) for finding in found] == [
        ("source", "ok"),
        ("clock", "error"),
    ]
    assert "behind woocommerce's Date header" in found[1].what


def test_a_tool_is_read_and_not_written(examine: Callable[..., list[Finding]]) -> None:
    page = {"data": {"results": [], "total": 0, "per_page": 1000, "page": 1}}
    with serving(json_answer(200, page)) as (port, requests):
        found = examine("{}", "listmonk: {}", listmonk=_connection(port, login="api"))
    assert [finding.level for finding in found] == ["ok"], found
    assert {one.method for one in requests} == {"GET"}


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
