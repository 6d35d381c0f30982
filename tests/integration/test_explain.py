"""Explaining a customer, and segments as the file says now, over hand-made marts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from kundenkreis import cli_support, segments_preview
from kundenkreis.errors import ConfigError, KundenkreisError, WarehouseError
from kundenkreis.explain import explain
from kundenkreis.settings import Settings, load_settings
from kundenkreis.warehouse import READER, publish, roles
from tests.command_line import Call, entry_point

pytestmark = pytest.mark.integration

DAY = date(2026, 6, 30)

# Ada bought twice and is a champion; Bo withdrew; Cy is held out; Di is kept by min_stay_days.
MARTS = """
create table {marts}.customers as select * from (values
    ('ada', 'ada@mail.example', 'Ada', 'Lovelace', date '2026-01-01', 'ads', 'en', false, false),
    ('bo', 'bo@mail.example', 'Bo', null, date '2026-01-02', null, null, false, false),
    ('cy', 'cy@mail.example', null, null, date '2026-01-03', null, null, false, false),
    ('di', 'di@mail.example', null, null, date '2026-01-03', null, null, false, false),
    ('kid', null, null, null, date '2026-01-03', null, null, false, true)
) as v (customer_id, email, first_name, last_name, first_seen_on, acquisition_source,
    preferred_language, has_profiling_objection, is_minor);
create table {marts}.customer_360 as select
    customer_id, email, has_profiling_objection, is_minor, date '2026-06-30' as as_of_date,
    case customer_id when 'ada' then 'retention' else 'development' end as stage,
    date '2026-06-01' as stage_since, 'at_risk'::text as next_stage,
    date '2026-08-01' as next_stage_date,
    case customer_id when 'di' then 1 else 4 end as orders_count,
    'champions'::text as rfm_segment, customer_id <> 'bo' as is_contactable,
    case when customer_id = 'bo' then 'withdrawn' end as not_contactable_because,
    null::date as last_delivered_on
from {marts}.customers;
create table {marts}.customer_source_ids as select * from (values
    ('ada', 'woocommerce', 'customer', '17'), ('ada', 'hubspot', 'contact', '900'),
    ('bo', 'hubspot', 'contact', '17')
) as v (customer_id, source, source_record_type, source_id);
create table {marts}.lifecycle_intervals as select * from (values
    ('ada', 'acquisition', date '2026-01-01', date '2026-02-01', 'opt_in'),
    ('ada', 'conversion', date '2026-02-01', date '2026-03-03', 'first_order'),
    ('ada', 'development', date '2026-03-03', date '2026-04-10', 'entry_stage_ended'),
    ('ada', 'at_risk', date '2026-04-10', date '2026-06-01', 'no_order_since'),
    ('ada', 'retention', date '2026-06-01', null, 'order')
) as v (customer_id, stage, valid_from, valid_to, entered_because);
create table {marts}.orders as select * from (values
    ('woocommerce', 'A1', 'ada', date '2026-02-01', timestamptz '2026-02-01 10:00+01', true, null),
    ('woocommerce', 'A2', 'ada', date '2026-06-01', timestamptz '2026-06-01 10:00+02', true, null)
) as v (source, order_id, customer_id, order_date, ordered_at, is_counted, not_counted_because);
create table {marts}.segment_members as select * from (values
    ('loyal', 'ada', date '2026-05-01', false, true, null),
    ('loyal', 'bo', date '2026-05-01', false, false, 'withdrawn'),
    ('loyal', 'cy', date '2026-05-01', true, true, null),
    ('loyal', 'di', date '2026-06-28', false, true, null)
) as v (segment, customer_id, member_since, is_holdout, is_contactable, not_contactable_because);
create table {marts}.contactability as select * from (values
    ('ada', 'email', 'ada@mail.example', true, 'consent_double', 'double',
        timestamptz '2026-01-01 09:00+01', true),
    ('bo', 'email', 'bo@mail.example', false, 'withdrawn', 'withdrawn',
        timestamptz '2026-06-10 09:00+02', false),
    ('cy', 'email', 'cy@mail.example', true, 'consent_double', 'double', null, true),
    ('di', 'email', 'di@mail.example', true, 'consent_double', 'double', null, true)
) as v (customer_id, channel, address, is_contactable, reason, evidence, evidence_at, is_preferred);
create schema {intermediate};
create table {intermediate}.int_consent_events as select * from (values
    ('mailchimp', 'ada@mail.example', 'email', 'double', timestamptz '2026-01-01 09:00+01', null),
    ('hubspot', 'bo@mail.example', 'email', 'single', null, 'Yes, please'),
    ('listmonk', 'bo@mail.example', 'email', 'withdrawn', timestamptz '2026-06-10 09:00+02', null)
) as v (source, address, channel, evidence, occurred_at, wording);
comment on column {marts}.customers.email is 'Personal data.';
comment on column {marts}.customers.first_name is 'Personal data.';
comment on column {marts}.customers.last_name is 'Personal data.';
comment on column {marts}.customer_360.email is 'Personal data.';
comment on column {marts}.contactability.address is 'Personal data.'
"""

ACTIVATION = """
insert into history.segment_membership_changes (as_of_date, segment, customer_id, change) values
    ('2026-05-01', 'loyal', 'ada', 'entered'), ('2026-06-28', 'loyal', 'di', 'entered'),
    ('2026-03-01', 'welcome', 'ada', 'entered'), ('2026-04-01', 'welcome', 'ada', 'left');
