"""The config folder: what it may say, and how a mistake in it is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from kundenkreis import settings as module
from kundenkreis.errors import ConfigError
from kundenkreis.settings import ModelSettings, Settings, load_settings, repository_root

Load = Callable[..., Settings]

SEGMENT = """
segments:
  buyers:
    labels: {en: Buyers, de: Käufer}
    description: Bought something.
    where: orders_count > 0
    destinations: [listmonk]
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Write config files and load them; ``sources.yml`` is there unless it is None."""

    def write_and_load(**files: str | bytes | None) -> Settings:
        for name, content in {"sources": "", **files}.items():
            if content is not None:
                raw = content if isinstance(content, bytes) else content.encode()
                (tmp_path / f"{name}.yml").write_bytes(raw)
        return load_settings(tmp_path)

    return write_and_load


def _message(load: Load, **files: str | bytes | None) -> str:
    with pytest.raises(ConfigError) as raised:
        load(**files)
    return str(raised.value)


# What loads


@pytest.mark.parametrize("folder", ["config", "examples/cdnow", "examples/online_retail"])
def test_the_folders_of_the_repository_load(folder: str) -> None:
    settings = load_settings(repository_root() / folder)
    assert settings.sources
    assert settings.segments


def test_the_default_folder_connects_both_sources_and_both_tools() -> None:
    settings = load_settings(repository_root() / "config")
    assert set(settings.sources) == {"woocommerce", "hubspot"}
    assert set(settings.destinations) == {"listmonk", "mailchimp"}


def test_the_default_model_file_says_nothing_but_the_defaults() -> None:
    # Its first lines promise it.
    assert load_settings(repository_root() / "config").model == ModelSettings()


def test_missing_files_mean_their_defaults(load: Load) -> None:
    settings = load()
    assert settings.model == ModelSettings()
    assert (settings.sources, settings.segments, settings.destinations) == ({}, {}, {})
    assert settings.retention.raw_payload_days == 90


def test_a_system_with_nothing_below_it_has_its_defaults(load: Load) -> None:
    settings = load(sources="hubspot:\n", destinations="listmonk:\n")
    assert settings.sources["hubspot"].overlap_hours == 6
    assert settings.destinations["listmonk"].create_contacts is False


def test_the_environment_names_the_folder(
    tmp_path: Path, load: Load, clean_env: pytest.MonkeyPatch
) -> None:
    load(model="reporting_currency: CHF")
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
    assert load_settings().model.reporting_currency == "CHF"
    clean_env.setenv("KUNDENKREIS_CONFIG", "examples/cdnow")
    clean_env.chdir(tmp_path)
    assert module.config_folder() == repository_root() / "examples" / "cdnow"
    clean_env.delenv("KUNDENKREIS_CONFIG")
    assert module.config_folder() == repository_root() / "config"


def test_a_tool_with_nothing_below_it_is_connected(load: Load) -> None:
    settings = load(destinations="listmonk:\n")
    assert settings.destinations["listmonk"].connection == "listmonk"


def test_the_audience_is_named_by_the_label_or_by_its_own_name(load: Load) -> None:
    german = load(model="label_language: de", segments=SEGMENT)
    assert german.audience_name(german.segments["buyers"]) == "Käufer"
    own = load(segments=SEGMENT + "    audience: People who bought\n")
    assert own.audience_name(own.segments["buyers"]) == "People who bought"


def test_a_business_day_ends_at_midnight_of_its_time_zone(load: Load) -> None:
    settings = load(model="business_timezone: Europe/Berlin")
    assert settings.local_date(datetime(2026, 1, 31, 22, 59, tzinfo=UTC)) == date(2026, 1, 31)
    assert settings.local_date(datetime(2026, 1, 31, 23, 0, tzinfo=UTC)) == date(2026, 2, 1)
    assert settings.local_date(datetime(2026, 6, 30, 22, 0, tzinfo=UTC)) == date(2026, 7, 1)


# What dbt is told


def test_the_defaults_equal_the_defaults_of_the_dbt_project(load: Load) -> None:
    project = yaml.safe_load((repository_root() / "dbt_project/dbt_project.yml").read_text())
    # These say what a run computes, not how.
    of_the_run = {
        *("as_of_date", "built_as_of_date", "new_loads", "marts_schema"),
        *("publication_id", "run_id", "released_exchange_rates"),
        *("enabled_sources", "enabled_destinations", "segments"),
    }
    expected = {name: value for name, value in project["vars"].items() if name not in of_the_run}
    told = {name: value for name, value in load().dbt_vars().items() if name not in of_the_run}
    assert told == expected
    assert of_the_run <= set(project["vars"])


def test_dbt_gets_numbers_not_texts(load: Load) -> None:
    values = load(
        model="exchange_rates: {USD: 0.92}\nat_risk_factor: 1.5\nrfm_window_days: 365"
    ).dbt_vars()
    assert values["exchange_rates"] == {"USD": 0.92}
    assert values["at_risk_factor"] == 1.5
    assert values["rfm_window_days"] == 365
    assert values["rfm_fallback_cutoffs"]["monetary"] == [25, 50, 100, 250]
    assert not [name for name, value in values.items() if isinstance(value, Decimal)]


def test_fixed_rfm_cut_points_are_those_of_the_fallback_where_the_team_names_none(
    load: Load,
) -> None:
    assert load().dbt_vars()["rfm_fixed_cutoffs"] == load().dbt_vars()["rfm_fallback_cutoffs"]
    values = load(
        model="rfm_fallback_cutoffs: {monetary: [1, 2, 3, 4]}\n"
        "rfm_fixed_cutoffs: {frequency: [1, 2, 4, 8.5]}"
    ).dbt_vars()
    assert values["rfm_fixed_cutoffs"] == {
        "recency_days": [30, 90, 180, 365],
        "frequency": [1, 2, 4, 8.5],
        "monetary": [1, 2, 3, 4],
    }
    assert values["rfm_fallback_cutoffs"]["frequency"] == [1, 2, 3, 5], "it stays its own"


def test_dbt_gets_the_segments_that_are_on_with_the_tools_that_are_connected(load: Load) -> None:
    segments = (
        SEGMENT.replace("[listmonk]", "[listmonk, mailchimp]")
        + """    holdout_percent: 5
    requires: [birthday]
    min_stay_days: 7
  retired:
    labels: {en: Retired, de: Abgelegt}
    description: Not in use.
    where: "true"
    enabled: false
