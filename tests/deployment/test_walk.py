"""docs/your_data.md as a new user follows it: the page's own commands, in order, in a fresh folder.

Each `bash` block is run by a shell that ends at the first command that fails. What the next block
without a language shows has to be in what the command printed, with … for anything. Three things
are no commands: the administrator's SQL, the second terminal, and the button in Airflow's UI, which
is one request of its API.

It starts a real Airflow, so it runs with the other tests that do: `make test-deployment`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import psycopg
import pytest

from kundenkreis.settings import home, repository_root
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.embedded import EmbeddedServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        os.environ.get("KUNDENKREIS_TEST_DEPLOYMENT") != "1",
        reason="takes minutes; make test-deployment runs it",
    ),
]
ROOT = repository_root()
PAGE = ROOT / "docs" / "your_data.md"
ZONE = "Europe/Berlin"
_BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```\n(?=\n*(?:```\n(.*?)^```)?)", re.M | re.S)
_SECTION = re.compile(r"^## (\d+)\. .*$", re.M)
# A night that a gate stops, and a person whom nobody knows any more.
_ENDS_WITH_1 = ("END\nkundenkreis run\n", "kundenkreis explain")


@dataclass(frozen=True)
class Block:
    """Some lines of the page: a language, the text, and what it shows as the output."""

    language: str
    text: str
    shown: str


def _sections() -> dict[int, list[Block]]:
    """The blocks of each numbered section."""
    parts = _SECTION.split(PAGE.read_text(encoding="utf-8"))[1:]
    return {
        int(number): [
            Block(language, text, shown)
            for language, text, shown in _BLOCK.findall(body)
            if language
        ]
        for number, body in zip(parts[::2], parts[1::2], strict=True)
    }


def _pattern(shown: str) -> str:
    """Matches an output that holds the shown lines in their order; runs of spaces are equal."""
    words = [re.escape(part) for part in re.split(r"(?:\s|─|…)+", shown) if part]
    gaps = [
        r"[\s─]+" if set(gap) <= set(" ") else r"[\s\S]*?"
        for gap in re.findall(r"(?<=[^\s─…])[\s─…]+(?=[^\s─…])", shown)
    ]
    return words[0] + "".join(gap + word for gap, word in zip(gaps, words[1:], strict=True))


def _assert_shows(printed: str, shown: str) -> None:
    if shown:
        assert re.search(_pattern(shown), printed), f"the page shows\n{shown}\nprinted\n{printed}"


class Walker:
    """A terminal in a fresh checkout, beside a PostgreSQL server that knows nothing of us."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder / "kundenkreis"
        self.server = server
        self.airflow_port = _free_port()
        self._zone = _zone_without_midnight()
        self._variables = folder / "variables.sh"
        self._variables.write_text("")
        _copy_checkout(self.folder)
        for name in ("examples/own_files/export.py", "config/model.yml"):
            file = self.folder / name
            file.write_text(file.read_text().replace(ZONE, self._zone))
        (folder / "my_shop" / "config").mkdir(parents=True)
        shutil.copy(self.folder / "config" / "model.yml", folder / "my_shop" / "config")

    def walk(self, block: Block) -> str:
        """Run a block; what it sets stays for the next, as in a terminal."""
        script = (
            f"set -eo pipefail; . {self._variables}\n{self._here(block.text)}\n"
            f"export -p > {self._variables}\n"
            f"declare -p RECORD >> {self._variables} 2>/dev/null || true\n"
        )
        completed = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        expected = int(any(ending in block.text for ending in _ENDS_WITH_1))
        assert completed.returncode == expected, f"{block.text}\n{completed.stdout}"
        _assert_shows(completed.stdout, block.shown)
        return completed.stdout

    def in_second_terminal(self, block: Block, log: Path) -> subprocess.Popen[bytes]:
        """Run a block that does not end by itself."""
        text = self._here(block.text).replace(
            "kundenkreis up", f"exec kundenkreis up --port {self.airflow_port}"
        )
        # A shell's background job ignores Ctrl-C, and what is started here would inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with log.open("wb") as output:
            return subprocess.Popen(
                ["bash", "-ec", text],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse as its owner."""
        dsn = f"postgresql://kundenkreis:a-password@127.0.0.1:{self.server.port}/warehouse"
        with psycopg.connect(dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def _here(self, text: str) -> str:
        """The page's example of an address as that of this server; installing is done already."""
        text = text.replace("127.0.0.1:5432", f"127.0.0.1:{self.server.port}")
        return text.replace("make install\n", "").replace(ZONE, self._zone)

    def _environment(self) -> dict[str, str]:
        """That of somebody who has just logged in."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        code = f"{self.folder / 'plugins'}:{self.folder}"  # not the checkout of this test
        return {**kept, "HOME": str(self.folder.parent), "PYTHONPATH": code, "COLUMNS": "200"}


def _copy_checkout(folder: Path) -> None:
    """The files of the repository as they are now, with the environment of this test."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)


def _zone_without_midnight() -> str:
    """The page's time zone, or at its end of the day another: shortly before a night nobody is
    asked, and at midnight the day that is computed changes."""
    if 1 <= datetime.now(ZoneInfo(ZONE)).hour < 22:
        return ZONE
    return "Etc/GMT+12"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    """A PostgreSQL server of the user's own, and a checkout."""
    server = EmbeddedServer(home() / "walk_postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "SUPERUSER", "postgres")
        patch.setattr(embedded, "DATABASES", ())
        embedded.start(server)
        walker = Walker(tmp_path_factory.mktemp("walk"), server)
        try:
            yield walker
        finally:
            walker.walk(Block("bash", "kundenkreis sandbox stop", ""))
            embedded.stop(server)


def _administrate(server: EmbeddedServer, text: str) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        for statement in text.split(";"):
            if statement.strip():
                connection.execute(statement.encode())


def test_the_page_holds_from_an_empty_folder_to_one_person_erased(walker: Walker) -> None:
    sections = _sections()
    assert list(sections) == list(range(1, 11))
    for number, blocks in sections.items():
        for block in blocks:
            if block.language == "sql":
                _administrate(walker.server, block.text)
            elif number == 9 and "kundenkreis up" in block.text:
                _approve_in_airflow(walker, block)
            else:
                walker.walk(block)
    ((counted,),) = walker.rows(
        "select count(*) from marts.orders where order_id like '%A00010' and is_counted"
    )
    assert counted == 1  # came back from the quarantine, corrected


def _approve_in_airflow(walker: Walker, block: Block) -> None:
    """The night in Airflow: it asks, somebody presses the button, the same run sends."""
    log = walker.folder.parent / "up.log"
    process = walker.in_second_terminal(block, log)
    try:
        _wait(lambda: "Press Ctrl-C" in log.read_text(), 400, log)
        _assert_shows(log.read_text(), block.shown)
        with _logged_in(log.read_text()) as ui:
            open_questions = "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false"
            _wait(lambda: ui.get(open_questions).json()["hitl_details"], 400, log)
            (question,) = ui.get(open_questions).json()["hitl_details"]
            _assert_tells_what_to_decide(walker, question)
            waits = "/api/v2/dags/~/dagRuns/~/taskInstances?state=awaiting_input&state=deferred"
            # The task is parked a moment after its question shows. An answer within the next second
            # finds a scheduler (Airflow 3.3) that has not noticed, and calls the task lost.
            _wait(lambda: ui.get(waits).json()["task_instances"], 60, log)
            time.sleep(10)
            _press(ui, question, "Approve")
            run = (
                f"/api/v2/dags/customer_lifecycle/dagRuns/{question['task_instance']['dag_run_id']}"
            )
            _wait(lambda: ui.get(run).json()["state"] in ("success", "failed"), 400, log)
            assert ui.get(run).json()["state"] == "success"
        run_id = question["task_instance"]["dag_run_id"]
        decided = "select segment, decision, decided_by, decided_in, note, run_id from "
        assert walker.rows(f"{decided} activation.approvals") == [
            ("big_spenders", "approve", "admin", "airflow", "As agreed", run_id)
        ]
        # The question's run has delivered it, and nobody else.
        assert walker.rows(
            "select count(*) > 10, bool_and(run_id = %s) from activation.ledger"
            " where audience = 'Big spenders' and state = 'confirmed'".replace("%s", f"'{run_id}'")
        ) == [(True, True)]
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)


def _wait(is_so: Any, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1)


def _logged_in(printed: str) -> httpx.Client:
    """A client with the address and the login that `kundenkreis up` printed."""
    address = re.search(r"Airflow: (\S+)", printed)
    login = re.search(r"Login: +(\S+) / (\S+)", printed)
    assert address and login
    answer = httpx.post(
        f"{address[1]}/auth/token", json={"username": login[1], "password": login[2]}, timeout=60
    )
    token = answer.json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=address[1], headers=headers, timeout=60)


def _assert_tells_what_to_decide(walker: Walker, question: dict[str, Any]) -> None:
    """What the page in the UI shows: the question, the plan's figures, two answers, a note."""
    assert question["subject"] in PAGE.read_text(encoding="utf-8")
    assert question["options"] == ["Approve", "Reject"]
    assert question["defaults"] is None
    assert list(question["params"]) == ["note"]
    ((joining,),) = walker.rows(
        "select adds from activation.held_audiences where segment = 'big_spenders'"
        " and publication_id = 2"
    )
    assert joining > 10
    assert f"{joining:,} would join, 0 would leave" in question["body"]


def _press(ui: httpx.Client, question: dict[str, Any], option: str) -> None:
    """What the button of Airflow's UI does."""
    task = question["task_instance"]
    answer = ui.patch(
        f"/api/v2/dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/"
        f"{task['task_id']}/{task['map_index']}/hitlDetails",
        json={"chosen_options": [option], "params_input": {"note": "As agreed"}},
    )
    assert answer.status_code == 200, answer.text
