"""Runs a gate and keeps everything it leaves behind, so that tests can look at all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.errors import GateFailure
from kundenkreis.quality import checkpoint, run_gate
from kundenkreis.quality import gate as gate_module
from kundenkreis.settings import Settings, home
from tests.integration import direct_evaluation
from tests.integration.landing_fixture import AS_OF


@dataclass(frozen=True)
class GateRun:
    """One run of a gate: its results by expectation id, and every text it wrote or said.

    Attributes:
        disagreements: where `direct_evaluation` comes to another verdict on the same tables.
    """

    results: dict[str, dict[str, Any]]
    summary: dict[str, Any] | None
    failure: str | None
    said: list[str]
    stored: dict[str, str] = field(repr=False)
    disagreements: list[tuple[Any, ...]]

    def failed(self, severity: str | None = None) -> set[str]:
        """Ids of the expectations that failed, of one severity or of any."""
        return {
            key
            for key, row in self.results.items()
            if not row["success"] and severity in (None, row["severity"])
        }

    def texts(self) -> dict[str, str]:
        """Everything that was kept or shown, by where it was found."""
        rows = "\n".join(str(row) for row in self.results.values())
        shown = "\n".join([*self.said, self.failure or "", str(self.summary)])
        return {**self.stored, "quality.gate_results": rows, "messages": shown}


def run(
    gate: str,
    settings: Settings,
    dsn: str,
    run_id: str,
    monkeypatch: Any,
    marts_schema: str | None = None,
    as_of_date: date = AS_OF,
) -> GateRun:
    """Run a gate; a GateFailure is part of the result."""
    stored: dict[str, str] = {}
    build = checkpoint._build_data_docs

    def spy(context: Any, docs_folder: Path) -> Any:
        stored.update(_texts(Path(context.root_directory)))
        return build(context, docs_folder)

    disagreements: list[tuple[Any, ...]] = []

    def both(name: str, suites: Any, uri: str, docs_folder: Path) -> Any:
        result = checkpoint.run_checkpoint(name, suites, uri, docs_folder)
        direct = direct_evaluation.evaluate(name, suites, uri, docs_folder)
        for one, other in zip(result.outcomes, direct.outcomes, strict=True):
            verdicts = [
                (found.success, found.raised, None if found.raised else found.measured)
                for found in (one, other)
            ]
            if verdicts[0] != verdicts[1]:
                disagreements.append((one.expectation_id, *verdicts))
        return result

    monkeypatch.setattr(checkpoint, "_build_data_docs", spy)
    monkeypatch.setattr(gate_module, "run_checkpoint", both)
    try:
        summary, failure, said = _judged(gate, settings, dsn, run_id, as_of_date, marts_schema)
    finally:
        monkeypatch.setattr(checkpoint, "_build_data_docs", build)
        monkeypatch.setattr(gate_module, "run_checkpoint", checkpoint.run_checkpoint)
    assert "KUNDENKREIS_GATE_URL" not in os.environ
    safe = run_id.replace(":", "_").replace("+", "_")
    stored.update(_texts(home() / "data_docs" / safe / gate))
    return GateRun(_results(dsn, run_id, gate), summary, failure, said, stored, disagreements)


def verdicts(
    gate: str,
    settings: Settings,
    dsn: str,
    run_id: str,
    marts_schema: str | None = None,
    as_of_date: date = AS_OF,
) -> GateRun:
    """As `run`, without Great Expectations: for tests that look at verdicts and messages only."""
    with pytest.MonkeyPatch.context() as patch:
        direct_evaluation.use_in_gates(patch)
        summary, failure, said = _judged(gate, settings, dsn, run_id, as_of_date, marts_schema)
    return GateRun(_results(dsn, run_id, gate), summary, failure, said, {}, [])


def _judged(
    gate: str, settings: Settings, dsn: str, run_id: str, as_of_date: date, schema: str | None
) -> tuple[dict[str, Any] | None, str | None, list[str]]:
    """What a gate returned, the text of its GateFailure, and what it said."""
    said: list[str] = []
    try:
        found = run_gate(gate, settings, dsn, run_id, as_of_date, schema, said.append)
    except GateFailure as error:
        return None, str(error), said
    return found, None, said


def _results(dsn: str, run_id: str, gate: str) -> dict[str, dict[str, Any]]:
    from psycopg.rows import dict_row

    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        rows = connection.execute(
            "select * from quality.gate_results where run_id = %s and gate = %s", (run_id, gate)
        ).fetchall()
    return {row["expectation_id"]: row for row in rows}


def _texts(folder: Path) -> dict[str, str]:
    return {
        str(file): file.read_text(encoding="utf-8")
        for file in folder.rglob("*")
        if file.suffix in (".json", ".yml", ".html", ".py")
    }
