"""Whole nights, from the vendors' APIs to the audiences in the email tools.

The warehouse uses roles, so every task of these nights has the rights of its role only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import psycopg
import pytest

from kundenkreis.settings import home
from kundenkreis.warehouse import ACTIVATOR, LOADER, READER, TRANSFORMER, roles
from tests.night.conftest import FIRST_NIGHT, Household
from tests.rfm_scores import assert_scores_follow_values

pytestmark = [pytest.mark.integration, pytest.mark.night]
SECOND_NIGHT = FIRST_NIGHT + timedelta(days=1)


@pytest.fixture(scope="module")
def shop(household: Callable[..., Household]) -> Household:
    """A shop whose first night has run, each task under its role."""
    made = household()
    roles.create(made.dsn)
    made.run_as_users_do(FIRST_NIGHT)
    return made


def assert_audiences_are_as_the_marts_say(shop: Household) -> None:
    wanted, found = shop.desired_audiences(), shop.audiences()
    assert {name: found.get(name, set()) for name in wanted} == wanted


def test_the_first_night_delivers_what_the_marts_say(shop: Household) -> None:
    assert shop.rows("select as_of_date, schema_name from history.publications") == [
        (FIRST_NIGHT, "marts_blue")
    ]
    wanted = shop.desired_audiences()
    assert sum(map(len, wanted.values())) > 50, "the shop is too small to prove anything"
    assert_audiences_are_as_the_marts_say(shop)


def test_scores_follow_values(shop: Household) -> None:
    assert_scores_follow_values(
        shop.rows(
            "select recency_days, frequency, monetary, r_score, f_score, m_score "
            "from marts.customer_rfm"
        )
    )


def test_nobody_who_opted_out_is_in_an_audience_of_ours(shop: Household) -> None:
    blocked = {
        row[0]
        for row in shop.rows(
            "select address from activation.subscriber_states "
            "where state in ('unsubscribed', 'bounced', 'complained', 'blocklisted')"
        )
    }
    found = shop.audiences()
    assert blocked
    assert all(not found.get(name, set()) & blocked for name in shop.desired_audiences())


def test_a_failed_gate_keeps_readers_and_mailboxes_safe(shop: Household) -> None:
    before = shop.published()
    calls = len(shop.write_calls())
    shop.rows("update raw_woocommerce.orders set total = -total returning 1")
    shop.sandbox.advance(1)
    completed = shop.run(SECOND_NIGHT)
    assert completed.returncode == 1
    assert "gate_landing failed: GateFailure" in completed.stderr
    assert "raw_woocommerce.orders" in completed.stderr
    assert "Traceback" not in completed.stdout + completed.stderr
    assert shop.published() == before
    assert len(shop.write_calls()) == calls


def test_the_night_that_is_put_right_sends_only_changes(shop: Household) -> None:
    """The second night, after the damage that stopped it; what was right arrived in between."""
    before = shop.published()
    shop.rows("update raw_woocommerce.orders set total = abs(total) returning 1")
    sent_before = shop.rows("select count(*) from activation.ledger")[0][0]
    members = sum(map(len, shop.audiences().values()))
    shop.run(SECOND_NIGHT, check=True)
    assert shop.published() != before
    sent = shop.rows("select count(*) from activation.ledger")[0][0] - sent_before
    assert 0 < sent < members / 2
    assert_audiences_are_as_the_marts_say(shop)
    days = shop.rows("select as_of_date, publication_id from history.kpi_daily order by as_of_date")
    assert days == [(FIRST_NIGHT, 1), (SECOND_NIGHT, 2)]


def test_clearing_transform_after_publish_ends_the_same_and_sends_nothing(
    shop: Household,
) -> None:
    """What Airflow does when somebody clears `transform` and what follows of a finished run."""
    from kundenkreis import night
    from kundenkreis.connections import parse_connection
    from kundenkreis.settings import load_settings

    before, audiences = shop.published(), shop.audiences()
    calls = len(shop.write_calls())
    publication = shop.rows(
        "select dag_run_id, as_of_date from history.publications order by publication_id desc"
    )[0]
    run = night.RunContext(
        run_id=publication[0],
        as_of_date=publication[1],
        dsn=shop.dsn,
        settings=load_settings(),
        resolve=lambda name: parse_connection(
            name, shop.sandbox.connections[f"AIRFLOW_CONN_{name.upper()}"]
        ),
        is_backfill=False,
        progress=lambda line: None,
    )
    building = night.under_role(run, TRANSFORMER)
    schema = night.transform(building)["schema_name"]
    night.predict(building, schema)
    night.segment(building, schema)
    gates = night.gate_marts(building, schema)
    published = night.publish(building, schema, gates)
    sending = night.under_role(run, ACTIVATOR)
    night.plan(sending, schema, published["publication_id"])
    assert shop.published() == before
    planned = "select count(*) from activation.plan_rows where status = 'planned' and "
    assert shop.rows(planned + f"publication_id = {published['publication_id']}") == [(0,)]
    for destination in ("listmonk", "mailchimp"):
        night.deliver(sending, destination, published["publication_id"])
    assert len(shop.write_calls()) == calls
    assert shop.audiences() == audiences


def test_a_past_date_fills_history_only(shop: Household) -> None:
    before, sent = shop.published(), shop.digests("activation", "raw_woocommerce", "raw_hubspot")
    publications = shop.rows("select * from history.publications order by 1")
    later = f"select * from history.stage_changes where as_of_date >= '{FIRST_NIGHT}' order by 1, 2"
    kept = shop.rows(later), shop.rows("select * from history.customer_ids order by 1, 2, 3")
    calls = len(shop.sandbox.requests())
    past = FIRST_NIGHT - timedelta(days=40)
    shop.run(past, check=True)
    assert shop.published() == before
    assert shop.digests("activation", "raw_woocommerce", "raw_hubspot") == sent
    assert shop.rows("select * from history.publications order by 1") == publications
    assert kept == (
        shop.rows(later),
        shop.rows("select * from history.customer_ids order by 1, 2, 3"),
    )
    # Neither a source nor an email tool was asked for anything.
    assert len(shop.sandbox.requests()) == calls
    assert shop.rows("select is_over from operations.build_lease") == [(True,)]
    assert shop.rows(f"select count(*) from history.rfm_cutoffs where as_of_date = '{past}'") == [
        (12,)
    ]
    assert shop.rows(
        "select as_of_date, count(publication_id) > 0 from history.rfm_segment_changes group by 1"
        " order by 1 limit 2"
    ) == [(past, False), (FIRST_NIGHT, True)]


def test_every_task_worked_under_its_role(shop: Household) -> None:
    owners = dict(
        shop.rows(
            "select split_part(schemaname, '_', 1), string_agg(distinct tableowner, ', ') "
            "from (select schemaname, tableowner from pg_tables "
            "union all select schemaname, viewowner from pg_views) as relations "
            "where schemaname ~ '^(raw|staging|intermediate|seeds|marts|activation)' group by 1"
        )
    )
    built = dict.fromkeys(("staging", "intermediate", "seeds", "marts"), TRANSFORMER)
    assert owners == {**built, "raw": LOADER, "activation": ACTIVATOR}


def test_a_reader_finds_nobodys_address_name_number_or_birthday(shop: Household) -> None:
    personal = shop.personal_values()
    assert min(map(len, personal.values())) > 20, "too little to look for"
    with psycopg.connect(shop.dsn) as connection:
        connection.execute(f"set role {READER}")
        tables = connection.execute(
            "select format('%I.%I', n.nspname, c.relname) from pg_class as c "
            "inner join pg_namespace as n on n.oid = c.relnamespace "
            "where c.relkind in ('r', 'v') and n.nspname in ('marts', 'history', 'quality') "
            "and has_table_privilege(c.oid, 'select')"
        ).fetchall()
        assert len(tables) > 30
        for (table,) in tables:
            cells = connection.execute(
                f"select distinct lower(cell.value) from {table} as t "
                "cross join jsonb_each_text(to_jsonb(t)) as cell where cell.value is not null"
            ).fetchall()
            found = {value for (value,) in cells}
            text = "\n".join(found)
            assert not [value for value in personal["addresses"] if value in text], table
            for kind in ("names", "numbers", "birthdays"):
                assert not found & personal[kind], f"{kind} in {table}"
    # What they are looked for by is there for whoever may see it.
    shown = {str(row[0]) for row in shop.rows("select email from marts.customers")}
    assert len(shown & personal["addresses"]) > 50


def test_data_docs_are_found_by_publication(shop: Household) -> None:
    docs = home() / "data_docs"
    publication, results = shop.rows(
        "select publication_id, gate_results from history.publications order by publication_id desc"
    )[0]
    linked = docs / f"publication_{publication}"
    assert linked.is_symlink()
    for gate in ("landing", "marts"):
        assert (linked / gate / "index.html").exists()
    assert (docs / "latest").resolve().parent == docs.resolve()
    assert f"/data_docs/{linked.readlink()}/" in str(results["data_docs"])
    assert "/data_docs/" in shop.call("status", check=True).stdout


def test_logs_docs_and_results_hold_no_address_and_no_secret(shop: Household) -> None:
    """Runs last: over everything the nights above wrote, the failed one included."""
    personal = shop.personal_values()
    addresses = personal["addresses"] | personal["numbers"]
    secrets = {
        part
        for value in shop.sandbox.connections.values()
        if (part := json.loads(value).get("password"))
    }
    assert len(addresses) > 100
    assert len(secrets) == 4
    texts = {
        str(file): file.read_text(errors="replace").lower()
        for folder in ("logs", "data_docs", "dbt")
        for file in (home() / folder).rglob("*")
        if file.is_file() and file.suffix not in (".msgpack", ".gif", ".png")
    }
    assert any("night_" in name for name in texts)
    assert any("data_docs" in name for name in texts)
    for table in ("operations.task_results", "quality.gate_results", "activation.sync_runs"):
        texts[table] = str(shop.rows(f"select t::text from {table} as t")).lower()
    found = {
        name
        for name, text in texts.items()
        if any(word in text for word in addresses) or any(word.lower() in text for word in secrets)
    }
    assert not found
