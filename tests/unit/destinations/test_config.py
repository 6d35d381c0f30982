"""``destinations.yml`` and what follows from it before the first call."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from kundenkreis.connections import Connection
from kundenkreis.destinations import capabilities_of, open_destination
from kundenkreis.destinations.config import DestinationsConfig, KlaviyoSettings, MailchimpSettings
from kundenkreis.destinations.klaviyo import Klaviyo
from kundenkreis.destinations.mailchimp import Mailchimp
from kundenkreis.errors import CredentialError

KEYED = Connection("mailchimp", "https", "", password="secret-us14")


def test_a_tool_named_without_settings_is_connected_with_its_defaults() -> None:
    config = DestinationsConfig.model_validate({"listmonk": None})

    assert config.mailchimp is None
    assert config.listmonk is not None
    assert config.listmonk.create_contacts is False


@pytest.mark.parametrize(
    "tags", [{"stage": "lower"}, {"stage": "WAYTOOLONGTAG"}, {"a": "SAME", "b": "SAME"}]
)
def test_merge_tags_are_checked(tags: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        MailchimpSettings(merge_tags=tags)


def test_merge_tags_are_short_and_never_shared() -> None:
    tool = Mailchimp(MailchimpSettings(merge_tags={"stage": "PHASE"}), KEYED)
    names = ("stage", "first_name", "monetary", "last_order_date", "last_order_day", "rfm_segment")
    tags = [tool._tags[name] for name in names]

    assert tags[:3] == ["PHASE", "FNAME", "MONETARY"]
    assert len(set(tags)) == len(tags)
    assert max(map(len, tags)) <= 10


def test_the_data_centre_comes_from_the_key() -> None:
    tool = Mailchimp(MailchimpSettings(), KEYED)

    assert tool._client.connection.base_url == "https://us14.api.mailchimp.com"
    with pytest.raises(CredentialError, match="mailchimp"):
        Mailchimp(MailchimpSettings(), Connection("mailchimp", "https", "", password="nokey"))


def test_a_missing_credential_names_the_connection() -> None:
    settings = DestinationsConfig.model_validate({"listmonk": None}).listmonk

    with pytest.raises(CredentialError, match="Connection 'listmonk' has no login"):
        open_destination("listmonk", settings, lambda name: Connection(name, "https", "lists.de"))


@pytest.mark.parametrize("name", DestinationsConfig.model_fields)
def test_capabilities_cover_every_operation(name: str) -> None:
    capabilities = capabilities_of(name)

    for operation in ("upsert", "add", "remove"):
        assert (
            1
            <= capabilities.rows_per_call[operation]
            <= capabilities.batch_size[operation]
            <= (10_000 if capabilities.async_jobs else 500)
        )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ({"stage": "$consent"}, "begin with"),
        ({"stage": " "}, "must not be empty"),
        ({"stage": "x", "monetary": "x"}, "same property"),
    ],
)
def test_klaviyo_properties_are_named_once_and_are_not_its_own(
    names: dict[str, str], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        KlaviyoSettings(property_names=names)


def test_klaviyo_needs_no_host_and_sends_its_key_there_alone() -> None:
    tool = Klaviyo(KlaviyoSettings(), Connection("klaviyo", "https", "", password="pk_secret"))

    assert tool._client.connection.base_url == "https://a.klaviyo.com"
    with pytest.raises(CredentialError, match="Connection 'klaviyo' has no password"):
        Klaviyo(KlaviyoSettings(), Connection("klaviyo", "https", ""))
