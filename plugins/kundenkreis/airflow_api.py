"""Answers a question that the nightly DAG waits with, through Airflow's REST API.

Calls, in order: ``POST /auth/token`` (login and password against a token),
``GET /api/v2/dags/{dag}/dagRuns/~/hitlDetails`` (the open questions),
``PATCH /api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/{map index}/hitlDetails`` (the
answer). Airflow 3.3, https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html.

The address and login are the connection ``airflow_api``; without one, the Airflow that `make up`
runs on this machine is used while it runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from kundenkreis.connections import Connection, connection_from_environment, environment_name
from kundenkreis.errors import KundenkreisError
from kundenkreis.http import RefusedRequest, VendorClient, understood
from kundenkreis.settings import home

CONNECTION_ID = "airflow_api"
DAG_ID = "customer_lifecycle"
TASK_ID = "approve"
OPTIONS = {"approve": "Approve", "reject": "Reject"}
_PAGE = 100


@dataclass(frozen=True)
class Question:
    """A task of a run that waits for somebody's answer."""

    run_id: str
    map_index: int


def subject_of(segment: str, publication_id: int) -> str:
    """What a question is called; by it the command line finds the one it answers."""
    return f"Send segment '{segment}' of publication {publication_id}?"


def answer(
    segment: str,
    publication_id: int,
    decision: str,
    note: str,
    *,
    transport: httpx.BaseTransport | None = None,
) -> Question | None:
    """Answer the question about a segment, where a run of the DAG waits with it.

    Returns:
        The question that was answered; None where Airflow is not connected, or no run asks.

    Raises:
        VendorError: Airflow is connected, but does not answer.
        CredentialError: it refuses the login, or the login may not answer.
    """
    connection = _connection()
    if connection is None:
        return None
    with _client(connection, transport) as client:
        question = _find(client, subject_of(segment, publication_id))
        if question is not None:
            _respond(client, question, decision, note)
        return question


def local_server_file() -> Path:
    """Where `make up` says on which port it runs."""
    return home() / "airflow" / "server.json"


def _connection() -> Connection | None:
    if os.environ.get(environment_name(CONNECTION_ID)):
        connection = connection_from_environment(CONNECTION_ID)
        connection.require("host", "login", "password")
        return connection
    file = local_server_file()
    if not file.exists():
        return None
    server = json.loads(file.read_text())
    if not _runs(int(server["pid"])):  # it was killed and could not clear up
        return None
    passwords = home() / "airflow" / "simple_auth_manager_passwords.json.generated"
    password = json.loads(passwords.read_text())[server["user"]] if passwords.exists() else ""
    return Connection(
        CONNECTION_ID, "http", "127.0.0.1", int(server["port"]), server["user"], password
    )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _client(connection: Connection, transport: httpx.BaseTransport | None) -> VendorClient:
    """A client that is logged in."""
    with (
        VendorClient("Airflow", connection, attempts=3, transport=transport) as login,
        understood("Airflow", "POST /auth/token"),
    ):
        token = login.post_json(
            "/auth/token",
            json={"username": connection.login, "password": connection.password},
        )["access_token"]
    return VendorClient(
        "Airflow",
        connection,
        headers={"Authorization": f"Bearer {token}"},
        attempts=3,
        transport=transport,
    )


def _find(client: VendorClient, subject: str) -> Question | None:
    """The newest open question with this subject."""
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/~/hitlDetails"
    found: list[dict[str, Any]] = []
    offset = 0
    while True:
        wanted = {
            "task_id": TASK_ID,
            "response_received": "false",
            "order_by": "-created_at",
            "limit": _PAGE,
            "offset": offset,
        }
        with understood("Airflow", f"GET {path}"):
            page = client.get_json(path, params=wanted)
            found += [
                entry["task_instance"]
                for entry in page["hitl_details"]
                if entry["subject"] == subject
                # A run that was ended from outside leaves its questions open.
                and entry["task_instance"]["state"] in ("awaiting_input", "deferred")
            ]
            offset += _PAGE
            if found or offset >= page["total_entries"]:
                break
    if not found:
        return None
    with understood("Airflow", f"GET {path}"):
        return Question(found[0]["dag_run_id"], int(found[0]["map_index"]))


def _respond(client: VendorClient, question: Question, decision: str, note: str) -> None:
    """Give the answer.

    Raises:
        KundenkreisError: somebody else was faster.
    """
    path = (
        f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(question.run_id, safe='')}/taskInstances/{TASK_ID}"
        f"/{question.map_index}/hitlDetails"
    )
    body = {"chosen_options": [OPTIONS[decision]], "params_input": {"note": note}}
    try:
        client.request("PATCH", path, json=body, idempotent=False)
    except RefusedRequest as refused:
        if refused.status == httpx.codes.CONFLICT:
            raise KundenkreisError(
                "Somebody has answered this in Airflow already; `kundenkreis status` shows who."
            ) from None
        raise
