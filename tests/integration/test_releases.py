"""Working the quarantine off: released records come back once, wrong ones with their reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from kundenkreis import night, quarantine_release
from kundenkreis.errors import ConfigError, DataError
from kundenkreis.quality import facts
from kundenkreis.quality.suites import marts_orders
from kundenkreis.settings import ModelSettings, load_settings, repository_root
from kundenkreis.sources import extract, woocommerce
from kundenkreis.sources.base import Cursor, Run, load_tables
from kundenkreis.sources.config import SourcesConfig, WooCommerceSettings
from kundenkreis.warehouse import builds, releases
from kundenkreis.warehouse.quarantine import Rejection, record_rejections
from kundenkreis.warehouse.releases import shape_of
from tests.command_line import Call, entry_point
from tests.integration import landing_fixture

pytestmark = pytest.mark.integration

ORDERS = woocommerce.tables(WooCommerceSettings(), "DE")["orders"]


def _order(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": number,
        "status": "completed",
        "currency": "EUR",
        "date_created_gmt": "2026-03-01T10:00:00",
        "date_modified_gmt": "2026-03-01T10:00:00",
        "total": "12.50",
        "billing": {"email": "anna@mail.example", "country": "DE"},
        "line_items": [{"id": number * 10, "quantity": 1, "total": "12.50"}],
        **changes,
    }


def _settings(folder: Path, *datasets: dict[str, Any]) -> Any:
    config = SourcesConfig.model_validate(
        {"woocommerce": {}, "files": {"datasets": list(datasets)}}
    )
    return SimpleNamespace(
        folder=folder,
        sources={"woocommerce": config.woocommerce, "files": config.files},
        model=ModelSettings(),
    )


def _extract(dsn: str, *orders: Any, run_id: str = "run") -> None:
    """A night's extract of a shop that answers these orders."""

    def read(cursor: Cursor) -> Iterator[list[Any]]:
        cursor["nights"] = cursor.get("nights", 0) + 1
        yield list(orders)

    load_tables(Run("woocommerce", dsn, run_id, date(2026, 3, 2)), [(ORDERS, read)])


