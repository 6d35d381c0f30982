"""Answering a waiting run through Airflow's REST API."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from kundenkreis import airflow_api
from kundenkreis.airflow_api import Question, answer, local_server_file, subject_of
from kundenkreis.errors import CredentialError, KundenkreisError, VendorError

RUN = "scheduled__2026-06-30T22:15:00+00:00"


class Airflow:
    """The three calls of Airflow's API that are used, over a list of questions."""

    def __init__(self, *questions: dict[str, Any]) -> None:
        self.questions = list(questions)
        self.requests: list[httpx.Request] = []
        self.status = 200

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path == "/auth/token":
            assert json.loads(request.content) == {"username": "admin", "password": "secret"}
            return httpx.Response(201, json={"access_token": "t0ken"})
        assert request.headers["authorization"] == "Bearer t0ken"
        if request.method == "PATCH":
            return httpx.Response(self.status, json={})
        assert request.url.path == "/api/v2/dags/customer_lifecycle/dagRuns/~/hitlDetails"
        assert request.url.params["response_received"] == "false"
        assert request.url.params["task_id"] == "approve"
        offset, limit = (int(request.url.params[name]) for name in ("offset", "limit"))
        page = self.questions[offset : offset + limit]
        return httpx.Response(
            200, json={"hitl_details": page, "total_entries": len(self.questions)}
        )


def question(segment: str, map_index: int = 0, state: str = "awaiting_input") -> dict[str, Any]:
    return {
        "subject": subject_of(segment, 7),
        "task_instance": {"dag_run_id": RUN, "map_index": map_index, "state": state},
    }


@pytest.fixture
def connected(clean_env: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    clean_env.setenv("KUNDENKREIS_HOME", str(tmp_path))
    clean_env.setenv("AIRFLOW_CONN_AIRFLOW_API", "http://admin:secret@airflow.example:8080")
    return clean_env


def ask(airflow: Airflow, segment: str = "champions", decision: str = "approve") -> Question | None:
    return answer(segment, 7, decision, "fine", transport=httpx.MockTransport(airflow))


def test_the_question_of_the_segment_and_publication_is_answered(
    connected: pytest.MonkeyPatch,
) -> None:
    airflow = Airflow(question("loyal"), question("champions", 3))

    assert ask(airflow, decision="reject") == Question(RUN, 3)

    given = airflow.requests[-1]
    assert given.method == "PATCH"
    assert given.url.raw_path.decode() == (
        "/api/v2/dags/customer_lifecycle/dagRuns/scheduled__2026-06-30T22%3A15%3A00%2B00%3A00"
        "/taskInstances/approve/3/hitlDetails"
    )
    assert json.loads(given.content) == {
        "chosen_options": ["Reject"],
        "params_input": {"note": "fine"},
    }


def test_the_question_is_looked_for_on_every_page(connected: pytest.MonkeyPatch) -> None:
    others = [question(f"segment_{number}") for number in range(150)]
    assert ask(Airflow(*others, question("champions", 9))) == Question(RUN, 9)


@pytest.mark.parametrize(
    "open_questions",
    [(), (question("loyal"),), (question("champions", state="skipped"),)],
    ids=["none", "another segment", "a run that was ended"],
)
def test_without_a_waiting_question_nothing_is_answered(
    connected: pytest.MonkeyPatch, open_questions: tuple[dict[str, Any], ...]
) -> None:
    airflow = Airflow(*open_questions)
    assert ask(airflow) is None
    assert {request.method for request in airflow.requests} == {"POST", "GET"}


def test_whoever_is_too_late_is_told_so(connected: pytest.MonkeyPatch) -> None:
    airflow = Airflow(question("champions"))
    airflow.status = 409
    with pytest.raises(KundenkreisError, match="Somebody has answered this in Airflow already"):
        ask(airflow)


def test_whoever_may_not_answer_is_told_which_connection_it_is(
    connected: pytest.MonkeyPatch,
) -> None:
    airflow = Airflow(question("champions"))
    airflow.status = 403
    with pytest.raises(CredentialError, match="airflow_api") as refused:
        ask(airflow)
    assert "secret" not in str(refused.value)


def test_an_answer_in_another_form_is_airflows_fault(connected: pytest.MonkeyPatch) -> None:
    def login_page(request: httpx.Request) -> httpx.Response:
        return httpx.Response(201, json={"detail": "?"})

    with pytest.raises(VendorError, match="answered in a form"):
        answer("champions", 7, "approve", "", transport=httpx.MockTransport(login_page))


def test_without_airflow_nobody_is_asked(clean_env: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean_env.setenv("KUNDENKREIS_HOME", str(tmp_path))
    clean_env.delenv("AIRFLOW_CONN_AIRFLOW_API", raising=False)
    airflow = Airflow(question("champions"))
    assert ask(airflow) is None
    assert airflow.requests == []


@pytest.mark.parametrize("runs", [True, False])
def test_the_airflow_of_this_machine_is_found_while_it_runs(
    clean_env: pytest.MonkeyPatch, tmp_path: Path, runs: bool
) -> None:
    clean_env.setenv("KUNDENKREIS_HOME", str(tmp_path))
    clean_env.delenv("AIRFLOW_CONN_AIRFLOW_API", raising=False)
    clean_env.setattr(airflow_api, "_runs", lambda pid: runs and pid == os.getpid())
    local_server_file().parent.mkdir(parents=True)
    local_server_file().write_text(json.dumps({"port": 8123, "pid": os.getpid(), "user": "admin"}))
    passwords = local_server_file().parent / "simple_auth_manager_passwords.json.generated"
    passwords.write_text(json.dumps({"admin": "secret"}))
    airflow = Airflow(question("champions"))
    found = ask(airflow)
    assert (found is not None) is runs
    assert {request.url.port for request in airflow.requests} == ({8123} if runs else set())
