"""What the modules of the `kundenkreis` command share."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console

from kundenkreis.errors import KundenkreisError

console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; by default the login name.")]


def person(named: str | None) -> str:
    """Who acts, for the record."""
    import getpass

    if named is not None and named.strip():
        return named.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise KundenkreisError("The login name cannot be told here; say --by NAME.") from None


def migrated_warehouse() -> str:
    """The warehouse's URI, with everything in it that this version needs."""
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    return dsn


def start_warehouse_if_embedded() -> None:
    """Start the embedded PostgreSQL where no other warehouse is named."""
    if os.environ.get("AIRFLOW_CONN_WAREHOUSE"):
        return
    from kundenkreis.warehouse import embedded

    embedded.start()


def use_sandbox_if_nothing_else(until_yesterday: bool = False) -> None:
    """Take the running sandbox's connections where the environment names none of its own."""
    from kundenkreis import sandbox_control
    from kundenkreis.connections import environment_name
    from kundenkreis.settings import load_settings

    settings = load_settings()
    systems = [*settings.sources.values(), *settings.destinations.values()]
    wanted = {
        environment_name(system.connection) for system in systems if hasattr(system, "connection")
    }
    if not wanted or any(os.environ.get(name) for name in wanted):
        return
    if until_yesterday:
        state = sandbox_control.start()
        missing = (datetime.now(settings.model.zone).date() - timedelta(days=1) - state.until).days
        if missing > 0:
            state = sandbox_control.advance(missing)
    elif (running := sandbox_control.running()) is not None:
        state = running
    else:
        return
    # Not on the standard output, which may be JSON.
    errors.print(f"No connection is set: the sandbox on port {state.port} is used.")
    os.environ.update({name: state.connections[name] for name in wanted & set(state.connections)})


def print_json(value: Any) -> None:
    """Print a value as JSON, dates and times as text."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
