"""The message of a stopped run, and what importing a gate costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kundenkreis.quality.checkpoint import Outcome
from kundenkreis.quality.gate import (
    _docs_folder,
    data_docs_of,
    failure_message,
    keep_newest,
    link_data_docs,
)


def _outcome(number: int, raised: bool = False) -> Outcome:
    return Outcome(
        expectation_id=f"landing.raw_shop.orders.rule_{number}",
        expectation="expect_column_values_to_be_unique",
        table="raw_shop.orders",
        severity="critical",
        success=False,
        raised=raised,
        observed="24 of 5000 rows (0.48 %)",
        limit="no id twice",
        description="No id occurs twice.",
        action="Load again.",
        find_rows="select id from raw_shop.orders",
        measure=None,
    )


def test_the_message_names_everything_needed() -> None:
    message = failure_message("landing", [_outcome(1)], Path("/docs/index.html"))
    assert message.splitlines() == [
        "Gate landing stopped the run: 1 expectation failed.",
        "- raw_shop.orders: No id occurs twice. [landing.raw_shop.orders.rule_1, "
        "expect_column_values_to_be_unique, critical]",
        "  observed: 24 of 5000 rows (0.48 %); allowed: no id twice",
        "  what to do: Load again.",
        "  find the rows: select id from raw_shop.orders",
        "Data Docs: /docs/index.html.",
    ]


def test_a_long_message_shows_causes_before_consequences() -> None:
    outcomes = [_outcome(number, raised=number < 5) for number in range(8)]
    message = failure_message("landing", outcomes, None)
    assert message.splitlines()[0] == "Gate landing stopped the run: 8 expectations failed."
    assert message.index("rule_5,") < message.index("rule_0,")
    assert "- and 3 more: landing.raw_shop.orders.rule_2" in message
    assert "quality.gate_results" in message


def test_run_ids_become_folders_below_home() -> None:
    folder = _docs_folder("scheduled__2026-04-01T00:15:00+00:00", "marts")
    assert folder.parts[-3:] == ("data_docs", "scheduled__2026-04-01T00_15_00_00_00", "marts")
    assert _docs_folder("../../etc", "marts").parts[-3:] == ("data_docs", "_.._etc", "marts")


def test_only_the_newest_data_docs_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        run = tmp_path / f"run{number}"
        run.mkdir()
        os.utime(run, (number, number))
    keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run3", "run4"]
    keep_newest(tmp_path / "not there", 2)


def test_data_docs_are_found_under_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUNDENKREIS_HOME", str(tmp_path))
    docs = tmp_path / "data_docs"
    told: list[str] = []
    for number in (1, 2):
        pages = _docs_folder(f"run:{number}", "marts")
        pages.mkdir(parents=True)
        (pages / "index.html").touch()
        os.utime(pages.parent, (number, number))
        link_data_docs("latest", f"run:{number}", told.append)
        link_data_docs(f"publication_{number}", f"run:{number}", told.append)
    link_data_docs("publication_3", "a run of another machine", told.append)
    assert told == []
    assert (docs / "latest").resolve() == docs / "run_2"
    assert data_docs_of("run:1", "marts") == docs / "run_1" / "marts" / "index.html"
    assert data_docs_of("run:1", "landing") is None
    keep_newest(docs, 1)
    names = sorted(path.name for path in docs.iterdir())
    assert names == ["latest", "publication_2", "run_2"]


def test_a_link_that_cannot_be_made_decides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUNDENKREIS_HOME", str(tmp_path))
    _docs_folder("run", "marts").mkdir(parents=True)
    (tmp_path / "data_docs" / "latest").mkdir()
    told: list[str] = []
    link_data_docs("latest", "run", told.append)
    assert len(told) == 1
    assert "data_docs/latest" in told[0]
    assert sorted(path.name for path in (tmp_path / "data_docs").iterdir()) == ["latest", "run"]


def test_great_expectations_is_not_imported_before_a_gate_runs() -> None:
    script = (
        "import sys; import kundenkreis.quality, kundenkreis.quality.gate, "
        "kundenkreis.quality.suites.landing, kundenkreis.quality.suites.marts; "
        "sys.exit('great_expectations' in sys.modules or 'sqlalchemy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == 0
