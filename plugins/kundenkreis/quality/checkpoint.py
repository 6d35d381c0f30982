"""Runs suites as one Great Expectations checkpoint, leaving neither secrets nor personal data.

Facts this rests on (tried with Great Expectations 1.24.1):

- ``result.success`` ignores severity, so the caller decides from the outcomes returned here.
- ``SUMMARY`` with ``partial_unexpected_count: 0`` returns counts only; ``COMPLETE`` returns rows.
- A database error quotes the offending value, so exceptions are replaced by what is safe to show
  before anything is kept; that includes the stored results that Data Docs are built from.
- The connection string of the file context is ``${KUNDENKREIS_GATE_URL}``; only the environment
  of this process ever holds its value.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from kundenkreis.quality.suites.common import TableSuite

_URL_VARIABLE = "KUNDENKREIS_GATE_URL"
_RESULT_FORMAT = {
    "result_format": "SUMMARY",
    "partial_unexpected_count": 0,
    "include_unexpected_rows": False,
}
# PostgreSQL errors that name tables, columns and types, never values.
_ERRORS_WITHOUT_VALUES = frozenset(
    {
        "UndefinedColumn",
        "UndefinedTable",
        "UndefinedFunction",
        "InvalidSchemaName",
        "InsufficientPrivilege",
        "AmbiguousColumn",
        "DatatypeMismatch",
        "SyntaxError",
        "QueryCanceled",
        "LockNotAvailable",
        "DivisionByZero",
    }
)
_HIDDEN = "its text is not shown because it can quote data"
# Pictures of the Data Docs' tutorial, 3.4 MB per site, which our sites do not show.
_TUTORIAL_IMAGES = (
    "glossary_scroller.gif",
    "validation_failed_unexpected_values.gif",
    "iterative-dev-loop.png",
)


@dataclass(frozen=True)
class Outcome:
    """What came out of one expectation.

    Attributes:
        observed: a text without personal data; the safe part of the error when `raised`.
        measured: the same as a number, where it is one.
        duration_seconds: of its query; where it has none, of the whole table's validation.
    """

    expectation_id: str
    expectation: str
    table: str
    severity: str
    success: bool
    raised: bool
    observed: str
    limit: str
    description: str
    action: str
    find_rows: str | None
    measure: str | None
    measured: float | None = None
    duration_seconds: float | None = None

    @property
    def stops(self) -> bool:
        """Whether the run must stop: critical and failed, or could not be evaluated at all."""
        return self.raised or (not self.success and self.severity == "critical")

    @property
    def warns(self) -> bool:
        """Whether a warning belongs in the report."""
        return not self.success and not self.stops and self.severity == "warning"


@dataclass(frozen=True)
class CheckpointResult:
    """Outcomes of one checkpoint, and the Data Docs' index page if it could be written."""

    outcomes: tuple[Outcome, ...]
    data_docs: Path | None
    data_docs_problem: str | None = None