insert into history.identity_changes (
    as_of_date, change, customer_id, other_customer_id, records
)
values ('2026-05-05', 'merged', 'ada', 'old-ada', 1);
insert into activation.delivered_state (
    destination, audience, address, customer_id, segment, is_member, attributes, confirmed_at
) values
    ('listmonk', 'Loyal', 'ada@mail.example', 'ada', 'loyal', true, '{}', '2026-05-02'),
    ('listmonk', 'Loyal', 'gone@mail.example', 'gone', 'loyal', true, '{}', '2026-05-02'),
    ('listmonk', '', 'ada@mail.example', 'ada', null, false, '{"stage": "loyalty"}', '2026-05-02');
insert into activation.ledger (
    plan_row_id, publication_id, run_id, destination, audience, segment, customer_id, operation,
    address, payload_hash, state, reason_code, settled_at
) values
    ('a', 1, 'r', 'listmonk', 'Loyal', 'loyal', 'ada', 'add', 'ada@mail.example', 'h',
        'confirmed', null, '2026-05-02'),
    ('b', 1, 'r', 'mailchimp', 'Loyal', 'loyal', 'ada', 'add', 'ada@mail.example', 'h',
        'rejected', 'bad_field', '2026-05-03');
insert into activation.delivered_state (
    destination, audience, address, customer_id, segment, rejections, rejected_reason,
    retry_from_publication_id, rejected_attempt_id
) values (
    'mailchimp', 'Loyal', 'ada@mail.example', 'ada', 'loyal', 2, 'bad_field', 9,
    (select max(attempt_id) from activation.ledger)
);
create table activation.plan_rows as select
    1::bigint as publication_id, 'listmonk'::text as destination, null::text as audience,
    null::text as segment, 'ada'::text as customer_id, 'upsert'::text as operation,
    'planned'::text as status, 'attributes_changed'::text as status_reason,
    '["stage"]'::text as changed_fields
