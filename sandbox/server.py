"""The sandbox over HTTP: one FastAPI process for all four vendors and the control API.

The vendors get every path below their name; the control API lives under ``/_sandbox``. Handlers
are synchronous and short, so a request is taken or not, never half.
"""

from __future__ import annotations

import asyncio
import json
import os
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

from sandbox import faults
from sandbox.messages import Reply, Request
from sandbox.service import VENDORS, Sandbox, connections
from sandbox.vendors import mailchimp

# Open connections by the client's address, so that a fault can cut one.
_transports: dict[Any, asyncio.BaseTransport] = {}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


class ConnectionDropped(Exception):
    """Raised in place of cutting the connection where there is none (in-process tests)."""


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with its connection registered."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
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
        app.add_api_route(
            f"/{vendor}{{path:path}}",
            _vendor_route(app, sandbox, vendor),
            methods=_METHODS,
            include_in_schema=False,
        )
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
        return Response(status_code=204)
    return Response(answer.content, answer.status, answer.headers, answer.media_type)


def _add_control(app: FastAPI, sandbox: Sandbox) -> None:
    """The control API. It is not a vendor's, so it may say plainly what is wrong."""

    async def state() -> dict[str, Any]:
        return sandbox.state()

    async def advance(http: HttpRequest) -> Any:
        return _try(
            lambda days: sandbox.advance(int(days.get("days", 1))), await _json(http), sandbox
        )

    async def read_requests(bodies: int = 0) -> list[dict[str, Any]]:
        return sandbox.store.requests(bool(bodies))

    async def clear_requests() -> dict[str, bool]:
        sandbox.store.clear_requests()
        return {"cleared": True}

    async def add_fault(http: HttpRequest) -> Any:
        def add(values: dict[str, Any]) -> None:
            sandbox.faults.append(faults.parse(values))
            sandbox.keep_faults()

        return _try(add, await _json(http), sandbox)

    async def clear_faults() -> dict[str, Any]:
        sandbox.faults.clear()
        sandbox.keep_faults()
        return sandbox.state()

    async def audiences() -> dict[str, Any]:
        return sandbox.audiences()

    async def act(http: HttpRequest) -> Any:
        def unsubscribe(values: dict[str, Any]) -> None:
            tool = {"listmonk": sandbox.listmonk, "mailchimp": sandbox.mailchimp}.get(
                values.get("vendor", "")
            )
            if tool is None:
                raise ValueError("vendor must be listmonk or mailchimp")
            if not tool.act(str(values.get("address", "")), values.get("kind", "unsubscribe")):
                raise ValueError("the tool does not know that address")
            sandbox.store.commit()

        return _try(unsubscribe, await _json(http), sandbox)

    control: list[tuple[str, str, Callable[..., Any]]] = [
        ("GET", "state", state),
        ("POST", "advance", advance),
        ("GET", "requests", read_requests),
        ("DELETE", "requests", clear_requests),
        ("POST", "faults", add_fault),
        ("DELETE", "faults", clear_faults),
        ("GET", "audiences", audiences),
        ("POST", "unsubscribe", act),
    ]
    for method, name, action in control:
        app.add_api_route(f"/_sandbox/{name}", action, methods=[method], response_model=None)


async def _json(http: HttpRequest) -> dict[str, Any]:
    body = await http.body()
    value = json.loads(body or b"{}")
    return value if isinstance(value, dict) else {}


def _try(action: Callable[[dict[str, Any]], None], values: dict[str, Any], sandbox: Sandbox) -> Any:
    try:
        action(values)
    except (ValueError, TypeError, KeyError) as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    return sandbox.state()


def serve(
    sandbox: Sandbox,
    home: Path,
    port: int,
    ready_file: Path | None,
    announce: Callable[[str], None],
) -> None:
    """Serve until interrupted. Port 0 takes a free one; the home remembers it for a restart."""
    config = uvicorn.Config(
        create_app(sandbox),
        host="127.0.0.1",
        port=port,
        http=_Protocol,
        access_log=False,
        log_level="warning",
        lifespan="on",
        timeout_keep_alive=75,
    )
    socket = config.bind_socket()
    bound = int(socket.getsockname()[1])
    ready = {
        "port": bound,
        "pid": os.getpid(),
        "until": sandbox.until.isoformat(),
        "connections": {key: json.dumps(value) for key, value in connections(bound).items()},
    }
    lines = [f"{key}='{value}'" for key, value in ready["connections"].items()]  # type: ignore[attr-defined]
    config.app.router.lifespan_context = _announcing(  # type: ignore[union-attr]
        [
            (home / "connections.env", "\n".join(lines) + "\n"),
            (home / "ready.json", json.dumps(ready)),
        ]
        + ([(ready_file, json.dumps(ready))] if ready_file else []),
        lambda: announce(json.dumps(ready)),
    )
    uvicorn.Server(config).run(sockets=[socket])
    sandbox.store.close()


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
