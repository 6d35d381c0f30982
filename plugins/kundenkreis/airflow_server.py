"""Airflow itself on this machine: `airflow standalone` over the warehouse's PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from rich.console import Console

from kundenkreis import airflow_init
from kundenkreis.airflow_api import local_server_file
from kundenkreis.airflow_home import airflow_environment
from kundenkreis.errors import KundenkreisError
from kundenkreis.pools import needed_pools
from kundenkreis.settings import home, load_settings
from kundenkreis.warehouse import embedded

USER = "admin"


def serve(console: Console, port: int, wait_seconds: float = 180) -> int:
    """Run Airflow until Ctrl-C, and print its address and login when it answers.

    Raises:
        KundenkreisError: it did not come up; names its log.
    """
    port = _free_port(port)
    settings = {**environment(), **_of_this_server(port)}
    log = home() / "logs" / "airflow.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    console.print("Starting Airflow (the first time takes a minute) …")
    airflow_init.initialise(needed_pools(load_settings()), settings, lambda line: None)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 (Airflow of this environment)
            [str(Path(sys.executable).parent / "airflow"), "standalone"],
            env={**os.environ, **settings},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stopped by a service manager
    try:
        _wait_until_it_answers(process, port, wait_seconds, log)
        console.print(f"Airflow: [bold]http://127.0.0.1:{port}[/]")
        console.print(f"Login:   {USER} / {_password()}", highlight=False)
        console.print("The DAG customer_lifecycle is on. Press Ctrl-C to stop.")
        # `kundenkreis approve` answers its questions.
        local_server_file().write_text(json.dumps({"port": port, "pid": process.pid, "user": USER}))
        return process.wait()
    except KeyboardInterrupt:
        console.print("Stopping Airflow …")
        return 0
    finally:
        local_server_file().unlink(missing_ok=True)
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End Airflow with all its parts, which are one process group."""
    for stop_signal, seconds in ((signal.SIGINT, 10), (signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(process.pid, stop_signal)
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def environment() -> dict[str, str]:
    """Airflow's settings; its database is the embedded server's, where no other is set."""
    metadata = os.environ.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN")
    if metadata is None:
        dsn = embedded.start().dsn("airflow")
        metadata = dsn.replace("postgresql://", "postgresql+psycopg2://", 1)
    return airflow_environment(metadata)


def _of_this_server(port: int) -> dict[str, str]:
    return {
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _wait_until_it_answers(
    process: subprocess.Popen[bytes], port: int, wait_seconds: float, log: Path
) -> None:
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            url = f"http://127.0.0.1:{port}/api/v2/monitor/health"
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise KundenkreisError(f"Airflow did not come up within {wait_seconds:.0f} s. Its log: {log}")


def _password() -> str:
    file = home() / "airflow" / "simple_auth_manager_passwords.json.generated"
    passwords = json.loads(file.read_text()) if file.exists() else {}
    return str(passwords.get(USER, f"(see {file})"))


def _free_port(wanted: int) -> int:
    for port in range(wanted, wanted + 50):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise KundenkreisError(f"No free port between {wanted} and {wanted + 49}. Use --port.")
