"""What surrounds a night in this process: its output, its errors, Airflow's settings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kundenkreis import airflow_server, local_run
from kundenkreis.airflow_home import airflow_environment
from kundenkreis.errors import KundenkreisError
from kundenkreis.settings import repository_root


def test_everything_a_night_prints_goes_to_its_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "night.log"
    with pytest.raises(ZeroDivisionError), local_run._output_to(log):
        os.write(1, b"from a library\n")
        subprocess.run([sys.executable, "-S", "-c", "print('from a child')"], check=True)
        os.write(2, b"from its errors\n")
        raise ZeroDivisionError
    os.write(1, b"afterwards\n")
    assert log.read_text() == "from a library\nfrom a child\nfrom its errors\n"
    assert capfd.readouterr() == ("afterwards\n", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'Traceback (most recent call last):\n  File "x.py", line 3\n    load()\n'
            "kundenkreis.errors.ConfigError: model.yml:1: a: unknown key.\n",
            "ConfigError: model.yml:1: a: unknown key.",
        ),
        ("ImportError: no module\n\n", "ImportError: no module"),
    ],
)
def test_an_import_error_loses_its_stack_trace(text: str, message: str) -> None:
    assert local_run._last_line(text) == message


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and an environment without Airflow's settings."""
    for name in list(os.environ):
        if name.startswith("AIRFLOW"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KUNDENKREIS_HOME", str(tmp_path))
    return tmp_path


def test_airflow_is_told_where_everything_is(home: Path) -> None:
    values = airflow_environment("sqlite:///x.db")
    assert values["AIRFLOW_HOME"] == str(home / "airflow")
    assert values["AIRFLOW__CORE__DAGS_FOLDER"] == str(repository_root() / "dags")
    assert values["AIRFLOW__CORE__PLUGINS_FOLDER"] == str(repository_root() / "plugins")
    assert values["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "sqlite:///x.db"
    assert values["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"


def test_what_the_environment_sets_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "32")
    values = airflow_environment("sqlite:///x.db")
    assert values["AIRFLOW__CORE__PARALLELISM"] == "32"


def test_a_night_here_never_meets_the_database_of_a_scheduler(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    monkeypatch.setenv(name, "postgresql+psycopg2://airflow@db.example.com/airflow")
    database = tmp_path / "metadata.db"
    assert local_run._environment_over(database)[name] == f"sqlite:///{database}"


def test_connections_in_airflows_database_are_encrypted_with_a_key_of_ones_own(home: Path) -> None:
    from cryptography.fernet import Fernet

    first = airflow_environment("sqlite:///x.db")["AIRFLOW__CORE__FERNET_KEY"]
    assert Fernet(first.encode()).decrypt(Fernet(first.encode()).encrypt(b"x")) == b"x"
    assert airflow_environment("sqlite:///x.db")["AIRFLOW__CORE__FERNET_KEY"] == first
    assert (home / "airflow" / "fernet_key").stat().st_mode & 0o077 == 0
    (home / "airflow" / "fernet_key").unlink()
    assert airflow_environment("sqlite:///x.db")["AIRFLOW__CORE__FERNET_KEY"] != first


def test_telemetry_is_off(home: Path) -> None:
    values = airflow_environment("sqlite:///x.db")
    assert values["GX_ANALYTICS_ENABLED"] == "false"
    assert values["DBT_SEND_ANONYMOUS_USAGE_STATS"] == "false"
    assert values["RUNTIME__DLTHUB_TELEMETRY"] == "false"
    assert values["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = airflow_server._free_port(port)
        assert port < found < port + 50


def test_no_port_at_all_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: 0)
    with pytest.raises(KundenkreisError, match="No free port between 8080 and 8129"):
        airflow_server._free_port(8080)


def test_the_login_is_airflows_own(home: Path) -> None:
    assert "simple_auth_manager_passwords" in airflow_server._password()
    (home / "airflow").mkdir()
    file = home / "airflow" / "simple_auth_manager_passwords.json.generated"
    file.write_text('{"admin": "generated"}')
    assert airflow_server._password() == "generated"


def test_airflow_itself_listens_on_this_machine_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "sqlite:///x.db")
    values = {**airflow_server.environment(), **airflow_server._of_this_server(8099)}
    assert (values["AIRFLOW__API__HOST"], values["AIRFLOW__API__PORT"]) == ("127.0.0.1", "8099")
    assert values["PATH"].startswith(str(Path(sys.executable).parent))
