"""What every source shares: one dlt pipeline per run, and records checked before dlt sees them.

dlt (https://dlthub.com/docs) does the loading: a source's tables go to the schema
``raw_<source>``, merged by primary key in one transaction per table, together with the cursors.

* The pipeline's working directory is made for the run and thrown away. State and schema come back
  from the destination, so a run that was killed leaves nothing that could block the next one, and
  a cursor only ever becomes visible with the data it stands for.
* Each record is validated by a pydantic model, which is also the declaration of its table. What
  does not fit goes to ``quarantine.rejected_records``, and the rest loads.
* A record that was released from the quarantine is validated with its corrections, as the next
  reading of the record, and merged by the same key (`kundenkreis.warehouse.releases`).
* What is dated before the erasure of its person is not loaded (`kundenkreis.privacy.blocklist`).
* Every declared table and column exists after a run, also when no record filled it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any

import psycopg
from psycopg import sql
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from kundenkreis import failpoints
from kundenkreis.errors import DataError, KundenkreisError, WarehouseError
from kundenkreis.http import understood_pages
from kundenkreis.privacy.blocklist import Blocklist, KeyFinder, read_blocklist
from kundenkreis.privacy.keys import find_key
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.quarantine import Rejection, record_rejections
from kundenkreis.warehouse.raw_indexes import ensure_raw_indexes
from kundenkreis.warehouse.releases import (
    Quarantined,
    corrected,
    read_quarantined,
    settle,
)

# --------------------------------------------------------------------------- what a record may hold

_TYPED_JSON = ("\uf026", "\uf02f")
"""dlt marks typed values in its files by a first character in this private range."""


def storable(text: str) -> str:
    """Return ``text`` when Postgres and dlt can store it; raises ValueError otherwise."""
    if "\x00" in text:
        raise ValueError("holds a NUL character")
    if text and _TYPED_JSON[0] <= text[0] <= _TYPED_JSON[1]:
        raise ValueError("starts with a character from the private use area")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    return text


def _none_when_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def _iso_text(value: Any) -> Any:
    # pydantic would read "0" as 1970 and a number as seconds; a vendor that sends those is wrong.
    if isinstance(value, str) and not _ISO_DATE.match(value):
        raise ValueError("is no ISO date and time")
    if isinstance(value, int | float | Decimal):
        raise ValueError("is a number, not an ISO date and time")
    return value


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _plausible(value: Decimal) -> Decimal:
    if abs(value) >= Decimal(10) ** 18:
        raise ValueError("is too large for an amount")
    return value


Text = Annotated[str, AfterValidator(storable)]
Money = Annotated[Decimal, AfterValidator(_plausible)]
UtcTime = Annotated[datetime, BeforeValidator(_iso_text), AfterValidator(_in_utc)]
BigInt = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]

OptionalText = Annotated[Text | None, BeforeValidator(_none_when_empty)]
OptionalMoney = Annotated[Money | None, BeforeValidator(_none_when_empty)]
OptionalTime = Annotated[UtcTime | None, BeforeValidator(_none_when_empty)]
OptionalBigInt = Annotated[BigInt | None, BeforeValidator(_none_when_empty)]
OptionalBool = Annotated[bool | None, BeforeValidator(_none_when_empty)]


def vendor_time(text: Any) -> datetime | None:
    """A vendor's time in UTC, where one without a zone is; None where it is missing or malformed.

    For cursors; what a record says is checked by its model.
    """
    try:
        return _in_utc(datetime.fromisoformat(str(text)))
    except ValueError:
        return None


class Record(BaseModel):
    """Base of all row models: fields not declared are ignored, numbers are accepted as text."""

    model_config = ConfigDict(extra="ignore", coerce_numbers_to_str=True)


# --------------------------------------------------------------------------- what a table is


@dataclass(frozen=True)
class Column:
    """One declared column. data_type is dlt's name for it."""

    data_type: str
    precision: int | None = None
    scale: int | None = None


POSTGRES_TYPES = {
    "text": "varchar",
    "bigint": "bigint",
    "decimal": "numeric",
    "timestamp": "timestamptz",
    "date": "date",
    "bool": "boolean",
}

_DATA_TYPES: dict[Any, Column] = {
    str: Column("text"),
    int: Column("bigint"),
    bool: Column("bool"),
    Decimal: Column("decimal", 38, 9),
    datetime: Column("timestamp"),
}

