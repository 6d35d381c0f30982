"""How a message leaves: Slack and webhooks by our own HTTP client, the rest by Airflow's notifiers.

Nothing here imports Airflow: whoever sends hands in the function that calls its notifiers
(`kundenkreis.operators.alerts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import httpx

from kundenkreis.alerts.config import (
    Channel,
    EmailChannel,
    NotifierChannel,
    SlackChannel,
    WebhookChannel,
)
from kundenkreis.connections import Connection, Resolver
from kundenkreis.http import VendorClient

_SECONDS = 15.0
_ATTEMPTS = 3
_SLACK_HOST = "https://hooks.slack.com/services"


@dataclass(frozen=True)
class Message:
    """One message about one incident.

    Attributes:
        event: as in alerts.yml; ``test`` for a trial.
        state: opened, changed, reminder or resolved.
        title: one line.
        text: what, why, and the command to run next.
        facts: numbers and names, for machines.
    """

    event: str
    state: str
    title: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)


Notify = Callable[[EmailChannel | NotifierChannel, Message], None]


def send(
    channel: Channel, message: Message, resolve: Resolver, notify: Notify, **options: Any
) -> None:
    """Hand a message over.

    Args:
        resolve: finds the connection that the channel names.
        notify: sends by one of Airflow's notifiers.
        options: passed to the HTTP client.

    Raises:
        CredentialError, VendorError: the channel did not take it. A notifier raises what it likes.
    """
    if isinstance(channel, SlackChannel):
        connection = _slack(resolve(channel.connection))
        _post("Slack", connection, {"text": f"*{message.title}*\n{message.text}"}, **options)
    elif isinstance(channel, WebhookChannel):
        _post("webhook", resolve(channel.connection), asdict(message), **options)
    else:
        notify(channel, message)


def _slack(connection: Connection) -> Connection:
    """Airflow's connection type slackwebhook keeps the end of the address as the password."""
    if connection.scheme != "slackwebhook":
        return connection
    base = connection.host or _SLACK_HOST
    host = base if "://" in base else f"https://{base}"
    url = f"{host.rstrip('/')}/{connection.password.lstrip('/')}"
    return replace(connection, extra={**connection.extra, "base_url": url}, password="", login="")


def _post(system: str, connection: Connection, body: Any, **options: Any) -> None:
    headers, auth = {}, None
    if connection.login:
        auth = httpx.BasicAuth(connection.login, connection.password)
    elif connection.password:
        headers = {"Authorization": f"Bearer {connection.password}"}
    defaults: dict[str, Any] = {"timeout": _SECONDS, "attempts": _ATTEMPTS}
    # The whole address is the connection's, and secret: the path of the call is empty.
    with VendorClient(system, connection, auth=auth, headers=headers, **(defaults | options)) as to:
        to.request("POST", "", json=body)
