"""Whole nights, from the vendors' APIs to the audiences in the email tools.

The warehouse uses roles, so every task of these nights has the rights of its role only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.settings import home
from kundenkreis.warehouse import ACTIVATOR, LOADER, READER, TRANSFORMER, roles
from tests.night.conftest import FIRST_NIGHT, Household, last_json
from tests.rfm_scores import assert_scores_follow_values

pytestmark = [pytest.mark.integration, pytest.mark.night]
SECOND_NIGHT = FIRST_NIGHT + timedelta(days=1)


@pytest.fixture(scope="module")
def lineage_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first night's OpenLineage events go."""
    return tmp_path_factory.mktemp("lineage") / "events.jsonl"


@pytest.fixture(scope="module")
def shop(household: Callable[..., Household], lineage_file: Path) -> Household:
    """A shop whose first night has run, each task under its role."""
    made = household()
    roles.create(made.dsn)
    transport = {"type": "file", "log_file_path": str(lineage_file), "append": True}
    made.run_as_users_do(
        FIRST_NIGHT,
        AIRFLOW__OPENLINEAGE__TRANSPORT=json.dumps(transport),
        AIRFLOW__OPENLINEAGE__NAMESPACE="shop",
    )
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


def test_the_first_night_told_its_lineage(shop: Household, lineage_file: Path) -> None:
    """From the vendors' lists to the audiences, table by table, with nobody's data."""
    text = lineage_file.read_text()
    events = [json.loads(line) for line in text.splitlines()]
    done = {event["job"]["name"]: event for event in events if event["eventType"] == "COMPLETE"}
    port = psycopg.conninfo.conninfo_to_dict(shop.dsn)["port"]
    database = psycopg.conninfo.conninfo_to_dict(shop.dsn)["dbname"]

    def names(event: dict[str, Any], side: str) -> set[str]:
        return {
            one["name"].removeprefix(f"{database}.")
            for one in event[side]
            if one["namespace"] in (f"postgres://127.0.0.1:{port}", shop.sandbox.base_url)
        }

    night = "customer_lifecycle"
    tasks = {
        f"{night}.{task}" for (task,) in shop.rows("select task_id from operations.task_results")
    }
    assert tasks <= set(done)
    extract = done[f"{night}.extract.woocommerce"]
    assert "woocommerce.orders" in names(extract, "inputs")
    assert "raw_woocommerce.orders" in names(extract, "outputs")
    loaded = next(one for one in extract["outputs"] if one["name"].endswith(".orders"))
    rows = shop.rows("select count(*) from raw_woocommerce.orders")[0][0]
    # An order that changed while the shop was read counts twice.
    assert loaded["outputFacets"]["outputStatistics"]["rowCount"] >= rows > 0
    assert "raw_woocommerce.orders" in names(done[f"{night}.transform"], "inputs")
    assert "marts_blue.customer_360" in names(done[f"{night}.segment"], "outputs")
    assert "marts.customer_360" in names(done[f"{night}.publish"], "outputs")
    assert "activation.plan_rows" in names(done[f"{night}.plan"], "outputs")
    assert "activation.plan_rows" in names(done[f"{night}.deliver.listmonk"], "inputs")
    assert {f"listmonk.{name}" for name in shop.sandbox.audiences()["listmonk"]} & names(
        done[f"{night}.deliver.listmonk"], "outputs"
    )
    # dbt's models are jobs of their own below their task.
    wide = done[f"{night}.dbt.customer_360"]
    assert wide["run"]["facets"]["parent"]["job"]["name"] == f"{night}.segment"
    assert "marts_blue.customer_360" in names(wide, "outputs")
    assert len(names(wide, "inputs")) > 3
    columns = wide["outputs"][0]["facets"]["schema"]["fields"]
    assert {"name": "customer_id", "type": "text"}.items() <= columns[0].items()
    for values in shop.personal_values().values():
        assert not [value for value in values if f'"{value}"' in text.lower()]
    assert "AIRFLOW_CONN" not in text


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


