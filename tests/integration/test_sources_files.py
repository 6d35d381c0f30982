"""Files into a real warehouse: one file per order, content once, kills leave no trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from datetime import date
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kundenkreis.errors import DataError
from kundenkreis.settings import ModelSettings
from kundenkreis.sources import extract
from kundenkreis.sources.config import ENTITY_COLUMNS, Entity, SourcesConfig
from tests.integration.landing_fixture import LINES

pytestmark = pytest.mark.integration

HEADER = "order,line,price\n"
MAX_EXAMPLES = int(os.environ.get("KUNDENKREIS_TEST_EXAMPLES", "8"))


def configured(folder: Path, *datasets: dict[str, Any], phone_region: str = "DE") -> Any:
    """Settings as the night hands them in."""
    files = SourcesConfig.model_validate({"files": {"datasets": list(datasets)}}).files
    model = ModelSettings(phone_default_region=phone_region)
    return SimpleNamespace(folder=folder, sources={"files": files}, model=model)


def load(dsn: str, folder: Path, *datasets: dict[str, Any], **options: str) -> dict[str, Any]:
    what = configured(folder, *(datasets or (LINES,)), **options)
    return extract("files", what, lambda _: None, dsn, "run", date(2026, 1, 2), lambda _: None)  # type: ignore[arg-type, return-value]


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def landed(dsn: str) -> dict[str, list[str]]:
    """Order key to its lines."""
    rows = query(dsn, "select order_key, product_name from raw_files.order_lines order by 1, 2")
    found: dict[str, list[str]] = {}
    for order, line in rows:
        found.setdefault(order, []).append(line)
    return found


def test_every_declared_table_and_column_exists(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    assert load(warehouse_dsn, tmp_path)["tables"] == {"order_lines": 0}
    columns = query(
        warehouse_dsn,
        "select table_name, column_name from information_schema.columns "
        "where table_schema = 'raw_files'",
    )
    for entity in Entity:
        for name in (*ENTITY_COLUMNS[entity], "source_name", "content_hash", "row_number"):
            assert (entity.value, name) in columns


def test_loads_once_and_replaces_what_a_changed_file_held(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.csv"
    file.write_text(HEADER + "1,cup,2\n1,cup,2\n2,tea,3\n")
    assert load(warehouse_dsn, tmp_path)["tables"] == {"order_lines": 3}
    assert load(warehouse_dsn, tmp_path)["tables"] == {"order_lines": 0}
    assert landed(warehouse_dsn) == {"1": ["cup", "cup"], "2": ["tea"]}
    file.write_text(HEADER + "2,tea,3\n3,pot,9\n")
    load(warehouse_dsn, tmp_path)
    assert landed(warehouse_dsn) == {"2": ["tea"], "3": ["pot"]}
    assert query(warehouse_dsn, "select file_name, rows from operations.loaded_files") == [
        ("a.csv", 2)
    ]


def test_the_latest_file_that_has_an_order_gives_all_of_it(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "1.csv").write_text(HEADER + "1,cup,2\n1,tea,2\n2,pot,1\n")
    (tmp_path / "2.csv").write_text(HEADER + "1,mug,5\n")
    load(warehouse_dsn, tmp_path)
    assert landed(warehouse_dsn) == {"1": ["mug"], "2": ["pot"]}
    # When the later file no longer has the order, the earlier one gives it again.
    (tmp_path / "2.csv").write_text(HEADER + "3,jug,5\n")
    load(warehouse_dsn, tmp_path)
    assert landed(warehouse_dsn) == {"1": ["cup", "tea"], "2": ["pot"], "3": ["jug"]}


def test_a_file_that_is_gone_keeps_what_it_gave(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(HEADER + "1,cup,2\n2,pot,1\n")
    (tmp_path / "3.csv").write_text(HEADER + "3,jug,2\n")
    load(warehouse_dsn, tmp_path)
    (tmp_path / "1.csv").unlink()
    (tmp_path / "3.csv").unlink()
    (tmp_path / "2.csv").write_text(HEADER + "2,can,1\n3,old,1\n")
    load(warehouse_dsn, tmp_path)
    # 2.csv counts after 1.csv and before 3.csv.
    assert landed(warehouse_dsn) == {"1": ["cup"], "2": ["can"], "3": ["jug"]}


def test_split_orders_unite_files(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(HEADER + "1,cup,2\n")
    (tmp_path / "2.csv").write_text(HEADER + "1,mug,5\n")
    load(warehouse_dsn, tmp_path, {**LINES, "split_orders": True})
    assert landed(warehouse_dsn) == {"1": ["cup", "mug"]}


def test_a_changed_mapping_reads_the_files_again(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(HEADER + "1,cup,2\n")
    load(warehouse_dsn, tmp_path)
    columns = {**LINES["columns"], "product_name": {"constant": "thing"}}
    load(warehouse_dsn, tmp_path, {**LINES, "columns": columns})
    assert landed(warehouse_dsn) == {"1": ["thing"]}


def test_datasets_of_one_table_do_not_touch_each_other(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + "1,cup,2\n")
    (tmp_path / "b.txt").write_text(HEADER + "1,mug,2\n")
    other = {**LINES, "name": "branch", "path": "b.txt"}
    load(warehouse_dsn, tmp_path, LINES, other)
    (tmp_path / "a.csv").write_text(HEADER + "1,pot,2\n")
    load(warehouse_dsn, tmp_path, LINES, other)
    rows = query(warehouse_dsn, "select source_name, product_name from raw_files.order_lines")
    assert sorted(rows) == [("branch", "mug"), ("shop", "pot")]


def test_customers_keep_the_last_row_of_the_latest_file(warehouse_dsn: str, tmp_path: Path) -> None:
    customers = {
        "name": "crm",
        "entity": "customers",
        "path": "*.csv",
        "columns": {"customer_key": "id", "email": "email"},
    }
    (tmp_path / "1.csv").write_text("id,email\n1,a@example.org\n2,b@example.org\n1,c@example.org\n")
    (tmp_path / "2.csv").write_text("id,email\n2,d@example.org\n,nobody@example.org\n")
    assert load(warehouse_dsn, tmp_path, customers)["rejected"] == 1
    rows = query(warehouse_dsn, "select customer_key, email from raw_files.customers order by 1")
    assert rows == [("1", "c@example.org"), ("2", "d@example.org")]


def test_telephone_numbers_follow_the_default_region_and_links_land(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    customers = {
        "name": "crm",
        "entity": "customers",
        "path": "*.csv",
        "columns": {
            "customer_key": "id",
            "phone": "phone",
            "country": "country",
            "linked_source": {"constant": "woocommerce"},
            "linked_customer_key": "account",
        },
    }
    (tmp_path / "1.csv").write_text(
        "id,phone,country,account\n1,0660 123456,,7\n2,044 6681800,ch,\n"
    )
    landed = (
        "select phone_e164, linked_source, linked_customer_key from raw_files.customers"
        " order by customer_key"
    )
    for region, phone in (("DE", None), ("AT", "+43660123456")):
        load(warehouse_dsn, tmp_path, customers, phone_region=region)
        assert query(warehouse_dsn, landed) == [
            (phone, "woocommerce", "7"),
            ("+41446681800", "woocommerce", None),
        ]
    assert load(warehouse_dsn, tmp_path, customers, phone_region="AT")["tables"] == {"customers": 0}


def test_spend_of_a_source_and_day_comes_from_the_latest_file_that_has_both(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    spend = {
        "name": "advertising",
        "entity": "spend",
        "path": "*.csv",
        "columns": {
            "acquisition_source": "source",
            "spent_on": "day",
            "amount": "cost",
            "currency": {"constant": "eur"},
        },
    }
    header = "source,day,cost\n"
    # Two campaigns of one source and day are two rows.
    (tmp_path / "1.csv").write_text(header + "Google,2026-03-01,5\nGoogle,2026-03-02,7\n")
    (tmp_path / "2.csv").write_text(header + "google,2026-03-02,8\ngoogle,2026-03-02,1.5\n")
    load(warehouse_dsn, tmp_path, spend)
    rows = "select acquisition_source, spent_on, amount, currency from raw_files.spend order by 2,3"
    first, second = date(2026, 3, 1), date(2026, 3, 2)
    assert query(warehouse_dsn, rows) == [
        ("Google", first, 5, "EUR"),
        ("google", second, Decimal("1.5"), "EUR"),
        ("google", second, 8, "EUR"),
    ]
    # A file that is gone keeps what no later file has.
    (tmp_path / "1.csv").unlink()
    (tmp_path / "2.csv").write_text(header + "GOOGLE,2026-03-02,9\nMeta,2026-03-01,4\n")
    load(warehouse_dsn, tmp_path, spend)
    assert query(warehouse_dsn, rows) == [
        ("Meta", first, 4, "EUR"),
        ("Google", first, 5, "EUR"),
        ("GOOGLE", second, 9, "EUR"),
    ]


def test_rejected_rows_are_kept_with_their_reason(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + "1,cup,two\n2,tea,3\n")
    for _ in range(2):
        load(warehouse_dsn, tmp_path)
    rows = query(
        warehouse_dsn,
        "select source, table_name, record_key, reason_code, reason, payload #>> '{cells,price}' "
        "from quarantine.rejected_records",
    )
    assert rows == [
        (
            "files",
            "order_lines",
            "a.csv:1",
            "invalid_line_amount",
            "line_amount: is no number that fits",
            "two",
        )
    ]


def test_half_a_file_loads_nothing_and_the_next_run_goes_on(
    warehouse_dsn: str, tmp_path: Path
) -> None:
    (tmp_path / "1.csv").write_text(HEADER + "1,cup,2\n")
    load(warehouse_dsn, tmp_path)
    (tmp_path / "2.csv").write_text(HEADER + '2,"tea,3\n3,pot,3\n')
    with pytest.raises(DataError, match=r"2\.csv"):
        load(warehouse_dsn, tmp_path)
    assert landed(warehouse_dsn) == {"1": ["cup"]}
    (tmp_path / "2.csv").write_text(HEADER + "2,tea,3\n")
    load(warehouse_dsn, tmp_path)
    assert landed(warehouse_dsn) == {"1": ["cup"], "2": ["tea"]}


def test_nothing_personal_stays_in_the_staging_copy(warehouse_dsn: str, tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text(HEADER + "1,cup,2\n")
    load(warehouse_dsn, tmp_path)
    assert query(warehouse_dsn, "select count(*) from raw_files_staging.order_lines") == [(0,)]


Files = dict[str, dict[str, list[str]]]


@settings(
    max_examples=MAX_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    nights=st.lists(
        st.dictionaries(
            st.sampled_from(["1", "2", "3"]),
            st.dictionaries(
                st.sampled_from("ab"), st.lists(st.sampled_from("xy"), min_size=1, max_size=2)
            ),
            min_size=1,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_sequence_of_nights_ends_as_the_rules_say(
    warehouse_dsn: str, tmp_path: Path, nights: list[Files]
) -> None:
    """Files come, change, swap contents and go; the model is a plain dictionary."""
    with psycopg.connect(warehouse_dsn, autocommit=True) as connection:
        connection.execute("drop schema if exists raw_files, raw_files_staging cascade")
        connection.execute("truncate operations.loaded_files")
    held: dict[str, Held] = {}
    for night in nights:
        for old in tmp_path.glob("*.csv"):
            old.unlink()
        present = {
            f"{name}.csv": HEADER
            + "".join(f"{order},{line},1\n" for order, lines in orders.items() for line in lines)
            for name, orders in night.items()
        }
        for name, content in present.items():
            (tmp_path / name).write_text(content)
        load(warehouse_dsn, tmp_path)
        held = _held_after(held, present)
        expected = {order: lines for _, orders in held.values() for order, lines in orders.items()}
        assert landed(warehouse_dsn) == expected


Held = tuple[str, dict[str, list[str]]]
"""A file's content, and the orders that come from it."""


