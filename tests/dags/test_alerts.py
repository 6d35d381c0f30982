"""Alerts through Airflow: its notifiers, its contexts, and a warehouse that is gone."""

from __future__ import annotations

import email
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.message import Message as Mail
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from airflow.sdk import BaseNotifier, DeadlineReference

from kundenkreis.alerts.channels import Message
from kundenkreis.alerts.config import EmailChannel, NotifierChannel
from kundenkreis.errors import ConfigError
from kundenkreis.operators import alerts
from kundenkreis.settings import load_settings
from tests.http_server import Asked, json_answer, serving

MESSAGE = Message("failed_task", "opened", "extract <b> failed", "Why {{ this }}.\n\nNext: that")


# A mail server that takes everything


class _Smtp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            verb = line.split(b" ")[0].strip().upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                self.server.mails.append(email.message_from_bytes(b"".join(lines)))  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
            if verb == b"QUIT":
                return


@contextmanager
def mail_server() -> Iterator[tuple[int, list[Mail]]]:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Smtp)
    server.mails = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], server.mails  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def test_email_leaves_through_airflows_notifier(clean_env: pytest.MonkeyPatch) -> None:
    channel = EmailChannel(kind="email", to=["ops@shop.example"], from_email="night@shop.example")
    with mail_server() as (port, mails):
        clean_env.setenv(
            "AIRFLOW_CONN_SMTP_DEFAULT",
            f"smtp://127.0.0.1:{port}?disable_ssl=true&disable_tls=true",
        )
        alerts.send(channel, MESSAGE)
    assert len(mails) == 1
    assert (mails[0]["To"], mails[0]["From"]) == ("ops@shop.example", "night@shop.example")
    assert mails[0]["Subject"] == "Kundenkreis: extract <b> failed"
    body = next(part for part in mails[0].walk() if part.get_content_type() == "text/html")
    text = body.get_payload(decode=True).decode()  # type: ignore[union-attr]
    # Neither a template nor HTML.
    assert "Why {{ this }}.\n\nNext: that" in text.replace("\r\n", "\n")


class Recording(BaseNotifier):
    """A notifier of somebody else's."""

    told: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def notify(self, context: Any) -> None:
        self.told.append(self.arguments)


def _channel(name: str, **arguments: Any) -> NotifierChannel:
    return NotifierChannel(kind="notifier", notifier=name, arguments=arguments)


def test_any_notifier_of_airflow_can_be_a_channel() -> None:
    Recording.told.clear()
    channel = _channel(
        f"{__name__}.Recording", body="{title}: {text}", tags=["{event}", 3], extra={"s": "{state}"}
    )
    alerts.send(channel, MESSAGE)
    assert Recording.told == [
        {
            "body": "extract <b> failed: Why {{ this }}.\n\nNext: that",
            "tags": ["failed_task", 3],
            "extra": {"s": "opened"},
        }
    ]


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (_channel("airflow.providers.nobody.Notifier"), "is not installed"),
        (_channel("airflow.sdk.NobodyNotifier"), "is not installed"),
        (
            _channel("airflow.providers.smtp.notifications.smtp.SmtpNotifier", wrong=1),
            "takes other arguments",
        ),
    ],
)
def test_a_notifier_that_cannot_be_made_is_named(channel: NotifierChannel, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        alerts.send(channel, MESSAGE)
    assert channel.notifier in str(raised.value)


# What Airflow says of a run


def _run(**more: Any) -> dict[str, Any]:
    return {
        "run_id": "scheduled__1",
        "run_type": "scheduled",
        "logical_date": datetime(2026, 6, 30, 22, 15, tzinfo=UTC),
        "run_after": datetime(2026, 6, 30, 22, 15, tzinfo=UTC),
        "start_date": datetime(2026, 7, 2, tzinfo=UTC),
        "clear_number": 0,
        "conf": {},
        **more,
    }


def _state(context: dict[str, Any], state: Any = "failed") -> Any:
    return alerts._run_state(context, state, load_settings())


def test_a_callbacks_context_says_which_night_it_is() -> None:
    context = {
        "dag_run": SimpleNamespace(**_run()),
        "params": {"as_of": None},
        "reason": "task_failure",
        "ti": SimpleNamespace(task_id="transform"),
    }
    run = _state(context)
    assert (run.run_id, str(run.as_of_date)) == ("scheduled__1", "2026-06-30")
    assert run.started_at == datetime(2026, 6, 30, 22, 15, tzinfo=UTC)
    assert (run.last_task, run.reason, run.is_backfill) == ("transform", "task_failure", False)
    context["params"] = {"as_of": "2026-01-31"}
    assert str(_state(context).as_of_date) == "2026-01-31"


def test_a_deadlines_context_is_json() -> None:
    found = {key: str(value) for key, value in _run().items()} | {"conf": {}, "clear_number": 0}
    found["dag_run_id"] = found.pop("run_id")
    run = _state({"dag_run": found, "deadline": {}}, "running")
    assert (run.run_id, str(run.as_of_date), run.state) == ("scheduled__1", "2026-06-30", "running")


def test_a_run_that_is_cleared_later_began_when_it_was_cleared() -> None:
    run = _state({"dag_run": _run(clear_number=1)})
    assert run.started_at == datetime(2026, 7, 2, tzinfo=UTC)


def test_a_context_of_nothing_but_a_run_id_will_do() -> None:
    run = _state({"run_id": "manual__1", "reason": "timed_out"})
    assert (run.run_id, run.started_at) == ("manual__1", None)


def test_backfills_are_known() -> None:
    assert _state({"dag_run": _run(run_type="backfill")}).is_backfill


# The deadline


def test_the_deadline_is_that_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "sources.yml").write_text("{}")
    assert alerts.night_deadline(load_settings(tmp_path)) is None
    (tmp_path / "alerts.yml").write_text("deadline_minutes: 90")
    deadline = alerts.night_deadline(load_settings(tmp_path))
    assert deadline is not None
    assert deadline.reference == DeadlineReference.DAGRUN_QUEUED_AT
    assert deadline.interval.total_seconds() == 90 * 60
    # Airflow imports it by this path, elsewhere and later.
    assert deadline.callback.path == "kundenkreis.operators.alerts.tell_late"