"""

SEGMENTS: dict[str, Any] = {
    "loyal": {
        "labels": {"en": "Loyal", "de": "Treu"},
        "description": "x",
        "where": "orders_count >= 3",
        "destinations": ["listmonk"],
        "min_stay_days": 7,
    },
    "everybody": {
        "labels": {"en": "Everybody", "de": "Jedermann"},
        "description": "x",
        "where": "stage like '%'",
        "destinations": ["listmonk", "mailchimp"],
    },
    "delivered": {
        "labels": {"en": "Delivered", "de": "Beliefert"},
        "description": "x",
        "where": "true",
        "requires": ["last_delivered_on"],
        "enabled": False,
    },
}


@pytest.fixture(scope="module")
def dsn(module_warehouse_dsn: str) -> str:
    """A warehouse in which one night was published."""
    schema = publish.begin_build(module_warehouse_dsn, "run-1", DAY, False)
    with psycopg.connect(module_warehouse_dsn) as connection:
        connection.execute(f"create schema {schema}".encode())
        names = {"marts": schema, "intermediate": publish.intermediate_schema(schema)}
        for statement in MARTS.format(**names).split(";\n"):
            connection.execute(statement.encode())
        connection.execute(ACTIVATION.encode())
    publish.publish(module_warehouse_dsn, "run-1", DAY, schema, {})
    return module_warehouse_dsn


def settings_with(folder: Path, segments: dict[str, Any]) -> Settings:
    (folder / "sources.yml").write_text("woocommerce:\n")
    (folder / "destinations.yml").write_text("listmonk:\nmailchimp:\n")
    (folder / "segments.yml").write_text(yaml.safe_dump({"segments": segments}, sort_keys=False))
    (folder / "model.yml").write_text("label_language: en\nholdout_salt: salt\n")
    return load_settings(folder)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_with(tmp_path, SEGMENTS)


@pytest.fixture
def reader(dsn: str) -> Iterator[str]:
    """A login that sees personal data masked."""
    roles.create(dsn)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"create role explain_reader login password 'x' in role {READER}".encode())
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    where = f"{parts['host']}:{parts['port']}/{parts['dbname']}"
    yield f"postgresql://explain_reader:x@{where}"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("drop role explain_reader")


# Explain


def test_every_stay_names_the_event_behind_it(dsn: str, settings: Settings) -> None:
    found = explain(dsn, settings, "ada")
    assert [(stay["stage"], stay["event"]) for stay in found["stages"]] == [
        ("acquisition", "double opt-in told by mailchimp"),
        ("conversion", "order woocommerce A1"),
        ("development", "30 days after the order of 2026-02-01"),
        ("at_risk", "no order since 2026-02-01, for 68 days"),
        ("retention", "order woocommerce A2, 120 days after the order before"),
    ]


def test_memberships_say_why_and_whether_they_are_sent(dsn: str, settings: Settings) -> None:
    why = {
        who: explain(dsn, settings, who)["segments"][0]["why"] for who in ("ada", "bo", "cy", "di")
    }
    assert why == {
        "ada": "`where` holds; sent",
        "bo": "`where` holds; not sent: withdrawn",
        "cy": "`where` holds; not sent: drawn as holdout, for comparison",
        "di": "stays until 2026-07-05 (min_stay_days), `where` holds no more; sent",
    }
    ada = explain(dsn, settings, "ada")
    assert ada["segments"][0]["member_since"] == date(2026, 5, 1)
    assert ada["left_segments"] == [{"segment": "welcome", "left_on": date(2026, 4, 1)}]
    assert explain(dsn, settings, "kid")["segments"] == []


def test_who_gave_way_to_other_segments_is_told_which(dsn: str, settings: Settings) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "create table activation.contact_pressure as select 'ada'::text as customer_id,"
            " 'loyal'::text as segment, false as is_kept,"
            " 'contact_pressure_at_once'::text as reason, 'welcome'::text as given_way_to"
        )
    try:
        (loyal,) = explain(dsn, settings, "ada")["segments"]
    finally:
        with psycopg.connect(dsn) as connection:
            connection.execute("drop table activation.contact_pressure")
    assert loyal["why"] == (
        "`where` holds; not sent: contact_pressure_at_once, given way to welcome"
    )


def test_an_edited_or_removed_segment_is_no_error(dsn: str, tmp_path: Path) -> None:
    broken = settings_with(tmp_path, {"loyal": {**SEGMENTS["loyal"], "where": "no_such_column"}})
    assert explain(dsn, broken, "ada")["segments"][0]["where_holds"] is None
    removed = settings_with(tmp_path, {})
    assert "no longer in segments.yml" in explain(dsn, removed, "ada")["segments"][0]["why"]


def test_consent_is_shown_with_the_facts_behind_it(dsn: str, settings: Settings) -> None:
    (verdict,) = explain(dsn, settings, "bo")["consent"]
    assert (verdict["is_contactable"], verdict["reason"]) == (False, "withdrawn")
    assert [(fact["evidence"], fact["source"], fact["wording"]) for fact in verdict["facts"]] == [
        ("withdrawn", "listmonk", None),
        ("single", "hubspot", "Yes, please"),
    ]


def test_deliveries_rejections_and_the_plan_are_shown(dsn: str, settings: Settings) -> None:
    found = explain(dsn, settings, "ada")
    assert {
        (row["destination"], row["audience"], row["is_member"], tuple(row["attributes"]))
        for row in found["delivered"]
    } == {
        ("listmonk", "Loyal", True, ()),
        ("listmonk", "", False, ("stage",)),
        ("mailchimp", "Loyal", False, ()),
    }
    assert [(row["destination"], row["state"]) for row in found["attempts"]] == [
        ("mailchimp", "rejected"),
        ("listmonk", "confirmed"),
    ]
    (rejection,) = found["rejections"]
    assert (rejection["reason_code"], rejection["attempts"]) == ("bad_field", 2)
    assert [(row["operation"], row["changed_fields"]) for row in found["plan"]] == [
        ("upsert", ["stage"])
    ]


@pytest.mark.parametrize(
    "who", ["ada", "old-ada", "woocommerce 17", "900", "ada@mail.example", " ADA@Mail.Example "]
)
def test_a_customer_is_found_by_whatever_is_known(dsn: str, settings: Settings, who: str) -> None:
    found = explain(dsn, settings, who)
    assert found["customer_id"] == "ada"
    assert found["merged_from"] == ("old-ada" if who == "old-ada" else None)


def test_who_is_nobody_or_several_is_said_without_repeating_an_address(
    dsn: str, settings: Settings
) -> None:
    with pytest.raises(KundenkreisError, match="2 customers are known by '17': ada, bo"):
        explain(dsn, settings, "17")
    with pytest.raises(KundenkreisError, match="Nobody is known by 'eve'"):
        explain(dsn, settings, "eve")
    with pytest.raises(KundenkreisError, match="Nobody is known by that address") as refused:
        explain(dsn, settings, "eve@mail.example")
    assert "eve@" not in str(refused.value)


def test_an_address_that_is_asked_for_never_reaches_the_server(
    dsn: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server may log statements with their values."""
    sent: list[str] = []
    execute = psycopg.Connection.execute

    def spy(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
        sent.append(f"{query!r} {params!r}")
        return execute(self, query, params, **options)

    monkeypatch.setattr(psycopg.Connection, "execute", spy)
    explain(dsn, settings, "ada@mail.example")
    assert any("md5(address)" in statement for statement in sent)
    assert [statement for statement in sent if "ada@" in statement] == []


def test_a_login_without_the_right_sees_everything_masked(
    dsn: str, reader: str, settings: Settings
) -> None:
    found = explain(reader, settings, "ada")
    assert found["personal_data"] == "masked"
    assert found["customer"]["email"] == "a…@m…"
    assert found["customer"]["last_name"] == "L…"
    assert [found[part] for part in ("delivered", "attempts", "plan")] == [None, None, None]
    assert found["stages"][0]["stage"] == "acquisition"
    assert "ada@" not in json.dumps(found, default=str)
    with pytest.raises(KundenkreisError, match="cannot look one up"):
        explain(reader, settings, "ada@mail.example")


@pytest.fixture
def call(
    dsn: str, tmp_path: Path, clean_env: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Call:
    settings_with(tmp_path, SEGMENTS)
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", dsn)
    clean_env.setattr(cli_support.console, "width", 220)
    return entry_point(clean_env, capfd)


def test_the_command_prints_it_all(call: Call) -> None:
    code, output, problems = call("explain", "ada")
    assert (code, problems) == (0, "")
    text = " ".join(output.split())
    for expected in (
        "Customer ada",
        "name Ada Lovelace",
        "retention since 2026-06-01; at_risk from 2026-08-01 without an order",
        "conversion 2026-02-01 2026-03-03 first_order order woocommerce A1",
        "loyal 2026-05-01 `where` holds; sent orders_count >= 3",
        "left: welcome on 2026-04-01",
        "double in mailchimp, 2026-01-01",
        "mailchimp Loyal add rejected (bad_field)",
        "upsert planned attributes_changed stage",
    ):
        assert expected in text
    assert json.loads(call("explain", "ada", "--json")[1])["customer_id"] == "ada"
    code, _, problems = call("explain", "eve@mail.example")
    assert code == 1
    assert "eve@" not in problems


# Segments


def test_a_preview_says_what_the_plan_takes_off_later(dsn: str, tmp_path: Path) -> None:
    windowed = {**SEGMENTS["loyal"], "contact": True, "send_window": {"weekdays": ["tue", "wed"]}}
    settings_with(tmp_path, {**SEGMENTS, "loyal": windowed})
    with (tmp_path / "model.yml").open("a") as model:
        model.write("contact_pressure: {at_once: 1}\n")
    edited = load_settings(tmp_path)
    window, pressure = segments_preview.preview(dsn, edited, [])["not_counted"]
    assert "send_window" in window and "(loyal: tue, wed)" in window
    assert "contact_pressure" in pressure and "out of loyal." in pressure
    assert segments_preview.preview(dsn, edited, ["everybody"])["not_counted"] == []


def test_sizes_reasons_and_changes_of_segments(dsn: str, settings: Settings) -> None:
    found = segments_preview.preview(dsn, settings, [])
    loyal, everybody = found["segments"]["loyal"], found["segments"]["everybody"]
    # di matches no more but stays; the minor is in no segment.
    assert (loyal["members"], loyal["contactable"], loyal["holdout"]) == (4, 3, 0)
    assert loyal["not_contactable"] == {"withdrawn": 1}
    assert loyal["audiences"] == [
        {
            "destination": "listmonk",
            "audience": "Loyal",
            "wanted": 3,
            "delivered": 2,
            "would_join": 2,
            "would_leave": 1,
        }
    ]
    assert [audience["destination"] for audience in everybody["audiences"]] == [
        "listmonk",
        "mailchimp",
    ]
    assert everybody["audiences"][0]["would_join"] == 3
    assert found["not_counted"] == []  # neither contact pressure nor a day on which to send
    # A column that it requires is empty for everybody.
    delivered = found["segments"]["delivered"]
    assert (delivered["members"], delivered["enabled"]) == (0, False)


def test_holdouts_are_drawn_and_not_sent(dsn: str, tmp_path: Path) -> None:
    half = settings_with(
        tmp_path, {"loyal": {**SEGMENTS["loyal"], "holdout_percent": 50, "min_stay_days": 0}}
    )
    loyal = segments_preview.preview(dsn, half, ["loyal"])["segments"]["loyal"]
    with psycopg.connect(dsn) as connection:
        drawn = connection.execute(
            "select count(*) from unnest(array['ada', 'cy']) as customer where mod(cast(cast("
            "'x' || substr(md5('salt|loyal|' || customer), 1, 8) as bit(32)) as bigint), 10000)"
            " / 100.0 < 50"
        ).fetchone()
    assert drawn is not None
    assert (loyal["holdout"], loyal["sent"]) == (drawn[0], 2 - drawn[0])
    assert loyal["audiences"][0]["wanted"] == loyal["sent"]


def test_what_was_drawn_in_this_stay_and_for_everything_is_kept(dsn: str, tmp_path: Path) -> None:
    """ada and di entered loyal in May and June; cy was never seen to enter."""
    folder = tmp_path
    settings = settings_with(folder, {"loyal": SEGMENTS["loyal"]})
    drawn = (
        "insert into history.holdout_draws values"
        " ('2026-06-28', 'loyal', 'di', '2026-06-28', true, 10, 'salt', 1),"
        " ('2026-04-30', 'loyal', 'ada', '2026-04-30', true, 10, 'salt', 1),"
        " ('2026-05-01', 'loyal', 'cy', '2026-05-01', true, 10, 'salt', 1),"
        " ('2026-04-30', 'global_holdout', 'ada', '2026-04-30', true, 10, 'salt', 1)"
    )
    with psycopg.connect(dsn) as connection:
        connection.execute(drawn)
    try:
        of_segment = segments_preview.preview(dsn, settings, [])["segments"]["loyal"]
        (folder / "model.yml").write_text("holdout_salt: salt\nglobal_holdout_percent: 0.01\n")
        of_both = segments_preview.preview(dsn, load_settings(folder), [])["segments"]["loyal"]
        (folder / "model.yml").write_text("holdout_salt: pepper\n")
        of_none = segments_preview.preview(dsn, load_settings(folder), [])["segments"]["loyal"]
    finally:
        with psycopg.connect(dsn) as connection:
            connection.execute("truncate history.holdout_draws")
    assert [one["holdout"] for one in (of_segment, of_both, of_none)] == [1, 2, 0]


def test_an_edited_segment_is_counted_as_the_file_says_now(dsn: str, tmp_path: Path) -> None:
    edited = settings_with(
        tmp_path, {"loyal": {**SEGMENTS["loyal"], "where": "orders_count = 1", "min_stay_days": 0}}
    )
    loyal = segments_preview.preview(dsn, edited, ["loyal"])["segments"]["loyal"]
    assert (loyal["members"], loyal["audiences"][0]["would_leave"]) == (1, 2)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("orders_counts > 3", 'column "orders_counts" does not exist'),
        ("orders_count >", "syntax error"),
        ("1 / (orders_count - orders_count) = 1", "division by zero"),
    ],
)
def test_a_faulty_where_names_segment_file_and_what_postgresql_said(
    dsn: str, tmp_path: Path, where: str, said: str
) -> None:
    faulty = settings_with(tmp_path, {**SEGMENTS, "loyal": {**SEGMENTS["loyal"], "where": where}})
    with pytest.raises(ConfigError) as refused:
        segments_preview.preview(dsn, faulty, [])
    for expected in (str(tmp_path / "segments.yml"), "segment 'loyal': where:", said):
        assert expected in str(refused.value)


