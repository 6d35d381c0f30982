"""One gate: suites in, verdict out. Critical stops the run, warnings are reported."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psycopg

from kundenkreis.errors import GateFailure, WarehouseError
from kundenkreis.quality import limits
from kundenkreis.quality.checkpoint import (
    CheckpointResult,
    Outcome,
    run_checkpoint,
    safe_exception_text,
)
from kundenkreis.quality.suites.common import TableSuite
from kundenkreis.redaction import redact
from kundenkreis.settings import Settings, home
from kundenkreis.warehouse.connection import connect, with_option

if TYPE_CHECKING:
    from kundenkreis.quality.suites.rejections import Rejected

Gate = Literal["landing", "marts"]

_SHOWN_FAILURES = 5
# Per sort or hash: a million keys fit, which written to disk take twice the time. Two queries run
# at a time, each with one process to help it; more stand in each other's way on two cores.
_SERVER_SETTINGS = "-c work_mem=256MB -c max_parallel_workers_per_gather=1"

_INSERT = """
insert into quality.gate_results
    (run_id, gate, as_of_date, table_name, expectation, expectation_id, severity, success, raised,
     observed, expected, measured, duration_seconds)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""


def run_gate(
    gate: Gate,
    settings: Settings,
    dsn: str,
    run_id: str,
    as_of_date: date,
    marts_schema: str | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Validate what was landed, or the marts that are about to be published.

    Design sections 1 and 3. A run of the same id replaces its results.

    Args:
        gate: ``landing`` reads the raw tables of the enabled sources and the subscriber states;
            ``marts`` reads `marts_schema`.
        settings: the configuration of the run.
        dsn: libpq URI of the warehouse.
        run_id: under which results and Data Docs are kept.
        as_of_date: the run's date D; the end of day D is the run's "now".
        marts_schema: the unpublished schema; needed by the gate ``marts`` only.
        progress: called with one line per step.

    Returns:
        ``gate``, ``expectations``, ``failed`` (of any severity), ``warnings``, ``seconds``,
        ``data_docs`` (path of the index page, or None) and ``warned``: one text per warning.

    Raises:
        GateFailure: a critical expectation failed, or any raised. Results and Data Docs are
            written before.
        WarehouseError: the warehouse cannot be reached, or an object is missing that
            `ensure_schemas` creates.
    """
    started = time.monotonic()
    # Before the first import; versions that send usage statistics read it there.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    dsn = with_option(dsn, _SERVER_SETTINGS)
    suites = _suites(gate, settings, dsn, run_id, as_of_date, marts_schema)
    count = sum(len(suite.expectations) for suite in suites)
    progress(f"gate {gate}: {count} expectations on {len(suites)} tables")
    docs_folder = _docs_folder(run_id, gate)
    result = _checked(gate, suites, dsn, docs_folder)
    link_data_docs("latest", run_id, progress)
    keep_newest(docs_folder.parents[1], limits.DATA_DOCS_RUNS)
    outcomes = _measured(result.outcomes, dsn)
    _record(dsn, gate, run_id, as_of_date, outcomes)
    warned = [_short(outcome) for outcome in outcomes if outcome.warns]
    for line in warned:
        progress(f"gate {gate}: warning: {line}")
    if result.data_docs_problem:
        progress(f"gate {gate}: no Data Docs: {result.data_docs_problem}")
    stopping = [outcome for outcome in outcomes if outcome.stops]
    if stopping:
        raise GateFailure(failure_message(gate, stopping, result.data_docs))
    if result.data_docs:
        progress(f"gate {gate}: Data Docs: {result.data_docs}")
    return {
        "gate": gate,
        "expectations": count,
        "failed": sum(not outcome.success for outcome in outcomes),
        "warnings": len(warned),
        "warned": warned,
        "seconds": round(time.monotonic() - started, 2),
        "data_docs": str(result.data_docs) if result.data_docs else None,
    }


def failure_message(gate: str, stopping: Sequence[Outcome], data_docs: Path | None) -> str:
    """Say which gate, table and expectation, what was observed and allowed, and what to do."""
    number = len(stopping)
    lines = [f"Gate {gate} stopped the run: {number} expectation{'s' * (number > 1)} failed."]
    # What could not be evaluated is often only a consequence of what failed.
    ordered = sorted(stopping, key=lambda outcome: outcome.raised)
    for outcome in ordered[:_SHOWN_FAILURES]:
        verb = "could not be evaluated" if outcome.raised else "observed"
        lines += [
            f"- {outcome.table}: {outcome.description} [{outcome.expectation_id}, "
            f"{outcome.expectation}, {outcome.severity}]",
            f"  {verb}: {outcome.observed}; allowed: {outcome.limit}",
            f"  what to do: {outcome.action}",
        ]
        if outcome.find_rows:
            lines.append(f"  find the rows: {outcome.find_rows}")
    if number > _SHOWN_FAILURES:
        rest = ", ".join(outcome.expectation_id for outcome in ordered[_SHOWN_FAILURES:])
        lines.append(f"- and {number - _SHOWN_FAILURES} more: {rest}")
    lines.append(
        f"Data Docs: {data_docs}."
        if data_docs
        else "All results: quality.gate_results of this run."
    )
    return "\n".join(lines)


def keep_newest(folder: Path, runs: int) -> None:
    """Delete the Data Docs of all but the newest `runs` runs; they weigh about 3 MB a night."""
    if not folder.is_dir():
        return
    found = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in found[runs:]:
        shutil.rmtree(old, ignore_errors=True)
    for link in folder.iterdir():
        if link.is_symlink() and not link.exists():
            link.unlink(missing_ok=True)


def data_docs_of(run_id: str, gate: str) -> Path | None:
    """The index page of a gate's Data Docs, where this machine has it."""
    page = _docs_folder(run_id, gate) / "index.html"
    return page if page.exists() else None


def link_data_docs(name: str, run_id: str, progress: Callable[[str], None]) -> None:
    """Make a run's Data Docs found under another name: ``latest``, ``publication_7``.

    Where that cannot be done, `progress` hears why; like the pages, it must not decide about the
    run.
    """
    folder = _docs_folder(run_id, "landing").parent
    if not folder.is_dir():
        return  # another machine wrote them
    new = folder.parent / f".{name}.{os.getpid()}"
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(folder.name)
        new.replace(folder.parent / name)
    except OSError as error:
        progress(f"no link {folder.parent / name} to the Data Docs: {error.strerror}")
        with suppress(OSError):
            new.unlink(missing_ok=True)


def _suites(
    gate: Gate,
    settings: Settings,
    dsn: str,
    run_id: str,
    as_of_date: date,
    marts_schema: str | None,
) -> list[TableSuite]:
    from kundenkreis.quality import facts
    from kundenkreis.quality.suites import rejections

    with connect(dsn, application_name="kundenkreis gate") as connection:
        try:
            if gate == "landing":
                from kundenkreis.quality.suites import landing

                found = landing.suites(
                    settings, facts.landing_facts(connection, settings, run_id, as_of_date)
                )
                rejected = rejections.of_load(connection, run_id)
                return [*found, *_rejected(gate, rejected, settings)]
            if not marts_schema:
                raise WarehouseError(
                    "Gate marts needs the schema that transform chose; run transform first."
                )
            from kundenkreis.quality.suites import agreements, contract, marts
            from kundenkreis.warehouse.contract import read_declarations, unspent
            from kundenkreis.warehouse.publish import BACKFILL

            declared = read_declarations()
            open_ = unspent(connection, declared)
            stale = [declaration for declaration in declared if declaration not in open_]
            # A backfill is shown to nobody, so it can break no reader.
            shown = marts_schema != BACKFILL
            known = facts.marts_facts(connection, settings, marts_schema, as_of_date, run_id)
            with ThreadPoolExecutor(1) as beside:
                measuring = beside.submit(facts.with_measures, connection, settings, known)
                agreed = agreements.found(dsn, settings, known)
            found = marts.suites(settings, replace(measuring.result(), agreed=agreed))
            rejected = rejections.of_models(connection, run_id, marts_schema)
            return [
                *([contract.suite(marts_schema, open_, stale)] if shown else []),
                *found,
                *_rejected(gate, rejected, settings),
            ]
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise WarehouseError(
                f"Gate {gate}: {error.diag.message_primary}. "
                "`kundenkreis warehouse start` creates what is missing."
            ) from None


def _rejected(gate: str, rejected: Sequence[Rejected], settings: Settings) -> list[TableSuite]:
    from kundenkreis.quality.suites import rejections

    return [rejections.suite(gate, rejected, settings.quality)] if rejected else []


def _docs_folder(run_id: str, gate: str) -> Path:
    # Airflow's run ids hold colons and plus signs, which are no good in paths and URLs.
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in run_id)
    return home() / "data_docs" / (safe.strip(".") or "run") / gate