def test_a_preview_counts_what_dbt_has_built(shop: Household) -> None:
    """The preview composes its queries itself, so it is compared with the model's result."""
    from kundenkreis import segments_preview
    from kundenkreis.settings import load_settings

    settings = load_settings()
    found = segments_preview.preview(shop.dsn, settings, [])["segments"]
    built = shop.rows(
        "select segment, count(*), count(*) filter (where is_contactable), "
        "count(*) filter (where is_holdout) from marts.segment_members group by segment"
    )
    assert sum(holdouts for *_, holdouts in built) > 0, "nobody is held out: too little is compared"
    assert {
        key: (one["members"], one["contactable"], one["holdout"])
        for key, one in found.items()
        if one["members"]
    } == {key: tuple(counts) for key, *counts in built}
    wanted = shop.desired_audiences()
    for one in found.values():
        for audience in one["audiences"]:
            name = f"{audience['destination']}/{audience['audience']}"
            assert (audience["wanted"], audience["would_leave"]) == (len(wanted[name]), 0)


def test_a_customer_is_explained_by_the_address_that_was_given(shop: Household) -> None:
    customer_id, address, stage = shop.rows(
        "select customer_id, email, stage from marts.customer_360 "
        "inner join marts.segment_members as members using (customer_id) "
        "where members.is_contactable and not members.is_holdout order by customer_id limit 1"
    )[0]
    found = last_json(shop.call("explain", address.upper(), "--json", check=True).stdout)
    assert found["customer_id"] == customer_id
    assert found["stages"][-1]["stage"] == stage
    assert all(stay["event"] for stay in found["stages"])
    assert found["segments"] and all("`where`" in one["why"] for one in found["segments"])
    assert any(fact["evidence"] == "double" for one in found["consent"] for fact in one["facts"])
    assert any(attempt["state"] == "confirmed" for attempt in found["attempts"])
    assert found["records"] and found["delivered"]


def test_a_held_segment_goes_out_when_somebody_approves_it(shop: Household) -> None:
    from kundenkreis import night
    from kundenkreis.connections import parse_connection
    from kundenkreis.settings import load_settings

    settings = load_settings()
    champions = settings.segments["champions"].model_copy(update={"min_size": 1_000_000})
    segments = {**settings.segments, "champions": champions}
    publication_id, as_of_date, run_id, schema = shop.rows(
        "select publication_id, as_of_date, dag_run_id, schema_name from history.publications "
        "order by publication_id desc limit 1"
    )[0]
    # As if somebody had taken them out of the tools: they would join again.
    forgotten = shop.rows(
        "update activation.delivered_state set is_member = false "
        "where audience = 'Champions' and is_member returning destination"
    )
    assert {destination for (destination,) in forgotten} == {"listmonk", "mailchimp"}
    run = night.RunContext(
        run_id=run_id,
        as_of_date=as_of_date,
        dsn=shop.dsn,
        settings=settings.model_copy(update={"segments": segments}),
        resolve=lambda name: parse_connection(
            name, shop.sandbox.connections[f"AIRFLOW_CONN_{name.upper()}"]
        ),
        is_backfill=False,
        progress=lambda line: None,
    )
    night.plan(night.under_role(run, ACTIVATOR), schema, publication_id)

    plan = last_json(shop.call("plan", "--sample", "5", "--json", check=True).stdout)
    assert {one["held_because"] for one in plan["held"]} == {"below_min_size"}
    assert sum(one["adds"] for one in plan["held"]) == len(forgotten)
    assert all("…" in row["address"] for row in plan["sample"] if row["address"])
    calls = len(shop.write_calls())
    shop.call("deliver", "--held", check=True)
    assert len(shop.write_calls()) == calls

    shop.call("approve", "champions", "--destination", "listmonk", "--by", "anna", check=True)
    shop.call("reject", "champions", "--destination", "mailchimp", "--by", "anna", check=True)
    sent = last_json(shop.call("deliver", "--held", "--json", check=True).stdout)["deliveries"]
    assert {one["destination"]: one["sent"] > 0 for one in sent} == {
        "listmonk": True,
        "mailchimp": False,
    }
    status = last_json(shop.call("status", "--json", check=True).stdout)
    assert {(one["destination"], one["state"], one["decided_by"]) for one in status["held"]} == {
        ("listmonk", "sent", "anna"),
        ("mailchimp", "rejected", "anna"),
    }
    newest = json.loads(shop.call("deliveries", "--limit", "2", "--json", check=True).stdout)
    assert {one["state"] for one in newest} == {"done"}
    # The tools had them all the time; what the plan was told is put right for the tests below.
    shop.rows(
        "update activation.delivered_state set is_member = true "
        "where audience = 'Champions' and not is_member and confirmed_at is not null "
        "and address in (select address from activation.plan_rows where status = 'held') "
        "returning 1"
    )


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
    assert len(secrets) == 5
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
