"""Runs dbt inside this process, with the night's variables and readable errors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from kundenkreis.errors import KundenkreisError, TransformError, WarehouseError
from kundenkreis.redaction import first_lines
from kundenkreis.settings import Settings, home, repository_root
from kundenkreis.warehouse.connection import dbt_environment

Progress = Callable[[str], None]

# Variables that only say something while a model runs, and what stands for them while dbt parses.
# dbt parses the whole project anew where any variable differs, and these differ every night; with
# the same text each time a night takes up the parse of the one before.
_WHILE_PARSING: Mapping[str, Any] = {
    "as_of_date": "2000-01-01",
    "built_as_of_date": "2000-01-01",
    "new_loads": {},
    "released_exchange_rates": [],
    "run_id": "",
}


def night_vars(
    settings: Settings, as_of_date: date, marts_schema: str, **more: Any
) -> dict[str, Any]:
    """The variables of every dbt call of one night; the same set keeps dbt's parse cache valid."""
    return {
        **settings.dbt_vars(),
        "as_of_date": as_of_date.isoformat(),
        "marts_schema": marts_schema,
        **more,
    }


def run_dbt(
    command: str,
    arguments: list[str],
    *,
    dsn: str,
    variables: Mapping[str, Any],
    progress: Progress,
) -> dict[str, int]:
    """Run one dbt command.

    Args:
        command: for example ``build``.
        arguments: selection and options.
        dsn: the warehouse.
        variables: all dbt variables.
        progress: gets a line per finished node.

    Returns:
        Counts per status, for example ``{"success": 31, "pass": 58, "warn": 1}``.

    Raises:
        TransformError: a model or test failed; names it with the database's message, redacted.
        WarehouseError: the server went away or its disk is full, which passes by itself or not
            at all by another model.
    """
    # One target folder per colour keeps the partial parse of each.
    target = home() / "dbt" / f"target_{variables.get('marts_schema', 'none')}"
    target.mkdir(parents=True, exist_ok=True)
    logs = home() / "dbt" / "logs"
    with _environment(dbt_environment(dsn)):
        from dbt.cli.main import dbtRunner

        builds = command in ("build", "run")  # the others exist for what dbt writes
        manifest = _parsed(target, logs, variables) if builds else None
        runner = dbtRunner(manifest=manifest, callbacks=[_reporter(progress)])
        with _environment(_artifacts() if builds else {}):
            outcome = runner.invoke([command, *arguments, *_options(target, logs, variables)])
    return _counts(command, outcome)


def _artifacts() -> dict[str, str]:
    """manifest.json and run_results.json take seconds: only where DBT_WRITE_JSON asks for them."""
    return {"DBT_WRITE_JSON": os.environ.get("DBT_WRITE_JSON", "false")}


def variables_while_parsing(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables that dbt parses with, for a build with these ones.

    What is null stays null: models exist or do not with built_as_of_date.
    """
    return {
        name: value if value is None else _WHILE_PARSING.get(name, value)
        for name, value in variables.items()
    }


def _parsed(target: Path, logs: Path, variables: Mapping[str, Any]) -> Any:
    """dbt's manifest of the project, taken from the target folder where nothing has changed.

    https://docs.getdbt.com/reference/programmatic-invocations#reusing-objects
    """
    from dbt.cli.main import dbtRunner

    outcome = dbtRunner().invoke(
        ["parse", *_options(target, logs, variables_while_parsing(variables)), "--no-write-json"]
    )
    _counts("parse", outcome)
    return outcome.result


def parse_project(folder: Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Parse the dbt project, which needs no warehouse.

    Args:
        folder: where dbt may write.
        variables: dbt variables.

    Returns:
        dbt's manifest (https://schemas.getdbt.com/dbt/manifest/v12.json).

    Raises:
        TransformError: the project cannot be parsed.
    """
    invocation = ["parse", "--no-partial-parse", *_options(folder, folder, variables)]
    with _environment({}):
        from dbt.cli.main import dbtRunner

        outcome = dbtRunner().invoke(invocation)
    _counts("parse", outcome)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return manifest


def _options(target: Path, logs: Path, variables: Mapping[str, Any]) -> list[str]:
    return [
        *("--project-dir", str(repository_root() / "dbt_project")),
        *("--profiles-dir", str(repository_root() / "dbt_project")),
        *("--target-path", str(target), "--log-path", str(logs)),
        # dbt's own log repeats statements and values; progress and errors come from the events.
        *("--log-level", "none", "--log-level-file", "none", "--no-print", "--no-use-colors"),
        "--no-send-anonymous-usage-stats",
        *("--vars", json.dumps(dict(variables), sort_keys=True)),
    ]


def _counts(command: str, outcome: Any) -> dict[str, int]:
    results = getattr(outcome.result, "results", None)
    if results is None:
        if outcome.success:
            return {}
        raise _stopped(command, [first_lines(str(outcome.exception), 6)])
    counts: dict[str, int] = {}
    failures = []
    for result in results:
        status = str(result.status)
        counts[status] = counts.get(status, 0) + 1
        if status in ("error", "fail", "runtime error"):
            message = first_lines(str(result.message or "no message"), 6)
            failures.append(f"{result.node.resource_type} {result.node.name}: {message}")
    if failures or not outcome.success:
        raise _stopped(command, failures or [first_lines(str(outcome.exception), 6)])
    return counts


# What libpq and the server say, in English: dbt hands on their text and no SQLSTATE.
_SERVER_GONE = re.compile(
    r"server closed the connection|terminating connection|connection (?:already|is) closed"
    r"|connection (?:to server .* )?(?:failed|refused)|could not connect"
    r"|the database system is (?:starting|shutting|in recovery)|connection has been closed",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(
    r"no space left on device|could not (?:extend|write to) file", re.IGNORECASE
)


def _stopped(command: str, failures: list[str]) -> KundenkreisError:
    """The error for what dbt could not do; the server's own failures are told from the models'."""
    more = f" (and {len(failures) - 5} more)" if len(failures) > 5 else ""
    shown = f"dbt {command} stopped: {' | '.join(failures[:5])}{more}"
    if any(_DISK_FULL.search(failure) for failure in failures):
        return WarehouseError(
            f"The disk of the warehouse is full: {shown}. Free space on it, or give it more; "
            "readers still see the last publication. Then clear the task, or leave it to the next "
            "night: the build begins anew."
        )
    if any(_SERVER_GONE.search(failure) for failure in failures):
        return WarehouseError(
            f"The warehouse went away: {shown}. The task is tried again; when it stays red, "
            "look into the server's log."
        )
    return TransformError(shown)


def _reporter(progress: Progress) -> Callable[[Any], None]:
    wanted = {"LogModelResult", "LogSeedResult", "LogTestResult"}

    def report(event: Any) -> None:
        if event.info.name not in wanted:
            return
        data = event.data
        # Each kind of event spells these in its own way.
        total = getattr(data, "total", 0) or getattr(data, "num_models", 0)
        name = data.node_info.node_name
        progress(f"{data.index}/{total} {data.status.lower()} {name} ({data.execution_time:.1f} s)")

    return report


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    values = {**values, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DO_NOT_TRACK": "1"}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