"""
    )
    settings = load(sources="hubspot: {}\n", destinations="mailchimp:\n", segments=segments)
    values = settings.dbt_vars()
    assert values["enabled_sources"] == ["hubspot"]
    assert values["enabled_destinations"] == ["mailchimp"]
    assert [segment["key"] for segment in values["segments"]] == ["buyers"]
    assert values["segments"][0]["destinations"] == [
        {"destination": "mailchimp", "audience": "Buyers"}
    ]
    assert values["segments"][0]["holdout_percent"] == 5
    assert values["segments"][0]["initial"] == "hold"
    assert values["segments"][0]["requires"] == ["birthday"]
    assert values["segments"][0]["min_stay_days"] == 7
    assert values["segments"][0]["contact"] is False
    assert values["segments"][0]["send_on"] is None


def test_dbt_gets_the_caps_of_contact_pressure(load: Load) -> None:
    settings = load(
        model="contact_pressure: {per_week: 3}\n",
        segments=SEGMENT + "    contact: true\n    priority: 7\n"
        "    send_window: {weekdays: [tue, thu]}\n",
        destinations="listmonk:\n",
    )
    values = settings.dbt_vars()
    assert values["contact_pressure"] == {"at_once": None, "per_week": 3}
    (segment,) = values["segments"]
    assert (segment["contact"], segment["priority"]) == (True, 7)
    assert segment["send_on"] == ["tue", "thu"]
    values = load(model="{}\n").dbt_vars()
    assert values["contact_pressure"] == {"at_once": None, "per_week": None}


def test_no_segment_has_the_key_of_the_global_holdout(load: Load) -> None:
    message = _message(load, segments=SEGMENT.replace("buyers:", "global_holdout:"))
    assert "segments: found" in message
    assert "key 'global_holdout' names the global holdout; use another" in message
    macro = (repository_root() / "dbt_project/macros/holdout.sql").read_text()
    assert f"'{module.GLOBAL_HOLDOUT}'" in macro


def test_dbt_refuses_to_send_what_the_settings_refuse() -> None:
    macro = (repository_root() / "dbt_project/macros/activation.sql").read_text()
    refused = re.search(r"attribute in \[(.*?)\]", macro, re.S)
    assert refused is not None
    assert set(re.findall(r"'(\w+)'", refused[1])) >= module.NEVER_SENT


# What is refused, and how


def test_a_folder_without_sources_says_what_to_set(load: Load, tmp_path: Path) -> None:
    message = _message(load, sources=None, model="")
    assert message.startswith(f"{tmp_path}: there is no sources.yml. KUNDENKREIS_CONFIG must")


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (
            "model",
            "refund_policy: net\nrefund_polcy: gross",
            "2: refund_polcy: unknown key. Allowed here: at_risk_factor, business_timezone,",
        ),
        (
            "model",
            "# rules\n\nrefund_policy: both",
            "3: refund_policy: found 'both': Input should be 'net' or 'gross'.",
        ),
        (
            "model",
            "business_timezone: Europe/Nowhere",
            "1: business_timezone: found 'Europe/Nowhere': is not an IANA time zone",
        ),
        ("model", "business_timezone: Europe", "1: business_timezone: found 'Europe': is not an"),
        ("model", "new_customer_days: 0", "1: new_customer_days: found 0: Input should be"),
        ("model", "new_customer_days: soon", "1: new_customer_days: found 'soon': Input should be"),
        ("model", "exchange_rates:\n  USD: 0", "2: exchange_rates.USD: found 0: Input should be"),
        ("model", "exchange_rates:\n  usd: 1", "2: exchange_rates.usd: found 'usd': String should"),
        (
            "model",
            "max_gap_days: 30\nmin_gap_days: 40",
            "1: max_gap_days: found 30: must not be below min_gap_days, which is 40.",
        ),
        (
            "model",
            "min_gap_days: 200",
            "1: max_gap_days: found 180: must not be below min_gap_days",
        ),
        (
            "model",
            "at_risk_factor: 3\nchurn_factor: 2.5",
            "2: churn_factor: found 2.5: must not be below at_risk_factor, which is 3.",
        ),
        (
            "model",
            "rfm_fallback_cutoffs:\n  recency_days: [1, 2, 3, 4]\n  frequency: [1, 2, 3]",
            "3: rfm_fallback_cutoffs.frequency: found [1, 2, 3]: needs exactly four numbers",
        ),
        (
            "model",
            "rfm_fallback_cutoffs:\n  monetary: [4, 3, 2, 1]",
            "2: rfm_fallback_cutoffs.monetary: found [4, 3, 2, 1]: needs exactly four numbers",
        ),
        (
            "model",
            "rfm_fixed_cutoffs:\n  frequency: [1, 3, 2, 4]",
            "2: rfm_fixed_cutoffs.frequency: found [1, 3, 2, 4]: needs exactly four numbers",
        ),
        (
            "model",
            "rfm_fallback_cutoffs:\n  money: []",
            "2: rfm_fallback_cutoffs.money: unknown key. Allowed here: frequency, monetary,",
        ),
        (
            "destinations",
            "sendgrid: {}",
            "1: sendgrid: unknown key. Allowed here: klaviyo, listmonk, mailchimp.",
        ),
        (
            "sources",
            "hubspot:\n  connektion: crm",
            "2: hubspot.connektion: unknown key. Allowed here: connection,",
        ),
        (
            "model",
            "phone_default_region: UK",
            "1: phone_default_region: found 'UK': is not the ISO 3166 code of a country, such as",
        ),
        ("model", "phone_default_region: de", "1: phone_default_region: found 'de': String should"),
        (
            "sources",
            "hubspot:\n  foreign_ids:\n    shop_id: woocommerce",
            "3: hubspot.foreign_ids.shop_id: found 'woocommerce': String should match pattern",
        ),
        (
            "sources",
            "hubspot:\n  foreign_ids:\n    Shop ID: woocommerce.customer",
            "3: hubspot.foreign_ids.Shop ID: found 'Shop ID': String should match pattern",
        ),
        (
            "sources",
            "hubspot:\n  foreign_ids:\n    shop_id: shopify.customer",
            "3: hubspot.foreign_ids.shop_id: found 'shopify.customer', which is no source. "
            "Allowed: woocommerce.customer.",
        ),
        (
            "sources",
            "files:\n  datasets:\n  - name: till\n    entity: customers\n    path: a.csv\n"
            "    columns:\n      customer_key: id\n      linked_customer_key: shop_id\n"
            "      linked_source: {constant: shop}",
            "9: files.datasets.0.columns.linked_source: found 'shop', which is no source. "
            "Allowed: hubspot, till, woocommerce.",
        ),
        ("retention", "lead_days: 0", "1: lead_days: found 0: Input should be greater than"),
        (
            "model",
            "contact_pressure:\n  at_once: 0",
            "2: contact_pressure.at_once: found 0: Input should be greater than",
        ),
        (
            "model",
            "contact_pressure: {per_day: 1}",
            "1: contact_pressure.per_day: unknown key. Allowed here: at_once, per_week.",
        ),
        (
            "model",
            "holdout_lift_min_customers: 5",
            "1: holdout_lift_min_customers: found 5: Input should be greater than",
        ),
        ("model", "- refund_policy", "1: must hold keys and values, found list."),
        ("model", "refund_policy: [net", "1: not valid YAML: expected"),
        ("model", "a: 1\n\tb: 2", "2: not valid YAML: found character '\\t'"),
        ("model", "a: !!python/name:os.system x", "1: not valid YAML: could not determine"),
        ("model", b"a: 1\nholdout_salt: \xfc", "2: is not UTF-8. Save the file as UTF-8."),
        (
            "model",
            "refund_policy: net\nreporting_currency: EUR\nrefund_policy: gross",
            "3: refund_policy: stands here a second time; it is on line 1 already.",
        ),
    ],
)
def test_a_mistake_is_named_by_file_line_and_key(
    load: Load, tmp_path: Path, file: str, text: str | bytes, expected: str
) -> None:
    assert _message(load, **{file: text}).startswith(f"{tmp_path / file}.yml:{expected}")


def test_a_date_that_does_not_exist_is_one_message(load: Load, tmp_path: Path) -> None:
    message = _message(load, model="holdout_salt: 2026-02-30")
    assert message.startswith(f"{tmp_path / 'model.yml'}: holds a value that cannot be read: day")


def test_every_mistake_of_a_file_is_named_at_once(load: Load) -> None:
    lines = _message(load, model="refund_policy: both\nseed: 7\nrfm_cutoffs: none").splitlines()
    assert [line.split(": ")[1] for line in lines] == ["refund_policy", "rfm_cutoffs", "seed"]


def test_a_value_is_shown_shortened(load: Load) -> None:
    message = _message(load, model=f"refund_policy: {'x' * 500}")
    assert "xxx...: Input should be" in message
    assert len(message) < 300


def _segment(**changes: Any) -> str:
    definition = yaml.safe_load(SEGMENT)["segments"]["buyers"] | changes
    content = {"segments": {"buyers": {k: v for k, v in definition.items() if v is not None}}}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"where": None}, "segments.buyers.where: is required and missing."),
        ({"labels": {"en": "Buyers"}}, "segments.buyers.labels.de: is required and missing."),
        (
            {"where": "true; drop table x"},
            "segments.buyers.where: found 'true; drop table x': must",
        ),
        ({"where": "true -- all"}, "segments.buyers.where: found 'true -- all': must be one SQL"),
        ({"where": "true /* all */"}, "segments.buyers.where: found 'true /* all */': must be one"),
        ({"attributes": ["stage", "birthday"]}, "may not contain birthday: it is never sent."),
        ({"attributes": ["email", "is_contactable"]}, "may not contain email, is_contactable"),
        (
            {"attributes": ["age_years", "next_birthday_on", "days_until_birthday"]},
            "may not contain age_years, days_until_birthday, next_birthday_on",
        ),
        ({"requires": ["birthday", "f(x)"]}, "'f(x)' is no column of customer_360."),
        ({"min_stay_days": -1}, "segments.buyers.min_stay_days: found -1: Input should be"),
        (
            {"send_window": {"weekdays": ["monday"]}},
            "segments.buyers.send_window.weekdays.0: found 'monday': Input should be 'mon', 'tue',",
        ),
        (
            {"send_window": {"weekdays": []}},
            "segments.buyers.send_window.weekdays: found []: List should have at least 1 item",
        ),
        ({"holdout_percent": 60}, "segments.buyers.holdout_percent: found 60: Input should be"),
        ({"initial": "send"}, "segments.buyers.initial: found 'send': Input should be 'allow' or"),
        ({"destination": ["listmonk"]}, "segments.buyers.destination: unknown key. Allowed here:"),
        (
            {"destinations": ["listmonk", "sendgrid"]},
            "segments.buyers.destinations: found 'sendgrid', which is no destination. "
            "Allowed: klaviyo, listmonk, mailchimp.",
        ),
    ],
)
def test_a_mistake_in_a_segment_is_named(
    load: Load, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    message = _message(load, segments=_segment(**changes))
    assert message.startswith(f"{tmp_path / 'segments.yml'}:")
    assert expected in message


def test_an_unknown_destination_is_named_with_its_own_line(load: Load, tmp_path: Path) -> None:
    text = SEGMENT.replace("[listmonk]", "\n      - listmonk\n      - sendgrid")
    assert _message(load, segments=text).startswith(f"{tmp_path / 'segments.yml'}:9: ")


def test_a_segment_key_is_an_identifier(load: Load) -> None:
    assert "key 'best-buyers' must be lower case letters" in _message(
        load, segments=SEGMENT.replace("buyers:", "best-buyers:")
    )


def test_a_segment_that_stands_twice_is_refused(load: Load, tmp_path: Path) -> None:
    message = _message(load, segments=SEGMENT + SEGMENT.replace("\nsegments:\n", ""))
    assert message.startswith(f"{tmp_path / 'segments.yml'}:8: buyers: stands here a second time")


@pytest.mark.parametrize("name", ["labels: {en: Buyers, de: Kunden}", "audience: Buyers"])
def test_two_segments_may_not_share_an_audience_name(load: Load, tmp_path: Path, name: str) -> None:
    other = f"""  others:
    description: Everybody else.
    where: "true"
    {name}
"""
    if name.startswith("audience"):
        other += "    labels: {en: Others, de: Andere}\n"
    message = _message(load, segments=SEGMENT + other)
    assert message.startswith(f"{tmp_path / 'segments.yml'}:8: segments.others: has the same")
    assert "as segment 'buyers': 'Buyers'" in message
