"""Channels: what leaves, to where, and what a failure says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kundenkreis.alerts import channels
from kundenkreis.alerts.channels import Message
from kundenkreis.alerts.config import (
    AlertsConfig,
    EmailChannel,
    NotifierChannel,
    SlackChannel,
    WebhookChannel,
)
from kundenkreis.connections import Connection, parse_connection
from kundenkreis.errors import ConfigError, KundenkreisError
from kundenkreis.settings import load_settings
from tests.http_server import json_answer, serving

SECRET = "T00000000/B00000000/s3cret"
MESSAGE = Message(
    "failed_gate", "opened", "gate_marts stopped the night", "Why.\n\nNext: this", {"gate": "marts"}
)


def _nobody(channel: EmailChannel | NotifierChannel, message: Message) -> None:
    raise AssertionError(f"{channel.kind} was not to be asked")


def _resolving(text: str) -> Callable[[str], Connection]:
    return lambda name: parse_connection(name, text)


@pytest.mark.parametrize(
    "connection",
    [
        {"conn_type": "http", "host": "127.0.0.1", "schema": f"services/{SECRET}"},
        # As Airflow's Slack provider keeps it.
        {
            "conn_type": "slackwebhook",
            "host": "http://127.0.0.1:{port}/services/",
            "password": SECRET,
        },
    ],
)
def test_slack_gets_a_text(connection: dict[str, str]) -> None:
    with serving(json_answer(200, "ok")) as (port, asked):
        filled = {key: value.replace("{port}", str(port)) for key, value in connection.items()}
        if connection["conn_type"] == "http":
            filled["port"] = str(port)
        resolve = _resolving(json.dumps(filled))
        channels.send(SlackChannel(kind="slack"), MESSAGE, resolve, _nobody)
    assert [(one.method, one.path) for one in asked] == [("POST", f"/services/{SECRET}")]
    assert asked[0].json == {"text": "*gate_marts stopped the night*\nWhy.\n\nNext: this"}
    assert "Authorization" not in asked[0].headers


def test_a_webhook_gets_everything_with_its_token() -> None:
    with serving(json_answer(202, {})) as (port, asked):
        resolve = _resolving(f"http://:tok3n@127.0.0.1:{port}/hooks/night")
        channels.send(WebhookChannel(kind="webhook"), MESSAGE, resolve, _nobody)
    assert asked[0].path == "/hooks/night"
    assert asked[0].headers["Authorization"] == "Bearer tok3n"
    assert asked[0].json == {
        "event": "failed_gate",
        "state": "opened",
        "title": "gate_marts stopped the night",
        "text": "Why.\n\nNext: this",
        "facts": {"gate": "marts"},
    }


@pytest.mark.parametrize("status", [404, 410, 403, 500])
def test_a_channel_that_refuses_is_one_error_without_its_address(status: int) -> None:
    with serving(json_answer(status, {"error": SECRET})) as (port, _):
        resolve = _resolving(f"http://127.0.0.1:{port}/services/{SECRET}")
        with pytest.raises(KundenkreisError, match=str(status)) as raised:
            channels.send(
                SlackChannel(kind="slack"), MESSAGE, resolve, _nobody, sleep=lambda _: None
            )
    assert "s3cret" not in str(raised.value)


def test_email_and_notifiers_are_airflows() -> None:
    asked: list[tuple[str, Message]] = []

    def notify(channel: EmailChannel | NotifierChannel, message: Message) -> None:
        asked.append((channel.kind, message))

    def nowhere(name: str) -> Connection:
        raise AssertionError(f"{name} is for the notifier to find")

    channels.send(EmailChannel(kind="email", to=["ops@shop.example"]), MESSAGE, nowhere, notify)
    notifier = NotifierChannel(kind="notifier", notifier="a.B")
    channels.send(notifier, MESSAGE, nowhere, notify)
    assert asked == [("email", MESSAGE), ("notifier", MESSAGE)]


# alerts.yml


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("channels: {Ops: {kind: slack}}", ["channels: found"]),
        ("channels: {ops: {kind: fax}}", ["'email', 'slack', 'webhook', 'notifier'"]),
        ("channels:\n  ops:\n    kind: email\n", ["alerts.yml:2: channels.ops.to: is required"]),
        (
            "channels:\n  ops:\n    kind: slack\n    url: https://x\n",
            ["alerts.yml:4: channels.ops.url: unknown key. Allowed here: connection, kind."],
        ),
        ("events: {failed_task: [ops]}", ["events.failed_task: 'ops' is no channel"]),
        ("events: {failed_tsk: []}", ["'failed_task', 'failed_gate'"]),
        ("deadline_minutes: 0", ["alerts.yml:1: deadline_minutes: found 0"]),
    ],
)
def test_a_mistake_in_alerts_is_named(tmp_path: Path, text: str, lines: list[str]) -> None:
    (tmp_path / "sources.yml").write_text("{}")
    (tmp_path / "alerts.yml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_settings(tmp_path)
    for line in lines:
        assert line in str(raised.value)


def test_a_channel_that_is_named_twice_hears_once() -> None:
    config = AlertsConfig.model_validate(
        {
            "channels": {"a": {"kind": "slack"}, "b": {"kind": "slack"}},
            "events": {"failed_task": ["b", "a", "b"]},
        }
    )
    assert config.channels_of("failed_task") == ["b", "a"]
    assert config.channels_of("held_segment") == []