def _held_after(held: dict[str, Held], present: dict[str, str]) -> dict[str, Held]:
    """The rules as a plain dictionary: file name -> what it gives after a night."""
    once = {content: name for name, content in sorted(present.items())}
    candidates = {
        name: (content, orders)
        for name, (content, orders) in held.items()
        if name not in present and content not in once
    }
    for content, name in once.items():
        orders: dict[str, list[str]] = {}
        for row in content.splitlines()[1:]:
            order, line, _price = row.split(",")
            orders.setdefault(order, []).append(line)
        candidates[name] = (content, {order: sorted(lines) for order, lines in orders.items()})
    last = {order: name for name in sorted(candidates) for order in candidates[name][1]}
    return {
        name: (content, {order: lines for order, lines in orders.items() if last[order] == name})
        for name, (content, orders) in candidates.items()
    }


@pytest.mark.parametrize("failpoint", ["extract.files.before_load", "extract.files.after_load"])
def test_a_killed_run_leaves_no_trace_in_the_result(
    warehouse_dsn: str, tmp_path: Path, failpoint: str
) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "1.csv").write_text(HEADER + "1,cup,2\n1,cup,2\n2,tea,3\n")
    config = tmp_path / "datasets.yml"
    config.write_text(yaml.safe_dump([LINES]))
    program = textwrap.dedent(
        """
        import sys, yaml
        from pathlib import Path
        from tests.integration import test_sources_files as tests
        dsn, folder, config = sys.argv[1:]
        tests.load(dsn, Path(folder), *yaml.safe_load(Path(config).read_text()))
        """
    )
    root = Path(__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", program, warehouse_dsn, str(folder), str(config)],
        env={
            **os.environ,
            "KUNDENKREIS_FAILPOINT": failpoint,
            "PYTHONPATH": f"{root}:{root / 'plugins'}",
        },
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    load(warehouse_dsn, folder)
    assert landed(warehouse_dsn) == {"1": ["cup", "cup"], "2": ["tea"]}
    assert query(warehouse_dsn, "select rows from operations.loaded_files") == [(3,)]