def test_the_scheduler_can_keep_the_deadline(tmp_path: Path) -> None:
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    (tmp_path / "sources.yml").write_text("{}")
    (tmp_path / "alerts.yml").write_text("deadline_minutes: 90")
    deadline = alerts.night_deadline(load_settings(tmp_path))
    with DAG("night", schedule=None, deadline=deadline) as dag:
        pass
    kept = str(DagSerialization.to_dict(dag)["dag"]["deadline"])
    assert "kundenkreis.operators.alerts.tell_late" in kept
    assert "5400" in kept


# A warehouse that is gone


@pytest.fixture
def gone(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> Iterator[list[Asked]]:
    """A warehouse that does not answer, and what the one channel that works is told."""
    (tmp_path / "sources.yml").write_text("{}")
    (tmp_path / "alerts.yml").write_text(
        "channels: {ops: {kind: webhook}, other: {kind: webhook, connection: nowhere}}\n"
        "events: {failed_task: [other, ops], held_segment: [other]}\n"
    )
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://loader:s3cret@127.0.0.1:1/warehouse")
    with serving(json_answer(200, {})) as (port, asked):
        clean_env.setenv("AIRFLOW_CONN_ALERTS_WEBHOOK", f"http://127.0.0.1:{port}/hook")
        yield asked


def test_a_warehouse_that_is_gone_is_told_directly(gone: list[Asked]) -> None:
    # As `dag.test()` hands it over: a DAG that has no templates.
    context = {"dag": object(), "dag_run": SimpleNamespace(**_run()), "reason": "task_failure"}
    alerts.NightNotifier()(context)
    assert [one.json["title"] for one in gone] == [
        "The night of 2026-06-30 cannot reach the warehouse"
    ]
    assert "s3cret" not in gone[0].body.decode()
    assert "kundenkreis doctor" in gone[0].json["text"]


def test_airflow_can_call_the_deadlines_callback(gone: list[Asked]) -> None:
    """By Airflow's own function, from the path and the context that its scheduler keeps."""
    import structlog
    from airflow.sdk.execution_time.callback_supervisor import execute_callback

    run = {key: str(value) for key, value in _run(clear_number=0).items()} | {"conf": {}}
    context = {"dag_run": run, "deadline": {"id": "1", "deadline_time": "2026-07-01"}}
    path = "kundenkreis.operators.alerts.tell_late"
    done = execute_callback(path, {"context": context}, "", None, structlog.get_logger())
    assert done == (True, None)
    assert len(gone) == 1


def test_a_broken_config_never_breaks_the_run(
    tmp_path: Path, clean_env: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sources.yml").write_text("{}")
    (tmp_path / "alerts.yml").write_text("channels: {ops: {kind: fax}}")
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
    alerts.tell({"run_id": "x"}, "failed")
    assert "Alerts could not be looked at: ConfigError" in caplog.text