def run_checkpoint(
    name: str, suites: Sequence[TableSuite], dsn: str, docs_folder: Path
) -> CheckpointResult:
    """Validate all suites in one checkpoint run.

    Args:
        name: of the checkpoint; shown in Data Docs.
        suites: one per table; every table must exist.
        dsn: libpq URI of the warehouse.
        docs_folder: where the Data Docs go; replaced if it exists.

    Returns:
        One outcome per expectation. An expectation without a result counts as raised.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="kundenkreis-gate-") as folder:
        project = Path(folder)
        with _environment({_URL_VARIABLE: sqlalchemy_url(dsn)}):
            context = _context(project, docs_folder)
            datasource = context.data_sources.add_postgres(
                "warehouse",
                connection_string="${" + _URL_VARIABLE + "}",
                kwargs={"hide_parameters": True},
            )
            try:
                outcomes = _evaluate(context, datasource, name, suites)
            finally:
                _disconnect(datasource)
            _scrub_stored_results(project)
            data_docs, problem = _build_data_docs(context, docs_folder)
    return CheckpointResult(outcomes, data_docs, problem)


def sqlalchemy_url(dsn: str) -> str:
    """Turn a libpq URI into SQLAlchemy's, read only and without JIT, which short queries pay for.

    SQLAlchemy percent-encodes ``$``, which Great Expectations would substitute otherwise.
    """
    from sqlalchemy.engine import URL

    parts = {key: str(value) for key, value in conninfo_to_dict(dsn).items() if value is not None}
    known = {
        "username": parts.pop("user", None),
        "password": parts.pop("password", None),
        "host": parts.pop("host", None),
        "database": parts.pop("dbname", None),
    }
    port = parts.pop("port", None)
    if known["host"] and known["host"].startswith("/"):  # a socket folder
        parts["host"] = known.pop("host") or ""
    parts["application_name"] = "kundenkreis gate"
    parts["options"] = " ".join(
        filter(None, [parts.get("options"), "-c default_transaction_read_only=on -c jit=off"])
    )
    url = URL.create("postgresql+psycopg2", **known, port=int(port) if port else None, query=parts)
    return url.render_as_string(hide_password=False)


def _context(project: Path, docs_folder: Path) -> Any:
    import great_expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = great_expectations.get_context(mode="file", project_root_dir=str(project))
    # Great Expectations reads this file, which holds nothing, whenever it looks at a setting.
    (Path(context.root_directory) / "uncommitted" / "config_variables.yml").unlink()
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        site_name="kundenkreis",
        site_config={
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(docs_folder),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    return context


def _checkpoint(context: Any, datasource: Any, name: str, suites: Sequence[TableSuite]) -> Any:
    import great_expectations as gx

    definitions = []
    for suite in suites:
        asset = datasource.add_table_asset(
            suite.name, table_name=suite.table, schema_name=suite.schema
        )
        definitions.append(
            context.validation_definitions.add(
                gx.ValidationDefinition(
                    name=suite.name,
                    data=asset.add_batch_definition_whole_table("all"),
                    suite=context.suites.add(
                        gx.ExpectationSuite(name=suite.name, expectations=list(suite.expectations))
                    ),
                )
            )
        )
    return context.checkpoints.add(
        gx.Checkpoint(name=name, validation_definitions=definitions, result_format=_RESULT_FORMAT)
    )


def _evaluate(
    context: Any, datasource: Any, name: str, suites: Sequence[TableSuite]
) -> tuple[Outcome, ...]:
    # Only where Great Expectations is loaded anyway: the class is one of its own.
    from kundenkreis.quality.suites.no_rows import counting_ahead

    expectations = [one for suite in suites for one in suite.expectations]
    engine = datasource.get_execution_engine().engine
    with counting_ahead(engine, expectations) as query_seconds:
        checkpoint = _checkpoint(context, datasource, name, suites)
        started = time.monotonic()
        results = list(checkpoint.run().run_results.values())
        seconds = time.monotonic() - started
    found: dict[str, Outcome] = {}
    durations = _durations(results, seconds)
    for result, duration in zip(results, durations, strict=True):
        for item in result.results:
            outcome = _outcome(item.to_json_dict())
            own = query_seconds.get(outcome.expectation_id, duration)
            found[outcome.expectation_id] = replace(outcome, duration_seconds=own)
    return tuple(
        found.get(expectation.meta["id"]) or _without_result(expectation)
        for suite in suites
        for expectation in suite.expectations
    )


def _durations(results: Sequence[Any], total: float) -> list[float]:
    """Seconds per validation, from when its batch was loaded to the next; they sum up to total."""
    loaded = [
        datetime.strptime(result.meta["batch_markers"]["ge_load_time"], "%Y%m%dT%H%M%S.%fZ")
        .replace(tzinfo=UTC)
        .timestamp()
        for result in results
    ]
    ends = [*loaded[1:], loaded[0] + total] if loaded else []
    return [max(0.0, end - begin) for begin, end in zip(loaded, ends, strict=True)]


def _outcome(result: Mapping[str, Any]) -> Outcome:
    configuration = result["expectation_config"]
    raised = _exception_text(result.get("exception_info") or {})
    success = bool(result["success"]) and raised is None
    return replace(
        _described(configuration["type"], configuration["severity"], configuration),
        success=success,
        raised=raised is not None,
        observed=raised
        if raised is not None
        else observed_text(configuration["type"], result.get("result") or {}),
        measured=_measured(configuration["meta"], result.get("result") or {}),
    )


def _measured(meta: Mapping[str, Any], result: Mapping[str, Any]) -> float | None:
    """What was observed as a number: what was measured, rows found, or rows counted."""
    for value in (meta.get("measured"), result.get("unexpected_count")):
        if value is not None:
            return float(value)
    observed = result.get("observed_value")
    if isinstance(observed, list):  # columns: how many are missing
        return float(len(_missing(result)))
    return float(observed) if isinstance(observed, int | float) else None


def _missing(result: Mapping[str, Any]) -> list[str]:
    """The columns that a table should have and has not."""
    mismatched = (result.get("details") or {}).get("mismatched") or {}
    return sorted(mismatched.get("missing") or ())


def _without_result(expectation: Any) -> Outcome:
    configuration = expectation.configuration.to_json_dict()
    return replace(
        _described(configuration["type"], configuration["severity"], configuration),
        raised=True,
        observed="Great Expectations returned no result for it",
    )


def _described(kind: str, severity: str, configuration: Mapping[str, Any]) -> Outcome:
    meta = configuration["meta"]
    return Outcome(
        expectation_id=meta["id"],
        expectation=kind,
        table=meta["table"],
        severity=severity,
        success=False,
        raised=False,
        observed="",
        limit=meta["limit"],
        description=configuration.get("description") or meta["id"],
        action=meta["action"],
        find_rows=meta.get("find_rows"),
        measure=meta.get("measure"),
    )


def observed_text(kind: str, result: Mapping[str, Any]) -> str:
    """Say what was observed, in counts; never a value of a column."""
    if "unexpected_count" in result:
        total = result.get("element_count") or 0
        share = result.get("unexpected_percent_total") or result.get("unexpected_percent") or 0.0
        return f"{result['unexpected_count']} of {total} rows ({share:.2f} %)"
    if missing := _missing(result):
        return "missing: " + ", ".join(missing)
    observed = result.get("observed_value")
    if isinstance(observed, list):
        return f"{len(observed)} columns"
    if kind == "expect_query_to_find_no_rows":
        return f"{observed} row{'' if observed == 1 else 's'}"
    return "" if observed is None else str(observed)[:200]


def _exception_text(info: Mapping[str, Any]) -> str | None:
    """The safe part of an expectation's exception, or None when it raised none.

    ``exception_info`` is one record, or one record per metric that raised.
    """
    records = [info] if "raised_exception" in info else list(info.values())
    for record in records:
        if isinstance(record, Mapping) and record.get("raised_exception"):
            return safe_exception_text(
                str(record.get("exception_message") or ""),
                str(record.get("exception_traceback") or ""),
            )
    return None


def safe_exception_text(message: str, traceback: str = "") -> str:
    """What may be shown of an exception: its class, and its text only where it cannot quote data.

    Args:
        message: the exception's text.
        traceback: Python's traceback; only the class in its last line is used.
    """
    database = re.search(r"\(psycopg2\.(?:errors\.)?(\w+)\) ([^\n]*)", message)
    if database:
        name, text = database.groups()
        return f"{name}: {text if name in _ERRORS_WITHOUT_VALUES else _HIDDEN}"
    column = re.search(r'The column "\w+" in BatchData does not exist', message)
    if column:
        return column.group(0)
    classes = re.findall(
        r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning)\w*)(?::|$)", traceback, re.M
    )
    name = classes[-1].rsplit(".", 1)[-1] if classes else "an exception"
    return f"{name}: {_HIDDEN}"


def _scrub_stored_results(project: Path) -> None:
    """Replace exception texts in the result store, which Data Docs are rendered from."""
    for file in (project / "gx" / "uncommitted" / "validations").rglob("*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        changed = False
        for result in data["results"]:
            info = result.get("exception_info") or {}
            text = _exception_text(info)
            if text is not None:
                result["exception_info"] = {
                    "raised_exception": True,
                    "exception_message": text,
                    "exception_traceback": text,
                }
                changed = True
        if changed:
            file.write_text(json.dumps(data), encoding="utf-8")


def _build_data_docs(context: Any, docs_folder: Path) -> tuple[Path | None, str | None]:
    """Render the site; its failure is reported and must not decide about the run."""
    shutil.rmtree(docs_folder, ignore_errors=True)
    try:
        context.build_data_docs()
        for image in _TUTORIAL_IMAGES:
            (docs_folder / "static" / "images" / image).unlink(missing_ok=True)
    except Exception as error:
        return None, f"{type(error).__name__} while writing {docs_folder}"
    return docs_folder / "index.html", None


def _disconnect(datasource: Any) -> None:
    """Close the connections; pooled ones would outlive the gate."""
    datasource.get_engine().dispose()
    datasource.get_execution_engine().engine.dispose()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Great Expectations: it logs tracebacks, which can quote data."""
    names = ("great_expectations", "sqlalchemy", "py.warnings")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