def _checked(
    gate: str, suites: Sequence[TableSuite], dsn: str, docs_folder: Path
) -> CheckpointResult:
    try:
        return run_checkpoint(gate, suites, dsn, docs_folder)
    except Exception as error:
        # A checkpoint that breaks has found nothing to be in order. Its text may quote data.
        text = safe_exception_text(str(error), f"{type(error).__name__}:")
        raise GateFailure(
            f"Gate {gate} stopped the run: the checkpoint itself failed with {text}. "
            "Nothing was evaluated. Check that the warehouse is up and that the login may read "
            "the tables, then run again."
        ) from None


def _measured(outcomes: Sequence[Outcome], dsn: str) -> list[Outcome]:
    """Fill in what was observed where a failed expectation has a better measure than a count."""
    if not any(_needs_measure(outcome) for outcome in outcomes):
        return list(outcomes)
    with connect(dsn, application_name="kundenkreis gate", autocommit=True) as connection:
        return [
            _measure(connection, outcome) if _needs_measure(outcome) else outcome
            for outcome in outcomes
        ]


def _needs_measure(outcome: Outcome) -> bool:
    return bool(outcome.measure) and not outcome.success and not outcome.raised


def _measure(connection: psycopg.Connection, outcome: Outcome) -> Outcome:
    try:
        row = connection.execute((outcome.measure or "").encode()).fetchone()
    except psycopg.Error:
        return outcome  # the count of Great Expectations remains
    if not row or row[0] is None:
        return outcome
    # A column that was swapped with another may hold addresses where a source's name belongs.
    return replace(outcome, observed=redact(str(row[0]))[:500])


def _record(
    dsn: str, gate: str, run_id: str, as_of_date: date, outcomes: Sequence[Outcome]
) -> None:
    with connect(dsn, application_name="kundenkreis gate") as connection:
        connection.execute(
            "delete from quality.gate_results where run_id = %s and gate = %s", (run_id, gate)
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                _INSERT,
                [
                    (
                        run_id,
                        gate,
                        as_of_date,
                        outcome.table,
                        outcome.expectation,
                        outcome.expectation_id,
                        outcome.severity,
                        outcome.success,
                        outcome.raised,
                        outcome.observed,
                        outcome.limit,
                        outcome.measured,
                        outcome.duration_seconds,
                    )
                    for outcome in outcomes
                ],
            )


def _short(outcome: Outcome) -> str:
    return f"{outcome.table}: {outcome.description} Observed: {outcome.observed}."