# The columns that dlt adds to a nested table.
_NESTED_COLUMNS = {
    "_dlt_root_id": Column("text"),
    "_dlt_parent_id": Column("text"),
    "_dlt_list_idx": Column("bigint"),
    "_dlt_id": Column("text"),
}
_ROOT_COLUMNS = {"_dlt_load_id": Column("text"), "_dlt_id": Column("text")}


def _as_received(record: Any) -> Any:
    return record


@dataclass(frozen=True)
class Table:
    """A raw table of an API source.

    model: what a record must look like; its fields are the columns, its lists of records the
        nested tables (``<table>__<field>``), which are replaced as a set with their parent.
    newest: the column by which the newest of several versions of a record is chosen.
    shape: turns a record as received into what the model reads (a list of key and value pairs
        into fields, for example); must let pass what it does not understand.
    """

    name: str
    model: type[Record]
    primary_key: str = "id"
    newest: str | None = None
    shape: Callable[[Any], Any] = _as_received

    def columns(self) -> dict[str, Column]:
        """The declared columns of the table itself."""
        return columns_of(self.model)

    def nested(self) -> dict[str, dict[str, Column]]:
        """The declared columns of each nested table, by field name."""
        return {name: columns_of(model) for name, model in _nested_models(self.model).items()}


def columns_of(model: type[BaseModel]) -> dict[str, Column]:
    """The columns that a row model declares; nested records are left out."""
    kinds = {name: _bare_type(info.annotation) for name, info in model.model_fields.items()}
    return {name: _DATA_TYPES[kind] for name, kind in kinds.items() if kind in _DATA_TYPES}


