"""The command line: help, and one message per mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from typer.testing import CliRunner

from kundenkreis import cli, sandbox_control
from kundenkreis.errors import ConfigError, KundenkreisError
from kundenkreis.sandbox_control import SandboxState
from kundenkreis.settings import repository_root
from kundenkreis.warehouse import embedded
from tests.command_line import Call, entry_point

SECRET = "s3cret-value"


@pytest.fixture
def call(tmp_path: Path, clean_env: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the entry point in an empty home; exit code, output and error output."""
    clean_env.setenv("KUNDENKREIS_HOME", str(tmp_path))
    clean_env.setenv("COLUMNS", "300")

    return entry_point(clean_env, capsys)


@pytest.fixture
def nothing_starts(clean_env: pytest.MonkeyPatch) -> None:
    """A server that starts fails the test."""

    def start(*_: Any, **__: Any) -> None:
        raise AssertionError("something was started")

    clean_env.setattr(embedded, "start", start)
    clean_env.setattr(sandbox_control, "start", start)
    clean_env.setattr(subprocess, "Popen", start)


# Help


def _commands(group: Any, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += _commands(command, (*prefix, name))
        found.append(((*prefix, name), command))
    return found


COMMANDS = _commands(typer.main.get_command(cli.app))


def test_without_a_command_the_help_names_them_all() -> None:
    outcome = CliRunner().invoke(cli.app, [], env={"COLUMNS": "200"})
    for path, _ in COMMANDS:
        if len(path) == 1:
            assert path[0] in outcome.output


@pytest.mark.parametrize(
    ("path", "command"), COMMANDS, ids=[" ".join(path) for path, _ in COMMANDS]
)
def test_every_command_and_option_says_what_it_does(path: tuple[str, ...], command: Any) -> None:
    assert command.help
    assert command.help.strip().split("\n")[0].endswith((".", ".`"))
    options = [option for option in command.params if option.param_type_name == "option"]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("path", ["run", "status", "plan", "demo", "up", "warehouse", "sandbox"])
def test_help_of_a_command(path: str, nothing_starts: None) -> None:
    outcome = CliRunner().invoke(cli.app, [path, "--help"])
    assert outcome.exit_code == 0
    assert "Usage" in outcome.output


def test_the_module_is_the_command() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "kundenkreis", "--help"],
        env={"PYTHONPATH": str(repository_root() / "plugins"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert "Customer lifecycle segments" in completed.stdout


# Mistakes


@pytest.mark.parametrize("text", ["soon", "31.01.2026", "2026-02-30", ""])
def test_as_of_must_be_a_date(call: Call, nothing_starts: None, text: str) -> None:
    code, output, errors = call("run", "--as-of", text)
    assert (code, output) == (1, "")
    assert errors == (
        f"KundenkreisError: --as-of: '{text}' is no date; write it as 2026-01-31, or "
        "2026-01-01..2026-01-31.\n"
    )


def test_days_in_a_row_are_run_one_by_one_up_to_the_first_that_fails(
    call: Call, nothing_starts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []

    def night(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[-4:-2] == ["run", "--as-of"]
        assert command[-1] == "--json"
        run.append(command[-2])
        report = json.dumps({"as_of_date": command[-2]})
        return subprocess.CompletedProcess(command, int(command[-2] == "2026-02-01"), report)

    monkeypatch.setattr(cli.subprocess, "run", night)
    code, output, errors = call("run", "--as-of", "2026-01-30..2026-02-02", "--json")
    assert (code, run) == (1, ["2026-01-30", "2026-01-31", "2026-02-01"])
    assert [report["as_of_date"] for report in json.loads(output)] == run
    assert errors == "Go on with --as-of 2026-02-01..2026-02-02.\n"


def test_days_in_a_row_begin_with_the_first(call: Call, nothing_starts: None) -> None:
    code, _, errors = call("run", "--as-of", "2026-02-01..2026-01-31")
    assert code == 1
    assert "2026-02-01 comes after 2026-01-31" in errors


def test_an_unknown_option_is_named(call: Call, nothing_starts: None) -> None:
    code, _, errors = call("run", "--asof", "2026-01-31")
    assert code == 2
    assert "--asof" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", [("status",), ("plan", "--json"), ("warehouse", "url")])
def test_without_a_warehouse_the_way_to_one_is_named(call: Call, command: tuple[str, ...]) -> None:
    code, output, errors = call(*command)
    assert (code, output) == (1, "")
    assert errors.startswith("WarehouseError: There is no warehouse yet. Run `kundenkreis wareh")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("command", ["status", "plan", "run"])
def test_a_warehouse_that_does_not_answer_is_named_without_its_password(
    call: Call, clean_env: pytest.MonkeyPatch, nothing_starts: None, command: str
) -> None:
    dsn = f"postgresql://loader:{SECRET}@127.0.0.1:1/warehouse"
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", dsn)
    code, _, errors = call(command)
    assert code == 1
    assert errors.startswith("WarehouseError: The warehouse at 127.0.0.1:1/warehouse cannot be")
    assert SECRET not in errors
    assert "Traceback" not in errors


def test_a_malformed_credential_is_named_and_not_repeated(
    call: Call, clean_env: pytest.MonkeyPatch
) -> None:
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", f'{{"password": "{SECRET}"')
    code, _, errors = call("warehouse", "url")
    assert code == 1
    assert errors.startswith("CredentialError: AIRFLOW_CONN_WAREHOUSE is no valid JSON")
    assert SECRET not in errors


def test_a_mistake_in_the_config_is_named(
    call: Call, clean_env: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "sources.yml").write_text("")
    (folder / "model.yml").write_text("refund_polcy: net\n")
    clean_env.setenv("KUNDENKREIS_CONFIG", str(folder))
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://127.0.0.1:1/warehouse")
    code, _, errors = call("run")
    assert code == 1
    assert errors.startswith(f"ConfigError: {folder}/model.yml:1: refund_polcy: unknown key.")


def test_brackets_in_a_message_are_no_markup(call: Call, clean_env: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ConfigError("segments.yml:3: found [/red] [bold]x")

    clean_env.setattr(cli, "app", fail)
    assert call()[2] == "ConfigError: segments.yml:3: found [/red] [bold]x\n"


def test_an_error_of_postgresql_is_one_message(call: Call, clean_env: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise psycopg.errors.InsufficientPrivilege(
            "permission denied for schema marts\nDETAIL: Key (email)=(anna@example.com) exists."
        )

    clean_env.setattr(cli, "app", fail)
    code, _, errors = call()
    expected = "WarehouseError: PostgreSQL refused: permission denied for schema marts\n"
    assert (code, errors) == (1, expected)


def test_a_bug_is_not_hidden(clean_env: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    clean_env.setattr(cli, "app", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main()


# The sandbox


def _running(clean_env: pytest.MonkeyPatch, **connections: str) -> None:
    from datetime import date

    state = SandboxState(8123, 1, date(2026, 1, 31), connections)
    clean_env.setattr(sandbox_control, "running", lambda: state)


def test_a_running_sandbox_stands_in_where_nothing_is_set(
    call: Call, clean_env: pytest.MonkeyPatch
) -> None:
    """Its note is not on the standard output, which may be JSON."""
    import os

    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://127.0.0.1:1/warehouse")
    clean_env.setattr(os, "environ", dict(os.environ))
    _running(clean_env, AIRFLOW_CONN_HUBSPOT="http://crm", AIRFLOW_CONN_OTHER="http://other")
    code, output, errors = call("run", "--json")
    assert (code, output) == (1, "")  # the warehouse above does not answer
    assert "No connection is set: the sandbox on port 8123 is used." in errors
    assert os.environ["AIRFLOW_CONN_HUBSPOT"] == "http://crm"
    assert "AIRFLOW_CONN_OTHER" not in os.environ


def test_one_connection_of_ones_own_keeps_the_sandbox_out(
    call: Call, clean_env: pytest.MonkeyPatch
) -> None:
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://127.0.0.1:1/warehouse")
    clean_env.setenv("AIRFLOW_CONN_WOOCOMMERCE", "https://shop.example.com")
    _running(clean_env, AIRFLOW_CONN_HUBSPOT="http://crm")
    assert "sandbox" not in call("run")[2]


def test_advancing_needs_a_running_sandbox(call: Call) -> None:
    code, _, errors = call("sandbox", "advance")
    assert code == 1
    assert "No sandbox runs. `kundenkreis sandbox start` starts one." in errors


def test_a_sandbox_that_fails_to_advance_names_its_log(clean_env: pytest.MonkeyPatch) -> None:
    _running(clean_env)
    state = sandbox_control.running()
    assert state is not None
    closed = SandboxState(1, state.pid, state.until, {})
    clean_env.setattr(sandbox_control, "running", lambda: closed)
    with pytest.raises(
        KundenkreisError, match=r"did not advance: ConnectError\. Its log: .*server"
    ):
        sandbox_control.advance(1)


def test_stopping_what_does_not_run(call: Call) -> None:
    assert call("sandbox", "stop") == (0, "It was not running.\n", "")
    assert call("warehouse", "stop") == (0, "It was not running.\n", "")