def _query(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def _totals(dsn: str) -> dict[int, str]:
    rows = _query(dsn, "select id, total::numeric(9, 2)::text from raw_woocommerce.orders")
    return dict(rows)


def _states(dsn: str) -> dict[str, tuple[str, str | None]]:
    rows = _query(dsn, "select record_key, state, closed_because from quarantine.rejected_records")
    return {key: (state, because) for key, state, because in rows}


def _release(dsn: str, key: str, settings: Any, **corrections: Any) -> None:
    with psycopg.connect(dsn) as connection:
        name = connection.execute(
            "select record_hash from quarantine.rejected_records where record_key = %s", (key,)
        ).fetchone()
        assert name is not None
        record = releases.find_one(connection, name[0])
        quarantine_release.release(
            connection, record, corrections, settings, "anna", "asked the shop"
        )


def _outcomes(dsn: str) -> list[tuple[str, str | None]]:
    rows = _query(
        dsn, "select outcome, outcome_reason from quarantine.releases order by release_id"
    )
    return [(outcome, reason) for outcome, reason in rows]


# An API's records


def test_a_released_record_comes_back_in_the_next_night(warehouse_dsn: str, tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    _extract(warehouse_dsn, _order(1), _order(2, total="12,50"), _order(3, status=""))
    assert set(_totals(warehouse_dsn)) == {1, 3}
    assert _states(warehouse_dsn) == {"2": ("open", None)}
    _release(warehouse_dsn, "2", settings, total="12.50")
    assert _states(warehouse_dsn) == {"2": ("released", None)}
    _extract(warehouse_dsn, run_id="run-2")
    assert _totals(warehouse_dsn) == {1: "12.50", 2: "12.50", 3: "12.50"}
    lines = _query(warehouse_dsn, "select id from raw_woocommerce.orders__line_items order by 1")
    assert lines == [(10,), (20,), (30,)]
    assert _states(warehouse_dsn) == {"2": ("closed", "released")}
    kept = "released_by, release_note, released_at is not null, payload ->> 'total'"
    assert _query(warehouse_dsn, f"select {kept} from quarantine.rejected_records") == [
        ("anna", "asked the shop", True, "12,50")
    ]
    # Another night changes nothing, and the overlap that sends it again as it was keeps it right.
    _extract(warehouse_dsn, run_id="run-3")
    _extract(warehouse_dsn, _order(2, total="12,50"), run_id="run-4")
    assert _totals(warehouse_dsn)[2] == "12.50"
    assert _states(warehouse_dsn) == {"2": ("closed", "released")}
    assert _outcomes(warehouse_dsn) == [("loaded", None)]


def test_what_the_shop_sends_again_meanwhile_takes_the_corrections(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    _extract(warehouse_dsn, _order(2, total="12,50"))
    _release(warehouse_dsn, "2", _settings(tmp_path), total="12.50")
    _extract(warehouse_dsn, _order(2, total="12,50"), run_id="run-2")
    assert _totals(warehouse_dsn) == {2: "12.50"}
    assert _states(warehouse_dsn) == {"2": ("closed", "released")}


def test_a_version_that_arrived_rightly_is_never_replaced_by_a_release(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    settings = _settings(tmp_path)
    later = "2026-03-05T10:00:00"
    _extract(warehouse_dsn, _order(1, total="1,0"), _order(2, total="2,0"), _order(3, total="3,0"))
    for key in ("1", "2"):
        _release(warehouse_dsn, key, settings, total="99")
    # 1 arrives in the same night; 3 was never released.
    _extract(
        warehouse_dsn,
        _order(1, date_modified_gmt=later),
        _order(3, date_modified_gmt=later),
        run_id="run-2",
    )
    assert _totals(warehouse_dsn) == {1: "12.50", 2: "99.00", 3: "12.50"}
    assert _states(warehouse_dsn) == {
        "1": ("closed", "arrived"),
        "2": ("closed", "released"),
        "3": ("closed", "arrived"),
    }
    assert _outcomes(warehouse_dsn) == [("arrived", None), ("loaded", None)]


def test_a_newer_version_in_the_warehouse_wins_over_a_waiting_release(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    _extract(warehouse_dsn, _order(1, total="1,0"))
    _release(warehouse_dsn, "1", _settings(tmp_path), total="99")
    _extract(warehouse_dsn, _order(5))
    # As if the night before had loaded it and died before it could close the record.
    with psycopg.connect(warehouse_dsn) as connection:
        connection.execute("update quarantine.releases set outcome = 'waiting'")
        connection.execute("update quarantine.rejected_records set state = 'released'")
        connection.execute(
            "update raw_woocommerce.orders set date_modified_gmt = '2026-03-09', total = 7 "
            "where id = 1"
        )
    _extract(warehouse_dsn, run_id="run-3")
    assert _totals(warehouse_dsn)[1] == "7.00"
    assert _outcomes(warehouse_dsn) == [("arrived", None)]


def test_a_later_wrong_version_stays_open(warehouse_dsn: str) -> None:
    _extract(warehouse_dsn, _order(1, total="1,0"), _order(1), _order(1, total="3,0"))
    assert list(_states(warehouse_dsn).values()) == [("open", None)]
    _extract(warehouse_dsn, _order(1), run_id="run-2")
    assert set(_states(warehouse_dsn).values()) == {("closed", "arrived")}
    # And what is wrong again, as it was, is open again.
    _extract(warehouse_dsn, _order(1, total="3,0"), run_id="run-3")
    open_ = "select payload ->> 'total' from quarantine.rejected_records where state = 'open'"
    assert _query(warehouse_dsn, open_) == [("3,0",)]


STILL_WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "total: should be a valid decimal"),
    ({"total": "much"}, "total: should be a valid decimal"),
    ({"total": "1", "currency": "Euro"}, "currency: "),
    ({"total": "1", "id": 8}, "id: is the record's key"),
    ({"total": "1", "line_items.7.total": "2"}, "there is no 7 in the record"),
    ({"total": "1", "line_items.0.quantity": "x"}, "line_items.0.quantity: "),
]


def test_what_would_be_rejected_again_is_refused_at_once(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    _extract(warehouse_dsn, _order(2, total="12,50"))
    for corrections, message in STILL_WRONG:
        with pytest.raises(DataError) as raised:
            _release(warehouse_dsn, "2", _settings(tmp_path), **corrections)
        assert message in str(raised.value)
        assert "12,50" not in str(raised.value)
        assert "anna@" not in str(raised.value)
    assert _states(warehouse_dsn) == {"2": ("open", None)}
    assert _outcomes(warehouse_dsn) == []


def test_a_release_that_the_next_night_finds_wrong_is_rejected_with_the_reason(
    warehouse_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _extract(warehouse_dsn, _order(2, total="12,50"))
    _release(warehouse_dsn, "2", _settings(tmp_path), total="12.50")
    with psycopg.connect(warehouse_dsn) as connection:
        connection.execute("""update quarantine.releases set corrections = '{"total": "x"}'""")
    _extract(warehouse_dsn, run_id="run-2")
    assert _totals(warehouse_dsn) == {}
    assert _states(warehouse_dsn) == {"2": ("open", None)}
    query = "select reason, run_id, payload ->> 'total' from quarantine.rejected_records"
    reason, run_id, total = _query(warehouse_dsn, query)[0]
    assert reason.startswith("Released, but still: total: should be a valid decimal")
    assert (run_id, total) == ("run-2", "12,50")
    assert _outcomes(warehouse_dsn)[0][0] == "rejected"


KILLED = """
import sys
from tests.integration.test_releases import _extract
_extract(sys.argv[1], run_id="run-2")
"""


@pytest.mark.parametrize("moment", ["before_load", "after_load"])
def test_a_death_in_between_loses_nothing(warehouse_dsn: str, tmp_path: Path, moment: str) -> None:
    _extract(warehouse_dsn, _order(1), _order(2, total="12,50"))
    _release(warehouse_dsn, "2", _settings(tmp_path), total="12.50")
    environment = {
        **os.environ,
        "PYTHONPATH": f"{repository_root() / 'plugins'}:{repository_root()}",
        "KUNDENKREIS_FAILPOINT": f"extract.woocommerce.{moment}",
    }
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, warehouse_dsn], env=environment, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert _states(warehouse_dsn) == {"2": ("released", None)}
    _extract(warehouse_dsn, run_id="run-3")
    assert _totals(warehouse_dsn) == {1: "12.50", 2: "12.50"}
    assert _states(warehouse_dsn) == {"2": ("closed", "released")}
    assert _outcomes(warehouse_dsn) == [("loaded", None)]


# Rows of files

LINES = {**landing_fixture.LINES, "name": "till"}


def _load_files(dsn: str, settings: Any, run_id: str = "run") -> None:
    day = date(2026, 1, 2)
    extract("files", settings, lambda _: None, dsn, run_id, day, lambda _: None)  # type: ignore[arg-type, return-value]


def _lines(dsn: str) -> list[tuple[str, str, str]]:
    return _query(  # type: ignore[return-value]
        dsn,
        "select order_key, product_name, line_amount::numeric(9, 2)::text "
        "from raw_files.order_lines order by order_key, line_number",
    )


def test_a_row_of_a_file_comes_back_and_stays_when_the_file_is_read_again(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    settings = _settings(tmp_path, LINES)
    (tmp_path / "1.csv").write_text("order,line,price\n1,cup,2\n1,pot,two\n2,tea,3,4\n3,mug,5\n")
    _load_files(warehouse_dsn, settings)
    assert _lines(warehouse_dsn) == [("1", "cup", "2.00"), ("3", "mug", "5.00")]
    _release(warehouse_dsn, "1.csv:2", settings, price="2")
    _release(warehouse_dsn, "1.csv:3", settings, order="2", line="tea", price="3.4")
    _load_files(warehouse_dsn, settings, "run-2")
    complete = [
        ("1", "cup", "2.00"),
        ("1", "pot", "2.00"),
        ("2", "tea", "3.40"),
        ("3", "mug", "5.00"),
    ]
    assert _lines(warehouse_dsn) == complete
    assert set(_states(warehouse_dsn).values()) == {("closed", "released")}
    # Nothing new: nothing is read. Another file: everything is, with the corrections.
    _load_files(warehouse_dsn, settings, "run-3")
    (tmp_path / "2.csv").write_text("order,line,price\n4,jug,1\n")
    _load_files(warehouse_dsn, settings, "run-4")
    assert _lines(warehouse_dsn) == [*complete, ("4", "jug", "1.00")]
    assert set(_states(warehouse_dsn).values()) == {("closed", "released")}


def test_a_released_row_obeys_the_rule_of_one_file_per_order(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    settings = _settings(tmp_path, LINES)
    (tmp_path / "1.csv").write_text("order,line,price\n1,cup,2\n")
    (tmp_path / "2.csv").write_text("order,line,price\n1,mug,five\n2,tea,3\n")
    _load_files(warehouse_dsn, settings)
    assert _lines(warehouse_dsn) == [("1", "cup", "2.00"), ("2", "tea", "3.00")]
    _release(warehouse_dsn, "2.csv:1", settings, price="5")
    _load_files(warehouse_dsn, settings, "run-2")
    assert _lines(warehouse_dsn) == [("1", "mug", "5.00"), ("2", "tea", "3.00")]


def test_a_row_that_the_file_no_longer_has_is_closed_and_a_lost_file_is_named(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    settings = _settings(tmp_path, LINES)
    (tmp_path / "1.csv").write_text("order,line,price\n1,cup,two\n2,tea,3\n")
    (tmp_path / "2.csv").write_text("order,line,price\n3,mug,five\n4,jug,1\n")
    _load_files(warehouse_dsn, settings)
    _release(warehouse_dsn, "2.csv:1", settings, price="5")
    (tmp_path / "1.csv").write_text("order,line,price\n1,cup,2\n2,tea,3\n")
    (tmp_path / "2.csv").unlink()
    _load_files(warehouse_dsn, settings, "run-2")
    assert _states(warehouse_dsn) == {
        "1.csv:1": ("closed", "no_longer_rejected"),
        "2.csv:1": ("open", None),
    }
    assert _outcomes(warehouse_dsn) == [
        ("rejected", "its file is no longer there; put it back, or add the row to another file")
    ]


def test_a_correction_must_name_a_column_that_is_mapped(warehouse_dsn: str, tmp_path: Path) -> None:
    settings = _settings(tmp_path, LINES)
    (tmp_path / "1.csv").write_text("order,line,price\n1,cup,two\n2,tea,3\n")
    _load_files(warehouse_dsn, settings)
    with pytest.raises(DataError, match=r"maps no such column\. It maps: order, line, price"):
        _release(warehouse_dsn, "1.csv:1", settings, line_amount="2")
    with pytest.raises(ConfigError, match="files has no dataset 'till' any more"):
        _release(warehouse_dsn, "1.csv:1", _settings(tmp_path), price="2")


def test_a_consent_event_that_says_nothing_known_is_kept(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    """It would count for nobody in silence, and it may be a withdrawal."""
    consent = {
        "name": "consent",
        "entity": "consent_events",
        "path": "*.csv",
        "columns": {"email": "mail", "evidence": "what"},
    }
    (tmp_path / "1.csv").write_text(
        "mail,what\na@mail.example,Withdrawn\nb@mail.example,stop\nnobody,withdrawn\n"
        "c@Müller.example, double \n"
    )
    _load_files(warehouse_dsn, _settings(tmp_path, consent))
    assert _query(warehouse_dsn, "select count(*) from raw_files.consent_events") == [(2,)]
    query = "select reason_code, reason from quarantine.rejected_records order by record_key"
    rejected = _query(warehouse_dsn, query)
    assert [code for code, _ in rejected] == ["invalid_evidence", "invalid_email"]
    assert "is none of pending, single, double" in rejected[0][1]


# What models reject


def _reject_in_model(dsn: str, code: str, table: str = "orders", run_id: str = "run") -> None:
    model = "int_spend_rejected" if table == "spend" else "int_orders_rejected"
    payload = {"order_id": "7", "currency": "CHF"}
    row = Rejection("woocommerce", table, "7", code, "No rate.", payload, model)
    with psycopg.connect(dsn) as connection:
        record_rejections(connection, [row], run_id)


@pytest.mark.parametrize(
    ("code", "table", "corrections", "message"),
    [
        ("no_exchange_rate", "orders", {}, "exchange_rates of config/model.yml"),
        ("no_exchange_rate", "orders", {"currency": "EUR"}, "--set exchange_rate=1.07"),
        ("no_exchange_rate", "orders", {"exchange_rate": "-1"}, "is no number above 0"),
        ("no_exchange_rate", "orders", {"exchange_rate": "nan"}, "is no number above 0"),
        ("no_exchange_rate", "spend", {"exchange_rate": "1"}, "exchange_rates of config/model.yml"),
        ("ambiguous_identity", "customers", {}, "identity_max_addresses"),
        ("order_without_date", "orders", {}, "Correct the date at the source"),
    ],
)
def test_where_a_release_makes_no_sense_it_says_what_to_do(
    warehouse_dsn: str,
    tmp_path: Path,
    code: str,
    table: str,
    corrections: dict[str, Any],
    message: str,
) -> None:
    _reject_in_model(warehouse_dsn, code, table)
    with pytest.raises(DataError, match=message):
        _release(warehouse_dsn, "7", _settings(tmp_path), **corrections)
    assert _states(warehouse_dsn) == {"7": ("open", None)}


def test_an_order_can_be_given_its_own_rate(warehouse_dsn: str, tmp_path: Path) -> None:
    _reject_in_model(warehouse_dsn, "no_exchange_rate")
    _release(warehouse_dsn, "7", _settings(tmp_path), exchange_rate="1.07")
    run: Any = SimpleNamespace(
        dsn=warehouse_dsn, as_of_date=date(2026, 3, 2), settings=SimpleNamespace(dbt_vars=dict)
    )
    rates = [{"source": "woocommerce", "order_id": "7", "currency": "CHF", "rate": "1.07"}]
    # The build that is to take it up sees it; nothing else does before it has.
    assert night._released_rates(run, with_waiting=True) == rates
    assert night._released_rates(run) == []
    # The variable is part of what a build stands upon, so the next build is a full one.
    variables = night._variables(run, "marts_blue", rates)
    without = night._variables(run, "marts_blue", [])
    assert variables["released_exchange_rates"] == rates
    assert builds.fingerprint(variables) != builds.fingerprint(without)
    with psycopg.connect(warehouse_dsn) as connection:
        releases.close_of_model(connection, "int_orders_rejected", "run-2")
    assert _states(warehouse_dsn) == {"7": ("closed", "released")}
    assert _outcomes(warehouse_dsn) == [("loaded", None)]
    assert night._released_rates(run) == rates


def test_the_gate_prices_an_order_as_it_was_released(warehouse_dsn: str, tmp_path: Path) -> None:
    """Else the gate would call it an order that nobody sent."""
    _extract(warehouse_dsn, _order(1), _order(7, currency="CHF", total="100"))
    _reject_in_model(warehouse_dsn, "no_exchange_rate")
    _release(warehouse_dsn, "7", _settings(tmp_path), exchange_rate="1.07")
    (tmp_path / "sources.yml").write_text("woocommerce: {}\n")
    settings = load_settings(tmp_path)

    def priced() -> dict[str, str]:
        with psycopg.connect(warehouse_dsn) as connection:
            known = facts.marts_facts(connection, settings, "marts_blue", date(2026, 3, 2), "run")
            query = marts_orders._raw_orders(settings, known)
            return {
                order: f"{revenue:.2f}" for _, order, revenue in connection.execute(query.encode())
            }

    assert priced() == {"1": "12.50"}
    with psycopg.connect(warehouse_dsn) as connection:
        releases.close_of_model(connection, "int_orders_rejected", "run-2")
    assert priced() == {"1": "12.50", "7": "107.00"}


def test_what_a_model_rejects_no_more_is_closed(warehouse_dsn: str) -> None:
    _reject_in_model(warehouse_dsn, "no_exchange_rate")
    with psycopg.connect(warehouse_dsn) as connection:
        releases.close_of_model(connection, "int_spend_rejected", "run-2")
        assert releases.find(connection, releases.Filter())[1] == 1
        releases.close_of_model(connection, "int_orders_rejected", "run-2")
    assert _states(warehouse_dsn) == {"7": ("closed", "no_longer_rejected")}
    _reject_in_model(warehouse_dsn, "no_exchange_rate", run_id="run-3")
    assert _states(warehouse_dsn) == {"7": ("open", None)}


# The commands


@pytest.fixture
def call(
    warehouse_dsn: str,
    clean_env: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> Call:
    """Call the command line over a warehouse with one rejected order."""
    (tmp_path / "sources.yml").write_text("woocommerce: {}\n")
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse_dsn)
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
    clean_env.setenv("COLUMNS", "200")
    _extract(warehouse_dsn, _order(1), _order(2, total="12,50"))
    _reject_in_model(warehouse_dsn, "no_exchange_rate")

    return entry_point(clean_env, capfd, "quarantine")


def test_the_commands_work_a_record_off(call: Call, warehouse_dsn: str) -> None:
    code, output, _ = call("list", "--reason", "invalid_total")
    assert code == 0
    assert "1 open records" in output
    listed = json.loads(call("list", "--json")[1])
    assert listed["count"] == 2
    assert "payload" not in listed["records"][0]
    name = next(r["record_hash"] for r in listed["records"] if r["record_key"] == "2")
    shown = call("show", name[:10])[1]
    assert '"total": "99,99"' in shown
    assert "anna" not in shown + output
    assert "anna@mail.example" in call("show", name[:10], "--unmasked")[1]
    code, _, errors = call("release", name[:10], "--note", "typo")
    assert (code, "would be rejected again: total: " in errors) == (1, True)
    code, output, _ = call("release", name, "--set", "total=12.50", "--note", "typo", "--by", "me")
    assert (code, output) == (0, f"Released: {name[:12]}. Back in the next night.\n")
    assert json.loads(call("list", "--json")[1])["count"] == 1
    assert json.loads(call("list", "--state", "released", "--json")[1])["count"] == 1
    history = json.loads(call("show", name, "--json")[1])["releases"]
    assert [(one["released_by"], one["outcome"]) for one in history] == [("me", "waiting")]
    assert history[0]["corrections"] == {"total": "99.99"}
    _extract(warehouse_dsn, run_id="run-2")
    assert _totals(warehouse_dsn)[2] == "12.50"
    assert "closed" in call("release", name, "--note", "again")[2]


MISTAKES = [
    (("show", "abc"), "give the first 6 characters or more"),
    (("show", "000000000000"), "There is no record 000000000000"),
    (("list", "--state", "old"), "--state: 'old' is none of open, released, closed, all"),
    (("release", "abcdef", "--note", "x", "--set", "total"), "--set wants FIELD=VALUE"),
    (("release", "abcdef", "--note", " "), "--note: say why"),
    (("release", "abcdef", "abcdee", "--note", "x", "--set", "a=1"), "one record at a time"),
    (("release", "abcdef", "--note", "x", "--set", "a=1", "--set", "a=2"), "is given twice"),
]


def test_a_mistake_is_one_message(call: Call) -> None:
    for arguments, message in MISTAKES:
        code, output, errors = call(*arguments)
        assert (code, output) == (1, "")
        assert message in errors


def test_several_records_are_released_or_none(call: Call, warehouse_dsn: str) -> None:
    names = [
        row[0]
        for row in _query(warehouse_dsn, "select record_hash from quarantine.rejected_records")
    ]
    assert call("release", *names, "--note", "all of them")[0] == 1
    assert {state for state, _ in _states(warehouse_dsn).values()} == {"open"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12.50", "12.50"),
        ("007", "007"),
        ("null", None),
        ("true", True),
        ('"12"', "12"),
        ("[1, 2]", ["1", "2"]),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_correction_is_json_or_text_and_money_no_float(text: str, value: Any) -> None:
    assert quarantine_release.parse_corrections([f"field={text}"]) == {"field": value}


def test_a_masked_payload_keeps_its_form_alone() -> None:
    payload = {
        "email": "Anna.Ö@mail.example",
        "id": 1234,
        "tags": ["vip"],
        "note": None,
        "ok": True,
    }
    assert shape_of(payload) == {
        "email": "xxxx.x@xxxx.xxxxxxx",
        "id": "9999",
        "tags": ["xxx"],
        "note": None,
        "ok": True,
    }
    assert len(shape_of("x" * 500)) == 41
