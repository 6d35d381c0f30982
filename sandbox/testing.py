"""Run a sandbox in a process of its own for the length of a test."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from sandbox.service import Sandbox

_ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Handle:
    """A running sandbox. `connections` maps AIRFLOW_CONN_* names to their JSON values."""

    home: Path
    base_url: str
    connections: dict[str, str]
    process: subprocess.Popen[bytes]

    def call(self, method: str, name: str, body: dict[str, Any] | None = None) -> Any:
        """Call the control API and give its JSON."""
        request = urllib.request.Request(  # noqa: S310 - our own address
            f"{self.base_url}/_sandbox/{name}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - as above
            return json.load(answer)

    def state(self) -> dict[str, Any]:
        """Clock, counts, faults."""
        result: dict[str, Any] = self.call("GET", "state")
        return result

    def advance(self, days: int = 1) -> dict[str, Any]:
        """Let days happen."""
        result: dict[str, Any] = self.call("POST", "advance", {"days": days})
        return result

    def faults(self, **fault: Any) -> None:
        """Switch a fault on; the names are the fields of `sandbox.faults.Fault`."""
        self.call("POST", "faults", fault)

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self.call("DELETE", "faults")

    def requests(self, bodies: bool = False) -> list[dict[str, Any]]:
        """The request log, oldest first."""
        result: list[dict[str, Any]] = self.call("GET", f"requests?bodies={int(bodies)}")
        return result

    def clear_requests(self) -> None:
        """Forget the request log."""
        self.call("DELETE", "requests")

    def audiences(self) -> dict[str, dict[str, dict[str, str]]]:
        """Vendor to audience to address to status."""
        result: dict[str, dict[str, dict[str, str]]] = self.call("GET", "audiences")
        return result

    def unsubscribe(self, vendor: str, address: str, kind: str = "unsubscribe") -> None:
        """Let a person leave inside the tool; kind may be bounce, complaint, blocklist, confirm."""
        self.call("POST", "unsubscribe", {"vendor": vendor, "address": address, "kind": kind})

    def jobs(self, **values: Any) -> None:
        """How Klaviyo's imports go: polls, end (complete, cancelled, lost)."""
        self.call("POST", "jobs", values)

    def kill(self) -> None:
        """Kill the process as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_sandbox(
    home: Path,
    customers: int = 200,
    seed: int = 1,
    until: date = date(2026, 11, 22),
    port: int = 0,
    enforce_limits: bool = False,
) -> Iterator[Handle]:
    """Serve a sandbox from `home` and stop it afterwards; an existing home goes on.

    Raises:
        RuntimeError: it did not start within 60 seconds.
    """
    home.mkdir(parents=True, exist_ok=True)
    ready = home / "test-ready.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sandbox", "serve", "--home", str(home)]
    command += ["--customers", str(customers), "--seed", str(seed), "--until", until.isoformat()]
    command += ["--port", str(port), "--ready-file", str(ready)]
    if enforce_limits:
        command.append("--enforce-limits")
    log = (home / "server.log").open("ab")
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    process = subprocess.Popen(  # noqa: S603 - our own command line
        command, cwd=_ROOT, env=environment, stdout=log, stderr=log
    )
    try:
        started = _wait(process, ready, home / "server.log")
        yield Handle(home, f"http://127.0.0.1:{started['port']}", started["connections"], process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path) -> dict[str, Any]:
    for _ in range(600):
        if ready.exists():
            started: dict[str, Any] = json.loads(ready.read_text(encoding="utf-8"))
            return started
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise RuntimeError(f"the sandbox did not start: {log.read_text(encoding='utf-8')[-2000:]}")


class InProcessTransport(httpx.BaseTransport):
    """Calls a sandbox in this process: no socket, no server. Requests take turns."""

    def __init__(self, sandbox: Sandbox) -> None:
        from sandbox.server import create_app

        self._app = httpx.ASGITransport(create_app(sandbox))
        self._loop = asyncio.new_event_loop()
        self._turn = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request; a connection cut by a fault raises as a real one would."""
        from sandbox.server import ConnectionDropped

        request.read()
        with self._turn:
            try:
                return self._loop.run_until_complete(self._answer(request))
            except ConnectionDropped as dropped:
                raise httpx.RemoteProtocolError(str(dropped), request=request) from None

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._app.handle_async_request(request)
        content = await answer.aread()
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)

    def close(self) -> None:
        """Close the event loop."""
        self._loop.close()


def in_process(sandbox: Sandbox) -> httpx.Client:
    """A client of a sandbox in this process; relative addresses start at its root."""
    return httpx.Client(transport=InProcessTransport(sandbox), base_url="http://testserver")


def sign(
    method: str, url: str, parameters: dict[str, Any], key: str, secret: str
) -> dict[str, str]:
    """`parameters` with a one-legged OAuth 1.0a signature (HMAC-SHA256), for query strings."""
    from sandbox.vendors.woocommerce import signature_base

    signed = {name: str(value) for name, value in parameters.items()} | {
        "oauth_consumer_key": key,
        "oauth_nonce": uuid.uuid4().hex,
        "oauth_signature_method": "HMAC-SHA256",
        "oauth_timestamp": str(int(time.time())),
    }
    base = signature_base(method, url, list(signed.items()))
    digest = hmac.new(f"{secret}&".encode(), base.encode(), hashlib.sha256).digest()
    return signed | {"oauth_signature": base64.b64encode(digest).decode()}
