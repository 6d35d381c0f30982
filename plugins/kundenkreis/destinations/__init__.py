"""The email tools that audiences are delivered to: one module per tool behind `base`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kundenkreis.destinations.config import KlaviyoSettings, ListmonkSettings, MailchimpSettings

if TYPE_CHECKING:
    from kundenkreis.connections import Resolver
    from kundenkreis.destinations.base import Capabilities, Destination


def open_destination(name: str, settings: Any, resolve: Resolver, **options: Any) -> Destination:
    """Connect to a tool.

    Args:
        name: its key in ``destinations.yml``, for messages.
        settings: its settings from there.
        resolve: gives the connection that the settings name.
        options: passed to the HTTP client (tests replace its transport and clock).

    Raises:
        CredentialError: the connection is missing or incomplete.
    """
    connection = resolve(settings.connection)
    if isinstance(settings, ListmonkSettings):
        from kundenkreis.destinations.listmonk import Listmonk

        return Listmonk(settings, connection, **options)
    if isinstance(settings, MailchimpSettings):
        from kundenkreis.destinations.mailchimp import Mailchimp

        return Mailchimp(settings, connection, **options)
    if isinstance(settings, KlaviyoSettings):
        from kundenkreis.destinations.klaviyo import Klaviyo

        return Klaviyo(settings, connection, **options)
    raise TypeError(f"destination '{name}' has settings of an unknown kind")


def capabilities_of(name: str) -> Capabilities:
    """What a tool can do, without connecting to it."""
    from kundenkreis.destinations import klaviyo, listmonk, mailchimp

    return {
        "listmonk": listmonk.CAPABILITIES,
        "mailchimp": mailchimp.CAPABILITIES,
        "klaviyo": klaviyo.CAPABILITIES,
    }[name]
