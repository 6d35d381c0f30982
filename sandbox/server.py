"""The sandbox over HTTP: one FastAPI process for all five vendors and the control API.

The vendors get every path below their name; the control API lives under ``/_sandbox``. Handlers
are synchronous and short, so a request is taken or not, never half.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox.messages import Reply, Request
from sandbox.service import VENDORS, Sandbox, connections
from sandbox.vendors import mailchimp

# Open connections by the client's address, so that a fault can cut one.
_transports: dict[Any, asyncio.BaseTransport] = {}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


class ConnectionDropped(Exception):
    """Raised in place of cutting the connection where there is none (in-process tests)."""


class _Protocol(HttpToolsProtocol):  # type: ignore[misc, unused-ignore]
    """uvicorn's protocol, with its connection registered."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        _transports[transport.get_extra_info("peername")] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        _transports.pop(self.transport.get_extra_info("peername"), None)
        super().connection_lost(exc)


def create_app(sandbox: Sandbox) -> FastAPI:
    """The application over a sandbox."""
    app = FastAPI(title="Kundenkreis sandbox", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.sandbox = sandbox
    app.state.mailchimp_connections = 0
    for vendor in VENDORS:
        # A plain route: the vendors' own checks replace the framework's.
        app.add_route(f"/{vendor}{{path:path}}", _vendor_route(app, sandbox, vendor), _METHODS)
    _add_control(app, sandbox)
    return app


def _vendor_route(
    app: FastAPI, sandbox: Sandbox, vendor: str
) -> Callable[[HttpRequest], Awaitable[Response]]:
    async def route(http: HttpRequest) -> Response:
        request = await _read(http, vendor)
        if vendor != "mailchimp":
            return await _answer(sandbox, vendor, request, http)
        app.state.mailchimp_connections += 1
        try:
            if app.state.mailchimp_connections > mailchimp.CONNECTION_LIMIT:
                refused = mailchimp.problem(
                    429,
                    "Too Many Requests",
                    "You have exceeded the limit of 10 simultaneous connections.",
                )
                sandbox.log(vendor, request, refused, None)
                return _response(refused)
            return await _answer(sandbox, vendor, request, http)
        finally:
            app.state.mailchimp_connections -= 1

    return route


async def _read(http: HttpRequest, vendor: str) -> Request:
    query = http.scope["query_string"].decode()
    path = http.scope["path"].removeprefix(f"/{vendor}")
    address = f"{http.url.scheme}://{http.headers.get('host', 'localhost')}"
    return Request(
        method=http.method,
        path=path or "/",
        query=tuple(parse_qsl(query, keep_blank_values=True)),
        headers={key.lower(): value for key, value in http.headers.items()},
        body=await http.body(),
        url=address + quote(http.scope["path"], safe="/-._~") + (f"?{query}" if query else ""),
    )


async def _answer(sandbox: Sandbox, vendor: str, request: Request, http: HttpRequest) -> Response:
    fault = sandbox.take_fault(vendor, request)
    if fault is not None and fault.kind == "slow":
        await asyncio.sleep(fault.seconds)
    if fault is not None and fault.kind == "drop_before":
        sandbox.log(vendor, request, Reply(0, b""), fault)
        return await _drop(http)
    answer = sandbox.handle(vendor, request, fault)
    if fault is not None and fault.kind == "drop_after":
        return await _drop(http)
    return _response(answer)


async def _drop(http: HttpRequest) -> Response:
    """Cut the connection without an answer."""
    client = http.scope.get("client")
    transport = _transports.get(tuple(client)) if client else None
    if transport is None:
        raise ConnectionDropped("the connection was dropped by a fault")
    transport.abort()  # type: ignore[attr-defined]
    # Let the loop notice, so that nothing is written to a closed connection.
    for _ in range(3):
        await asyncio.sleep(0)
    return Response(status_code=204)


def _response(answer: Reply) -> Response:
    if answer.status == 204:
        return Response(status_code=204, headers=answer.headers)
    return Response(answer.content, answer.status, answer.headers, answer.media_type)


def _add_control(app: FastAPI, sandbox: Sandbox) -> None:
    """The control API. It is not a vendor's, so it may say plainly what is wrong."""

    def read(name: str, action: Callable[[], Any]) -> None:
        async def route() -> Any:
            return action()

        app.add_api_route(f"/_sandbox/{name}", route, methods=["GET"], response_model=None)

    def change(method: str, name: str, action: Callable[[dict[str, Any]], None]) -> None:
        async def route(http: HttpRequest) -> Any:
            try:
                action(await _json(http))
            except (ValueError, TypeError, KeyError) as error:
                return JSONResponse({"error": str(error)}, status_code=400)
            return sandbox.state()

        app.add_api_route(f"/_sandbox/{name}", route, methods=[method], response_model=None)

    async def requests(bodies: int = 0) -> list[dict[str, Any]]:
        return sandbox.store.requests(bool(bodies))

    app.add_api_route("/_sandbox/requests", requests, methods=["GET"], response_model=None)
    read("state", sandbox.state)
    read("audiences", sandbox.audiences)
    change("POST", "advance", lambda values: sandbox.advance(int(values.get("days", 1))))
    change("DELETE", "requests", lambda values: sandbox.store.clear_requests())
    change("POST", "faults", lambda values: sandbox.add_fault(values))
    change("DELETE", "faults", lambda values: sandbox.clear_faults())
    change("POST", "unsubscribe", lambda values: sandbox.act(**values))
    change("POST", "jobs", lambda values: sandbox.set_jobs(**values))


async def _json(http: HttpRequest) -> dict[str, Any]:
    body = await http.body()
    value = json.loads(body or b"{}")
    return value if isinstance(value, dict) else {}


def serve(
    sandbox: Sandbox,
    home: Path,
    port: int,
    ready_file: Path | None,
    announce: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
) -> None:
    """Serve until interrupted. Port 0 takes a free one; the home remembers it for a restart."""
    app = create_app(sandbox)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_Protocol,
        access_log=False,
        log_level="warning",
        lifespan="on",
        timeout_keep_alive=75,
    )
    listener = _listen(host, port, sandbox.store.meta("port"))
    bound = int(listener.getsockname()[1])
    sandbox.store.set_meta("port", bound)
    named = {key: json.dumps(value) for key, value in connections(bound).items()}
    ready = {
        "port": bound,
        "pid": os.getpid(),
        "until": sandbox.until.isoformat(),
        "connections": named,
    }
    lines = [f"{key}='{value}'" for key, value in named.items()]
    app.router.lifespan_context = _announcing(
        [
            (home / "connections.env", "\n".join(lines) + "\n"),
            (home / "ready.json", json.dumps(ready)),
        ]
        + ([(ready_file, json.dumps(ready))] if ready_file else []),
        lambda: announce(json.dumps(ready)),
    )
    uvicorn.Server(config).run(sockets=[listener])
    sandbox.store.close()


def _listen(host: str, port: int, last: int | None) -> socket.socket:
    """A listening socket; where any port will do, the one of the last time when it is free, so
    that connections written down before a restart stay valid."""
    candidates = [last, 0] if port == 0 and last else [port]
    for candidate in candidates:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
        except OSError:
            listener.close()
            continue
        listener.listen(128)
        return listener
    raise OSError(f"port {port} of {host} is taken")


def _announcing(
    files: list[tuple[Path, str]], announce: Callable[[], None]
) -> Callable[[FastAPI], Any]:
    """A lifespan that writes the files when the server starts; each appears whole or not at all."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for path, text in files:
            partial = path.with_name(path.name + ".partial")
            partial.write_text(text, encoding="utf-8")
            partial.chmod(0o600)
            partial.replace(path)
        announce()
        yield

    return lifespan
