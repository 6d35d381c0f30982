"""Starts, finds and stops the sandbox of this checkout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import httpx

from kundenkreis.errors import KundenkreisError
from kundenkreis.settings import home, repository_root


@dataclass(frozen=True)
class SandboxState:
    """A running sandbox: where it is, its last day, and how to log in to its five systems."""

    port: int
    pid: int
    until: date
    connections: dict[str, str]

    @property
    def connections_file(self) -> Path:
        """A file of environment variables for a shell."""
        return _folder() / "connections.env"


def start(*, customers: int = 5000, seed: int = 7, wait_seconds: float = 120) -> SandboxState:
    """Start the sandbox, or return the one that runs.

    Raises:
        KundenkreisError: it did not start; names its log.
    """
    if (state := running()) is not None:
        return state
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    log = folder / "server.log"
    command = [
        *(sys.executable, "-m", "sandbox", "serve", "--home", str(folder), "--port", "0"),
        *("--customers", str(customers), "--seed", str(seed), "--until", yesterday.isoformat()),
        *("--ready-file", str(ready)),
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            command,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            cwd=repository_root(),
            start_new_session=True,
        )
    deadline = time.monotonic() + wait_seconds
    while time.monotonic() < deadline:
        if (state := running()) is not None:
            return state
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise KundenkreisError(f"The sandbox did not start. Its log: {log}")


def running() -> SandboxState | None:
    """The sandbox that answers; None when there is none."""
    ready = _folder() / "ready.json"
    try:
        data = json.loads(ready.read_text())
        answer = httpx.get(f"http://127.0.0.1:{data['port']}/_sandbox/state", timeout=30)
        answer.raise_for_status()
        until = date.fromisoformat(answer.json()["until"])
    except (OSError, ValueError, KeyError, httpx.HTTPError):
        return None
    return SandboxState(data["port"], data["pid"], until, dict(data["connections"]))


def advance(days: int) -> SandboxState:
    """Let days pass in the running sandbox.

    Raises:
        KundenkreisError: no sandbox runs, or it failed.
    """
    state = running()
    if state is None:
        raise KundenkreisError("No sandbox runs. `kundenkreis sandbox start` starts one.")
    try:
        httpx.post(
            f"http://127.0.0.1:{state.port}/_sandbox/advance", json={"days": days}, timeout=300
        ).raise_for_status()
    except httpx.HTTPError as error:
        raise KundenkreisError(
            f"The sandbox did not advance: {type(error).__name__}. Its log: "
            f"{_folder() / 'server.log'}"
        ) from None
    return running() or state


def stop() -> bool:
    """Stop the sandbox; False when none ran."""
    state = running()
    if state is None:
        return False
    os.kill(state.pid, signal.SIGTERM)
    for _ in range(100):
        if running() is None:
            return True
        time.sleep(0.1)
    return False


def _folder() -> Path:
    return home() / "sandbox"