def test_an_unknown_segment_is_named_with_those_there_are(dsn: str, settings: Settings) -> None:
    with pytest.raises(KundenkreisError, match=r"no segment 'vip'\. It has: loyal, everybody"):
        segments_preview.overlap(dsn, settings, ["vip"])


def test_segments_that_share_members(dsn: str, settings: Settings) -> None:
    found = segments_preview.overlap(dsn, settings, [])
    assert found["segments"] == ["loyal", "everybody"]
    assert found["overlap"]["loyal"] == {"loyal": 4, "everybody": 4}
    contactable = segments_preview.overlap(dsn, settings, [], contactable=True)
    assert contactable["overlap"]["everybody"] == {"loyal": 3, "everybody": 3}


def test_masked_members_are_never_compared(dsn: str, reader: str, settings: Settings) -> None:
    with pytest.raises(WarehouseError, match="personal data masked"):
        segments_preview.preview(reader, settings, [])


def test_the_commands_print_sizes_and_a_matrix(call: Call) -> None:
    code, output, problems = call("segments", "preview", "loyal")
    assert (code, problems) == (0, "")
    assert "loyal 4 3 0 3 withdrawn 1" in " ".join(output.split())
    assert "listmonk: Loyal 3 2 2 1" in " ".join(output.split())
    text = " ".join(call("segments", "overlap")[1].split())
    assert "1 loyal 4 4 2 everybody 4 4" in text
    assert json.loads(call("segments", "overlap", "--json")[1])["overlap"]["loyal"]["loyal"] == 4
