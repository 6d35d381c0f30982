"""``python -m sandbox serve|advance|fault|state``: run the sandbox, or talk to the running one."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run one command; the exit code is 0, or 1 with a message."""
    options = _parser().parse_args(arguments)
    try:
        result = options.command(options)
    except (ValueError, OSError) as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 1
    if result is not None:
        print(json.dumps(result, indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(required=True)
    serve = commands.add_parser("serve", help="run the sandbox until interrupted")
    serve.add_argument("--customers", type=int, default=5000, help="people known after 30 months")
    serve.add_argument("--seed", type=int, default=7)
    serve.add_argument(
        "--until",
        type=date.fromisoformat,
        default=datetime.now(UTC).date() - timedelta(days=1),
        help="last day that has happened, by default yesterday",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on")
    serve.add_argument("--port", type=int, default=0, help="0 takes a free one")
    serve.add_argument("--ready-file", type=Path, help="written when requests are accepted")
    serve.add_argument(
        "--enforce-limits",
        action="store_true",
        help="let the rate limits of HubSpot and Klaviyo act",
    )
    serve.set_defaults(command=_serve)
    advance = commands.add_parser("advance", help="let days happen in the running sandbox")
    advance.add_argument("--days", type=int, default=1)
    advance.set_defaults(command=lambda o: _call(o.home, "advance", "POST", {"days": o.days}))
    fault = commands.add_parser("fault", help="switch a fault on, or all off")
    fault.add_argument("--clear", action="store_true", help="switch all off")
    for name, kind in (
        ("vendor", str),
        ("path-prefix", str),
        ("kind", str),
        ("method", str),
        ("times", int),
        ("skip", int),
        ("retry-after", float),
        ("seconds", float),
        ("larger-than", int),
    ):
        fault.add_argument(f"--{name}", type=kind)
    fault.set_defaults(command=_fault)
    state = commands.add_parser("state", help="clock, counts and faults")
    state.set_defaults(command=lambda options: _call(options.home, "state", "GET"))
    for command in (serve, advance, fault, state):
        command.add_argument("--home", type=Path, required=True, help="folder of the state")
    return parser


def _serve(options: argparse.Namespace) -> None:
    # Imported here so that the other commands start quickly.
    from sandbox.server import serve
    from sandbox.service import Sandbox

    sandbox = Sandbox(
        options.home, options.customers, options.seed, options.until, options.enforce_limits
    )
    serve(
        sandbox,
        options.home,
        options.port,
        options.ready_file,
        lambda text: print(text, flush=True),
        host=options.host,
    )


def _fault(options: argparse.Namespace) -> Any:
    if options.clear:
        return _call(options.home, "faults", "DELETE")
    names = (
        *("vendor", "path_prefix", "kind", "method", "times", "skip"),
        *("retry_after", "seconds", "larger_than"),
    )
    values = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return _call(options.home, "faults", "POST", values)


def _call(home: Path, name: str, method: str, body: dict[str, Any] | None = None) -> Any:
    """Call the control API of the server that wrote ``ready.json``."""
    ready = home / "ready.json"
    if not ready.exists():
        raise ValueError(f"no sandbox was started with --home {home}")
    port = json.loads(ready.read_text(encoding="utf-8"))["port"]
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/_sandbox/{name}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310 - our address
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from None
    except urllib.error.URLError:
        raise ValueError(f"the sandbox of {home} does not answer on port {port}") from None


if __name__ == "__main__":
    sys.exit(main())