def _nested_models(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {}
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if typing.get_origin(annotation) in (list, tuple):
            found[name] = typing.get_args(annotation)[0]
    return found


def _bare_type(annotation: Any) -> Any:
    """``Annotated[X | None, ...]`` -> ``X``."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            inner = [part for part in typing.get_args(annotation) if part is not types.NoneType]
            annotation = inner[0]
        else:
            return annotation


# --------------------------------------------------------------------------- checking records


@dataclass
class Counts:
    """What a run did: rows loaded per table, the rows that could not be used, and what became of
    those that could not be used before."""

    tables: dict[str, int] = field(default_factory=dict)
    rejections: list[Rejection] = field(default_factory=list)
    quarantined: Quarantined = field(default_factory=Quarantined)
    blocklist: Blocklist = field(default_factory=Blocklist)

    def loaded(self, table: str, rows: int) -> None:
        """Count rows of a table."""
        self.tables[table] = self.tables.get(table, 0) + rows


def checked(
    records: Iterable[Any],
    table: Table,
    source: str,
    rejections: list[Rejection],
    quarantined: Quarantined | None = None,
) -> list[dict[str, Any]]:
    """The records that fit the table's model, as plain rows; the others become rejections.

    Args:
        quarantined: takes note of what loads again, and brings the corrections of records that were
            released as they are.
    """
    known = quarantined or Quarantined()
    rows = []
    for record in records:
        try:
            row = _validated(record, table)
        except ValidationError as error:
            rejection = _rejection(record, table, source, error)
            second = _second_chance(rejection, table, known)
            if second is None:
                known.rejects(table.name, rejection.record_key)
                rejections.append(rejection)
            else:
                rows.append(second)
        else:
            known.loads(table.name, row[table.primary_key])
            rows.append(row)
    return rows


def _validated(record: Any, table: Table) -> dict[str, Any]:
    return table.model.model_validate(table.shape(record)).model_dump()


def _second_chance(rejection: Rejection, table: Table, known: Quarantined) -> dict[str, Any] | None:
    """The row of a record that was released; None where it was not, or is still wrong."""
    release = known.release_of(rejection)
    if release is None:
        return None
    try:
        row = released_row(release.payload, release.corrections, table)
    except DataError as error:
        known.refused[release.record_hash] = str(error)
        return None
    known.loaded.add(release.record_hash)
    return row


def released_row(
    payload: Mapping[str, Any], corrections: Mapping[str, Any], table: Table
) -> dict[str, Any]:
    """A rejected record with its corrections, as the row it becomes.

    Raises:
        DataError: it is still wrong; says which field breaks which rule, never with which value.
    """
    record = corrected(payload, corrections)
    try:
        row = _validated(record, table)
    except ValidationError as error:
        raise DataError("; ".join(_sentences(error)[:5])) from None
    key = payload.get(table.primary_key)
    if key is not None and str(row[table.primary_key]) != str(key):
        raise DataError(f"{table.primary_key}: is the record's key, which no correction changes")
    return row


def _sentences(error: ValidationError) -> list[str]:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return [f"{_location(problem['loc'])}: {_rule(problem['msg'])}" for problem in problems]


def _rejection(record: Any, table: Table, source: str, error: ValidationError) -> Rejection:
    """Say which field breaks which rule, never with which value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "record"
    kind = "missing" if first["type"] == "missing" else "invalid"
    payload = record if isinstance(record, Mapping) else {"record": record}
    key = payload.get(table.primary_key)
    return Rejection(
        source=source,
        table_name=table.name,
        record_key=None if key is None else str(key),
        reason_code=f"{kind}_{name}",
        reason="; ".join(_sentences(error)[:5]),
        payload=payload,
    )


def _location(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "record"


def _rule(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return text[:1].lower() + text[1:]


# --------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Run:
    """One extraction: which source, into which warehouse, for which run.

    phone_default_region: country of telephone numbers whose record gives none (ISO 3166 alpha-2);
        None: only numbers that name their own country are understood.
    erasure_key: finds the key by which erased persons are recognised; asked where there are any.
    test_email_domains: whose orders stay recognisable as tests when their person is erased.
    """

    source: str
    dsn: str
    run_id: str
    as_of_date: date
    progress: Callable[[str], None] = lambda text: None
    phone_default_region: str | None = None
    erasure_key: KeyFinder = find_key
    test_email_domains: tuple[str, ...] = ()

    @property
    def schema(self) -> str:
        """The schema that is loaded."""
        return f"raw_{self.source}"


_PROGRESS_ROWS = 5_000

Cursor = dict[str, Any]
Pages = Callable[[Cursor], Iterator[list[Any]]]
"""Reads a table in pages of records. It is given the cursor that the last complete run left
(empty the first time) and may change it; the change is committed with the data."""


def load_tables(run: Run, tables: list[tuple[Table, Pages]]) -> Counts:
    """Read and load all tables of an API source in one load package.

    Raises the reader's own errors, and WarehouseError when the warehouse refuses.
    """
    counts = Counts()

    def resources(_state: Mapping[str, Any]) -> list[Any]:
        return [_table_resource(run, table, pages, counts) for table, pages in tables]

    declared = {}
    for table, _ in tables:
        declared[table.name] = {**table.columns(), **_ROOT_COLUMNS}
        for name, columns in table.nested().items():
            declared[f"{table.name}__{name}"] = {**columns, **_NESTED_COLUMNS}
    load(run, resources, declared, counts)
    return counts


def load(
    run: Run,
    resources: Callable[[Mapping[str, Any]], list[Any]],
    declared: Mapping[str, Mapping[str, Column]],
    counts: Counts,
) -> None:
    """Extract, quarantine and load in one dlt package, with the state of the last complete run.

    resources: is given the source's state as the destination holds it, returns dlt resources; an
        empty list loads nothing.
    declared: the tables and columns that must exist afterwards.
    counts: rejections found while extracting are written to quarantine before anything loads, so
        a crash in between repeats them instead of losing them.
    """
    with (
        _exclusive(run),
        _quiet_dlt(),
        tempfile.TemporaryDirectory(prefix="kundenkreis-load-") as directory,
        _explained(run),
    ):
        import dlt

        pipeline = dlt.pipeline(
            run.schema,
            pipelines_dir=directory,
            destination=dlt.destinations.postgres(_sqlalchemy_style(run.dsn)),
            dataset_name=run.schema,
        )
        _read_what_is_known(run, counts)
        pipeline.sync_destination()
        state = pipeline.state.get("sources", {}).get(run.source, {})
        wanted = resources(state)
        if wanted:
            source = dlt.source(lambda: wanted, name=run.source, max_table_nesting=1)()
            pipeline.extract(source, loader_file_format="csv")
        _quarantine(run, counts.blocklist.admit_rejections(counts.rejections))
        if wanted:
            pipeline.normalize()
            failpoints.reach(f"extract.{run.source}.before_load")
            pipeline.load()
            failpoints.reach(f"extract.{run.source}.after_load")
        ensure_declared(run.dsn, run.schema, declared)
        with connect(run.dsn, application_name="kundenkreis quarantine") as connection:
            settle(connection, counts.quarantined, run.run_id)
            counts.blocklist.settle(connection, run.as_of_date)
        ensure_raw_indexes(run.dsn, run.schema, declared)


def summary(run: Run, counts: Counts) -> dict[str, Any]:
    """The result of `kundenkreis.sources.extract`."""
    found: dict[str, Any] = {
        "source": run.source,
        "tables": dict(sorted(counts.tables.items())),
        "rejected": len(counts.rejections),
    }
    return {**found, "erased": counts.blocklist.kept_out} if counts.blocklist else found


def _table_resource(run: Run, table: Table, pages: Pages, counts: Counts) -> Any:
    """A dlt resource that checks pages of records and commits its cursor with them."""
    import dlt

    columns = dlt_columns(table.columns())
    if table.newest:
        # Several versions of a record in one package: the newest one stays.
        columns[table.newest]["dedup_sort"] = "desc"
    nested = {
        name: dlt.mark.make_nested_hints(columns=dlt_columns(fields))
        for name, fields in table.nested().items()
    }

    def rows() -> Iterator[Any]:
        state = dlt.current.resource_state()
        cursor = dict(state.get("cursor", {}))
        counts.loaded(table.name, 0)
        for page in understood_pages(run.source, f"reading {table.name}", pages(cursor)):
            fitting = checked(page, table, run.source, counts.rejections, counts.quarantined)
            good = counts.blocklist.admit_all(run.source, table.name, fitting)
            counts.loaded(table.name, len(good))
            done = counts.tables[table.name]
            if done // _PROGRESS_ROWS > (done - len(good)) // _PROGRESS_ROWS:
                run.progress(f"{run.source}: {done:,} {table.name} so far")
            if good:
                yield good
        released = _released_rows(run, table, counts)
        if released := counts.blocklist.admit_all(run.source, table.name, released):
            counts.loaded(table.name, len(released))
            yield released
        run.progress(f"{run.source}: {counts.tables[table.name]:,} {table.name}")
        yield dlt.mark.materialize_table_schema()
        state["cursor"] = cursor

    return dlt.resource(
        rows,
        name=table.name,
        primary_key=table.primary_key,
        write_disposition={"disposition": "merge", "strategy": "delete-insert"},
        columns=columns,
        nested_hints=nested or None,
    )


def dlt_columns(columns: Mapping[str, Column]) -> dict[str, dict[str, Any]]:
    """Declared columns as dlt column hints."""
    hints: dict[str, dict[str, Any]] = {}
    for name, column in columns.items():
        hints[name] = {"name": name, "data_type": column.data_type, "nullable": True}
        if column.precision is not None:
            hints[name].update(precision=column.precision, scale=column.scale)
    return hints


def ensure_declared(dsn: str, schema: str, tables: Mapping[str, Mapping[str, Column]]) -> None:
    """Create what no record has filled yet, so that every model finds every table and column.

    dlt creates a nested table only with its first row.
    """
    with connect(dsn, application_name=f"kundenkreis {schema}") as connection:
        connection.execute("set local client_min_messages = warning")
        connection.execute(f'create schema if not exists "{schema}"')
        existing: dict[str, set[str]] = {}
        for table, column in connection.execute(
            "select table_name, column_name from information_schema.columns "
            "where table_schema = %s",
            (schema,),
        ):
            existing.setdefault(table, set()).add(column)
        for table, columns in tables.items():
            if table not in existing:
                connection.execute(f'create table "{schema}"."{table}" ()')
            for name, column in columns.items():
                if name not in existing.get(table, set()):
                    connection.execute(
                        f'alter table "{schema}"."{table}" '
                        f'add column "{name}" {_postgres_type(column)}'
                    )


def _postgres_type(column: Column) -> str:
    name = POSTGRES_TYPES[column.data_type]
    return f"{name}({column.precision},{column.scale})" if column.precision is not None else name


def _released_rows(run: Run, table: Table, counts: Counts) -> list[dict[str, Any]]:
    """What was released and not read in this run, as far as nothing newer has arrived."""
    known = counts.quarantined
    rows = []
    for release in known.waiting(table.name):
        try:
            row = released_row(release.payload, release.corrections, table)
        except DataError as error:
            known.refused[release.record_hash] = str(error)
            continue
        if _has_arrived(run, table, row):
            known.arrived.add(release.record_hash)
        else:
            known.loaded.add(release.record_hash)
            rows.append(row)
    return rows


def _has_arrived(run: Run, table: Table, row: Mapping[str, Any]) -> bool:
    """Whether the warehouse holds a newer version of the record; a release never replaces one."""
    newest = sql.Identifier(table.newest) if table.newest else sql.NULL
    query = sql.SQL("select {} from {} where {} = %s").format(
        newest, sql.Identifier(run.schema, table.name), sql.Identifier(table.primary_key)
    )
    with connect(run.dsn, application_name="kundenkreis quarantine") as connection:
        try:
            found = connection.execute(query, (row[table.primary_key],)).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return False
    if found is None:
        return False
    if table.newest is None or found[0] is None or row[table.newest] is None:
        return True
    return bool(found[0] > row[table.newest])


def _read_what_is_known(run: Run, counts: Counts) -> None:
    with connect(run.dsn, application_name="kundenkreis quarantine") as connection:
        counts.quarantined = read_quarantined(connection, run.source)
        counts.blocklist = read_blocklist(connection, run.erasure_key, run.test_email_domains)


def _quarantine(run: Run, rejections: list[Rejection]) -> None:
    if rejections:
        with connect(run.dsn, application_name="kundenkreis quarantine") as connection:
            record_rejections(connection, rejections, run.run_id)


def _sqlalchemy_style(dsn: str) -> str:
    """dlt knows only the long one of the two schemes that libpq accepts."""
    if dsn.startswith("postgres://"):
        return "postgresql://" + dsn.removeprefix("postgres://")
    return dsn


@contextlib.contextmanager
def _exclusive(run: Run) -> Iterator[None]:
    """Two runs of one source would empty each other's staging tables: they take turns."""
    name = f"kundenkreis extract {run.source}"
    # A session lock: it ends with the session, however that ends, and holds no transaction open.
    with connect(run.dsn, application_name=name, autocommit=True) as connection:
        connection.execute("set lock_timeout = '10min'")
        try:
            connection.execute(
                "select pg_advisory_lock(hashtext(%s))", (f"kundenkreis extract {run.schema}",)
            )
        except psycopg.errors.LockNotAvailable:
            raise WarehouseError(
                f"Another run has been loading {run.schema} for more than 10 minutes. Wait for it, "
                "or end it, and run again."
            ) from None
        yield


_DLT_ENVIRONMENT = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    # dlt would ask Airflow's variables for each of its hundreds of settings, a call each.
    "PROVIDERS__ENABLE_AIRFLOW_SECRETS": "false",
    # dlt's messages quote rows and statements; what a person needs is in our own errors.
    "RUNTIME__LOG_LEVEL": "CRITICAL",
    # The staging copy of the rows is not needed after the load, and holds personal data.
    "LOAD__TRUNCATE_STAGING_DATASET": "true",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "20000",
    # The files live for seconds on the same machine; packing them took half of the load.
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "LOAD__WORKERS": "4",
}


@contextlib.contextmanager
def _quiet_dlt() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _DLT_ENVIRONMENT}
    os.environ.update(_DLT_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_LIBRARIES = {"dlt", "psycopg2", "psycopg"}


@contextlib.contextmanager
def _explained(run: Run) -> Iterator[None]:
    """Turn what dlt wraps back into the error a person can act on, without any row's values."""
    try:
        yield
    except KundenkreisError:
        raise
    except Exception as error:
        chain = list(_causes(error))
        for cause in chain:
            if isinstance(cause, KundenkreisError):
                raise cause from None
        root = chain[-1]
        if type(root).__module__.partition(".")[0] not in _LIBRARIES and not isinstance(
            root, OSError
        ):
            raise root from None  # a fault of our own, not the warehouse's
        raise _warehouse_error(run, chain) from None


def _warehouse_error(run: Run, chain: list[BaseException]) -> WarehouseError:
    kinds = " < ".join(dict.fromkeys(type(cause).__name__ for cause in chain))
    state = next((code for cause in chain if (code := getattr(cause, "pgcode", None))), None)
    diagnosis = next((diag for cause in chain if (diag := getattr(cause, "diag", None))), None)
    table = getattr(diagnosis, "table_name", None)
    place = f"{run.schema}.{table}" if table else run.schema
    detail = f"SQLSTATE {state}, {kinds}" if state else kinds
    return WarehouseError(
        f"Loading {place} failed ({detail}). Nothing of this package counts: the next run reads it "
        "again from the last committed cursor. Check that the warehouse is up, has space, and that "
        "the role may create and write the schema."
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
