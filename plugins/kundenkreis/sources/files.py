"""Files: exports of any system, mapped to canonical columns in ``sources.yml``.

Reads   CSV (also compressed: .gz, .bz2, .zst), Parquet, XLSX.
Loads   ``raw_files.{customers, order_lines, orders, products, consent_events, spend}``.
Steps   find the files of each dataset in their declared order, hash them, stop when nothing
        changed; read each as Arrow columns of text; check and cast whole columns; quarantine the
        rows that fail; choose which file each order comes from; replace what the dataset held.

Rules (design, section 4, "Orders under one policy"):

* A file's cursor is the hash of its content: the same content is loaded once, whatever it is
  called; a changed file replaces what it held before. A file that is gone keeps what it gave.
* The lines of one order come from exactly one file, the latest in declared order that has it;
  ``split_orders`` unites files instead. Equal lines within a file are all kept. Customers, products
  and orders with a key: the last row of the latest file.
* What was spent on one acquisition source on one day comes from the latest file that has both, all
  its rows together: exports of overlapping periods do not double, and later ones correct.
* A row that was released from the quarantine is read with its corrections, whenever its file is
  read. A release makes its dataset be read again, although no file has changed.
* A file without order keys gets ``<content hash>-<row>``: every row is an order.
* Money is decimal from the first character on. A cell that does not parse sends its row to
  quarantine before dlt sees it; a file that cannot be read as a whole loads nothing at all.

Not covered: files on remote storage (mount or copy them), password-protected workbooks, several
tables on one sheet, numbers in scientific notation in CSV.

pyarrow: https://arrow.apache.org/docs/python/csv.html; python-calamine:
https://github.com/dimastbk/python-calamine.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import string
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from kundenkreis.errors import ConfigError, DataError
from kundenkreis.privacy.blocklist import Blocklist
from kundenkreis.privacy.raw_rows import RAW_ROWS, OrderRows, RawRows, RecordRows
from kundenkreis.sources.base import (
    Column,
    Counts,
    Run,
    dlt_columns,
    load,
    summary,
)
from kundenkreis.sources.config import (
    ENTITY_COLUMNS,
    REQUIRED_COLUMNS,
    ColumnMapping,
    Entity,
    FileDataset,
    FilesSourceSettings,
    format_of,
)
from kundenkreis.sources.telephone import e164_column
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.quarantine import Rejection, record_hash
from kundenkreis.warehouse.releases import Quarantined, Release

# --------------------------------------------------------------------------- what is loaded

_ARROW = {
    "text": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "day": pa.date32(),
    "amount": pa.decimal128(38, 18),
    "quantity": pa.decimal128(19, 9),
    "unit_price": pa.decimal128(18, 9),
    "bigint": pa.int64(),
}
_KEYS: dict[Entity, str | None] = {
    Entity.CUSTOMERS: "customer_key",
    Entity.ORDER_LINES: "order_key",
    Entity.ORDERS: "order_key",
    Entity.PRODUCTS: "product_key",
    Entity.CONSENT_EVENTS: None,
    Entity.SPEND: "spend_key",  # made of source and day
}
_ONE_ROW_PER_KEY = {Entity.CUSTOMERS, Entity.ORDERS, Entity.PRODUCTS}

_BLOCK_BYTES = 16 * 1024 * 1024
_BATCH_ROWS = 100_000
_HASH_CHARACTERS = 32


def schema_of(entity: Entity) -> pa.Schema:
    """The Arrow schema of an entity's raw table."""
    fields = [pa.field("source_name", pa.string())]
    for name, kind in ENTITY_COLUMNS[entity].items():
        fields.append(pa.field(name, _ARROW[name if kind == "factor" else kind]))
        if entity is Entity.ORDER_LINES and name == "order_key":
            fields.append(pa.field("line_number", pa.int64()))
        if entity is Entity.CUSTOMERS and name == "phone":
            fields.append(pa.field("phone_e164", pa.string()))
    if entity is Entity.SPEND:
        fields.append(pa.field("spend_key", pa.string()))
    fields += [
        pa.field("content_hash", pa.string()),
        pa.field("row_number", pa.int64()),
        pa.field("loaded_at", pa.timestamp("us", tz="UTC")),
    ]
    return pa.schema(fields)


def declared_columns(entity: Entity) -> dict[str, Column]:
    """The columns of an entity's raw table."""
    columns = {}
    for item in schema_of(entity):
        if pa.types.is_decimal(item.type):
            columns[item.name] = Column("decimal", item.type.precision, item.type.scale)
        elif pa.types.is_timestamp(item.type):
            columns[item.name] = Column("timestamp")
        elif pa.types.is_date(item.type):
            columns[item.name] = Column("date")
        else:
            columns[item.name] = Column("bigint" if pa.types.is_integer(item.type) else "text")
    return columns


# --------------------------------------------------------------------------- the source


@dataclass(frozen=True)
class File:
    """A file of a dataset: in a folder now (``path``), or known from an earlier load (None).

    name is its path below the fixed part of the pattern that found it, so it survives a move of
    the folder. pattern is the pattern's place in the configuration.
    """

    pattern: int
    name: str
    content_hash: str
    path: Path | None = None
    rows: int = 0
    rejected: int = 0

    def state(self) -> dict[str, Any]:
        """What the destination remembers of it."""
        return {
            "pattern": self.pattern,
            "name": self.name,
            "hash": self.content_hash,
            "present": self.path is not None,
            "rows": self.rows,
            "rejected": self.rejected,
        }


@dataclass(frozen=True)
class Prepared:
    """A dataset that has to be loaded: its files in declared order, its rows beside it on disk."""

    dataset: FileDataset
    files: list[File]
    tables: dict[str, Path] = field(default_factory=dict)
    losing: dict[str, pa.Array] = field(default_factory=dict)
    mapping: str = ""
    releases: str = ""


def extract(settings: FilesSourceSettings, run: Run, folder: Path) -> dict[str, Any]:
    """Load every dataset whose files or mapping changed. ``folder`` is the config folder.

    Returns the summary of `kundenkreis.sources.extract`. Raises ConfigError (a path or a time zone
    that is missing), DataError (a file that cannot be used as a whole), WarehouseError.
    """
    counts = Counts()
    datasets = {dataset.name: dataset for dataset in settings.datasets}
    found = {name: find_files(dataset, folder) for name, dataset in datasets.items()}
    entities = {dataset.entity for dataset in settings.datasets} or set(Entity)
    files_after: dict[str, list[File]] = {}

    with tempfile.TemporaryDirectory(prefix="kundenkreis-files-") as directory:

        def resources(state: Mapping[str, Any]) -> list[Any]:
            known = state.get("datasets", {})
            prepared = []
            for name, dataset in datasets.items():
                releases = counts.quarantined.digest(name)
                if _unchanged(dataset, found[name], known.get(name, {}), run, releases):
                    files_after[name] = _remembered(known[name])
                    run.progress(f"{name}: nothing new in {len(found[name])} file(s)")
                    continue
                one = _prepare(dataset, found[name], known.get(name, {}), run, directory, counts)
                files_after[name] = one.files
                prepared.append(one)
            by_entity = {
                entity: [one for one in prepared if one.dataset.entity is entity]
                for entity in Entity
            }
            return [
                _entity_resource(entity, of_entity, counts)
                for entity, of_entity in by_entity.items()
                if of_entity
            ]

        # Every table of the contract exists, so a model of an unused entity finds an empty one.
        declared = {entity.value: declared_columns(entity) for entity in Entity}
        for entity in entities:
            counts.loaded(entity.value, 0)
        load(run, resources, declared, counts)
    for name, files in files_after.items():
        _remember_for_people(run, datasets[name], files)
    return summary(run, counts)


def _unchanged(
    dataset: FileDataset, files: list[File], known: Mapping[str, Any], run: Run, releases: str
) -> bool:
    if known.get("releases", "") != releases:
        return False
    before = [(f["name"], f["hash"]) for f in known.get("files", []) if f["present"]]
    now = [(file.name, file.content_hash) for file in distinct(files)]
    return known.get("mapping") == _mapping_digest(dataset, run) and before == now


def _mapping_digest(dataset: FileDataset, run: Run) -> str:
    # What only the gates read does not change what a file gives.
    settings = dataset.model_dump_json(exclude={"path", "name", "fresh_within_days", "quiet_days"})
    if "phone" in dataset.columns:
        settings += f" phone_default_region {run.phone_default_region}"
    return hashlib.sha256(settings.encode()).hexdigest()[:_HASH_CHARACTERS]


def _remembered(known: Mapping[str, Any]) -> list[File]:
    return [
        File(f["pattern"], f["name"], f["hash"], None, f["rows"], f["rejected"])
        for f in known.get("files", [])
    ]


def _prepare(
    dataset: FileDataset,
    found: list[File],
    known: Mapping[str, Any],
    run: Run,
    directory: str,
    counts: Counts,
) -> Prepared:
    """Read all files of a dataset, and choose the file that each key comes from."""
    hashes = {file.content_hash for file in found}
    names = {file.name for file in found}
    gone = [
        file
        for file in _remembered(known)
        if file.name not in names and file.content_hash not in hashes
    ]
    files, tables = [], {}
    for file in distinct(found):
        table, read, rejections = _read_file(
            dataset, file, run, Path(directory), counts.quarantined
        )
        counts.rejections.extend(rejections)
        counts.loaded(dataset.entity.value, 0)
        tables[file.content_hash] = table
        files.append(read)
        run.progress(f"{dataset.name}: {read.rows:,} rows from {Path(file.name).name}")
    ordered = in_declared_order(files + gone, dataset.file_order)
    losing = _losing(dataset, ordered, tables, run)
    counts.quarantined.was_read(
        dataset.name, {file.name for file in found}, set(map(record_hash, counts.rejections))
    )
    counts.loaded(dataset.entity.value, _rows_that_load(tables, losing, dataset))
    releases = counts.quarantined.digest(dataset.name)
    return Prepared(dataset, ordered, tables, losing, _mapping_digest(dataset, run), releases)


def _entity_resource(entity: Entity, prepared: list[Prepared], counts: Counts) -> Any:
    """The dlt resource of one table: replaces what the prepared datasets held in it."""
    import dlt

    schema = schema_of(entity)
    loaded_at = datetime.now(UTC)

    def rows() -> Iterator[Any]:
        for one in prepared:
            for batch in _batches(one):
                finished = _finish(batch, one.dataset.label, schema, loaded_at)
                yield _admitted(finished, entity, counts)
        yield schema.empty_table()
        state = dlt.current.source_state().setdefault("datasets", {})
        for one in prepared:
            state[one.dataset.name] = {
                "mapping": one.mapping,
                "releases": one.releases,
                "files": [file.state() for file in one.files],
            }

    return dlt.resource(
        rows,
        name=entity.value,
        columns=dlt_columns(declared_columns(entity)),
        write_disposition={
            "disposition": "merge",
            "strategy": "delete-insert",
            "destination_scope": " or ".join(_scope(one) for one in prepared),
        },
    )


def _admitted(table: pa.Table, entity: Entity, counts: Counts) -> pa.Table:
    """A batch without what is dated before the erasure of its person.

    Each distinct address and key is looked at once; only rows of erased persons are taken apart.
    """
    declared = RAW_ROWS["files"].get(entity.value)
    if not counts.blocklist or declared is None:
        return table
    suspects = _suspects(table, declared, counts.blocklist)
    if not pc.any(suspects).as_py():
        return table
    rows = table.filter(suspects).to_pylist()
    admitted = counts.blocklist.admit_all("files", entity.value, rows)
    counts.loaded(entity.value, len(admitted) - len(rows))
    kept = table.filter(pc.invert(suspects))
    return pa.concat_tables([kept, pa.Table.from_pylist(admitted, schema=table.schema)])


def _suspects(table: pa.Table, declared: RawRows, blocklist: Blocklist) -> pa.ChunkedArray:
    """The rows with an address or a key of an erased person, as a mask."""
    found = pa.chunked_array([pa.repeat(False, table.num_rows)])
    label = table["source_name"][0].as_py() if table.num_rows else ""

    def mark(column: str, is_blocked: Callable[[str], Any]) -> None:
        nonlocal found
        values = pc.unique(table[column]).drop_null().to_pylist()
        blocked = pa.array([value for value in values if is_blocked(value)], table[column].type)
        if len(blocked):
            found = pc.or_(found, pc.is_in(table[column], value_set=blocked))

    mark(declared.address, blocklist.address_erased_at)  # type: ignore[union-attr]
    if isinstance(declared, RecordRows):
        mark(declared.key, lambda key: blocklist.erased_at("record", label, "customer", key))
        if declared.link:
            named = pc.unique(table[declared.link[0]]).drop_null().to_pylist()
            mark(
                declared.link[1],
                lambda key: any(blocklist.linked_erased_at(source, key) for source in named),
            )
    if isinstance(declared, OrderRows):
        mark(declared.owner, lambda key: blocklist.erased_at("record", label, "customer", key))
        mark(declared.key, lambda key: blocklist.erased_at("record", label, "guest_order", key))
    return found


def _scope(one: Prepared) -> str:
    """The rows of the table that a dataset's load replaces, as SQL.

    All rows of the dataset, except those of files that are gone; of these, the ones whose key a
    present file now has.
    """
    own = f"{{table}}.source_name = '{one.dataset.label}'"
    gone = sorted({file.content_hash for file in one.files if file.path is None})
    if not gone:
        return f"({own})"
    hashes = ", ".join(f"'{content_hash}'" for content_hash in gone)
    kept = f"{{table}}.content_hash not in ({hashes})"
    key = _file_key(one.dataset)
    if key:
        kept += (
            f" or exists (select 1 from {{staging_table}} as staged"
            f" where staged.source_name = {{table}}.source_name"
            f" and staged.{key} = {{table}}.{key})"
        )
    return f"({own} and ({kept}))"


def _remember_for_people(run: Run, dataset: FileDataset, files: list[File]) -> None:
    """Rewrite ``operations.loaded_files`` from the committed state."""
    with connect(run.dsn, application_name="kundenkreis loaded files") as connection:
        connection.execute(
            "delete from operations.loaded_files where source_name = %s and dataset = %s"
            " and not (content_hash = any(%s))",
            (dataset.label, dataset.name, [file.content_hash for file in files]),
        )
        with connection.cursor() as cursor:
            cursor.executemany(
                "insert into operations.loaded_files (source_name, dataset, content_hash,"
                " file_name, declared_order, rows, rejected, run_id)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s)"
                " on conflict (source_name, dataset, content_hash) do update"
                " set file_name = excluded.file_name, declared_order = excluded.declared_order,"
                " rows = excluded.rows, rejected = excluded.rejected",
                [
                    (
                        dataset.label,
                        dataset.name,
                        file.content_hash,
                        file.name,
                        order,
                        file.rows,
                        file.rejected,
                        run.run_id,
                    )
                    for order, file in enumerate(files, start=1)
                ],
            )


# --------------------------------------------------------------------------- which files


def find_files(dataset: FileDataset, folder: Path) -> list[File]:
    """The files of a dataset in declared order.

    Raises ConfigError when the path names an environment variable that is not set, DataError when
    there is no such file.
    """
    files = [
        File(index, os.path.relpath(match, _fixed_part(base)), _content_hash(match), match)
        for index, base, match in _matches(dataset, folder)
    ]
    return in_declared_order(files, dataset.file_order)


def _matches(dataset: FileDataset, folder: Path) -> list[tuple[int, str, Path]]:
    """The dataset's files with the place of their pattern and the pattern itself, unread."""
    found: list[tuple[int, str, Path]] = []
    for index, pattern in enumerate(dataset.path):
        where = f"sources.yml: files: dataset {dataset.name}: path"
        full = _expand(pattern, where)
        base = str(folder / full)
        # Path.glob takes no absolute pattern.
        matches = glob.glob(base, recursive=True) if glob.has_magic(base) else [base]  # noqa: PTH207
        # "~$..." is what office programs put beside an open workbook.
        usable = [
            match
            for match in map(Path, matches)
            if match.is_file() and not match.name.startswith("~$")
        ]
        if not usable:
            raise DataError(
                f"{where}: there is no file {pattern}. Check KUNDENKREIS_DATA and path."
            )
        found += [(index, base, match) for match in usable]
    return found


def probe(settings: FilesSourceSettings, folder: Path) -> None:
    """Find every dataset's files and open each; nothing is read or loaded.

    Raises:
        DataError: names every dataset without files, and every file that may not be read.
    """
    problems = []
    for dataset in settings.datasets:
        try:
            for _, _, path in _matches(dataset, folder):
                path.open("rb").close()
        except (ConfigError, DataError) as error:
            problems.append(str(error))
        except OSError as error:
            problems.append(
                f"sources.yml: files: dataset {dataset.name}: {error.filename} cannot be read: "
                f"{error.strerror}."
            )
    if problems:
        raise DataError(" ".join(problems))


def distinct(ordered: list[File]) -> list[File]:
    """Of files with equal content only the last one: the same content is loaded once."""
    last = {file.content_hash: file for file in ordered}
    return [file for file in ordered if last[file.content_hash] is file]


def in_declared_order(files: Iterable[File], file_order: str) -> list[File]:
    """Sort files as declared: by the place of their pattern, then by name."""
    by_name = sorted(files, key=lambda file: file.name, reverse=file_order == "name_descending")
    return sorted(by_name, key=lambda file: file.pattern)


def _expand(pattern: str, where: str) -> str:
    try:
        return string.Template(pattern).substitute(os.environ)
    except KeyError as error:
        raise ConfigError(
            f"{where}: the environment variable {error.args[0]} in '{pattern}' is not set. Set it "
            "to the folder that holds the files."
        ) from None
    except ValueError:
        raise ConfigError(f"{where}: '{pattern}' holds a $ that starts no variable.") from None


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts[:-1]
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return Path(*parts[:fixed])


def _content_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_HASH_CHARACTERS]


# --------------------------------------------------------------------------- one order, one file


def _losing(
    dataset: FileDataset, ordered: list[File], tables: Mapping[str, Path], run: Run
) -> dict[str, pa.Array]:
    """Per content hash, the keys that a later file of the dataset also has."""
    key = _file_key(dataset)
    if key is None or len(ordered) < 2:
        return {}
    keys = []
    for file in ordered:
        if file.path is not None:
            column = pq.read_table(tables[file.content_hash], columns=[key])[key]
        else:
            column = pa.chunked_array([_keys_in_warehouse(run, dataset, key, file)])
        keys.append(pc.unique(column))
    losers = superseded(keys)
    return {file.content_hash: lost for file, lost in zip(ordered, losers, strict=True)}


def _file_key(dataset: FileDataset) -> str | None:
    """The column whose equal values come from one file only; None where files are united."""
    key = _KEYS[dataset.entity]
    if dataset.entity is Entity.SPEND:
        return key
    return None if key not in dataset.columns or dataset.split_orders else key


def superseded(keys: Sequence[pa.Array]) -> list[pa.Array]:
    """For each file, in declared order, the keys that a later file has as well.

    Of every key exactly one file, the latest that has it, keeps its rows.
    """
    losers: list[pa.Array] = []
    later = pa.array([], pa.string())
    for own in reversed(keys):
        losers.append(own.filter(pc.is_in(own, value_set=later)))
        later = pc.unique(pa.concat_arrays([later, own.cast(pa.string())]))
    return losers[::-1]


def _keys_in_warehouse(run: Run, dataset: FileDataset, key: str, file: File) -> pa.Array:
    with connect(run.dsn, application_name="kundenkreis files") as connection:
        rows = connection.execute(
            f'select distinct "{key}" from "{run.schema}"."{dataset.entity.value}"'
            " where source_name = %s and content_hash = %s",
            (dataset.label, file.content_hash),
        ).fetchall()
    return pa.array([row[0] for row in rows], pa.string())


def _batches(one: Prepared) -> Iterator[pa.Table]:
    """The rows of a dataset that load: of each present file, without the keys it loses."""
    for file in one.files:
        if file.path is not None:
            lost = one.losing.get(file.content_hash)
            yield from _kept(one.tables[file.content_hash], one.dataset, lost)


def _kept(path: Path, dataset: FileDataset, lost: pa.Array | None) -> Iterator[pa.Table]:
    key = _KEYS[dataset.entity]
    last_rows = _last_rows(path, key) if key and dataset.entity in _ONE_ROW_PER_KEY else None
    with pq.ParquetFile(path) as stored:
        for batch in stored.iter_batches(batch_size=_BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            if lost is not None and len(lost):
                table = table.filter(pc.invert(pc.is_in(table[key], value_set=lost)))
            if last_rows is not None:
                table = table.filter(pc.is_in(table["row_number"], value_set=last_rows))
            yield table


def _last_rows(path: Path, key: str) -> pa.Array:
    rows = pq.read_table(path, columns=[key, "row_number"])
    last = rows.group_by(key).aggregate([("row_number", "max")])
    return last["row_number_max"].combine_chunks()


def _rows_that_load(
    tables: Mapping[str, Path], losing: Mapping[str, pa.Array], dataset: FileDataset
) -> int:
    return sum(
        batch.num_rows
        for content_hash, path in tables.items()
        for batch in _kept(path, dataset, losing.get(content_hash))
    )


# --------------------------------------------------------------------------- one file


def _read_file(
    dataset: FileDataset, file: File, run: Run, directory: Path, quarantined: Quarantined
) -> tuple[Path, File, list[Rejection]]:
    """Read, check and cast one file into a Parquet file of canonical columns.

    Raises DataError when it cannot be read to its end, or no row of it can be used.
    """
    if file.path is None:
        raise ValueError("only a file that is there can be read")
    target = directory / f"{dataset.name}-{file.content_hash}.parquet"
    rejects = _Rejects(run.source, dataset, file, quarantined)
    rows = 0
    with pq.ParquetWriter(target, _stored_schema(dataset), compression="lz4") as writer:

        def write(batch: pa.Table, rejects: _Rejects) -> None:
            nonlocal rows
            table = canonical(batch, dataset, file.content_hash, rejects, run.phone_default_region)
            rows += table.num_rows
            writer.write_table(table.cast(_stored_schema(dataset)))

        for batch in _read_text(dataset, file.path, rejects):
            write(batch, rejects)
        for release, rejection in rejects.released:
            again = _Rejects(run.source, dataset, file, Quarantined())
            write(_released_batch(dataset, release.payload, release.corrections), again)
            if again.items:
                quarantined.refused[release.record_hash] = again.items[0].reason
                rejects.items.append(rejection)
            else:
                quarantined.loaded.add(release.record_hash)
    if rows == 0 and rejects.items:
        first = rejects.items[0]
        raise DataError(
            f"{file.path}: none of its {len(rejects.items):,} rows can be used. The first one (row "
            f"{(first.record_key or '').rpartition(':')[2]}): {first.reason}. Check dataset "
            f"{dataset.name} in sources.yml."
        )
    return target, replace(file, rows=rows, rejected=len(rejects.items)), rejects.items


_ADDED_LATER = {"source_name", "loaded_at"}


def _stored_schema(dataset: FileDataset) -> pa.Schema:
    return pa.schema([f for f in schema_of(dataset.entity) if f.name not in _ADDED_LATER])


def check_released(
    dataset: FileDataset,
    payload: Mapping[str, Any],
    corrections: Mapping[str, Any],
    phone_default_region: str | None,
) -> None:
    """Read one rejected row with its corrections, as the next extract does.

    Raises DataError: it is still wrong, or a correction names no column that the dataset maps.
    """
    rejects = _Rejects("files", dataset, File(0, "", ""), Quarantined())
    batch = _released_batch(dataset, payload, corrections)
    canonical(batch, dataset, "", rejects, phone_default_region)
    if rejects.items:
        raise DataError(rejects.items[0].reason)


def _released_batch(
    dataset: FileDataset, payload: Mapping[str, Any], corrections: Mapping[str, Any]
) -> pa.Table:
    """A batch of text with the one row: the cells as they were kept, and those that correct them.

    Of a row with too many or too few cells, or with bytes that are no text, no cell was kept.
    """
    columns = list(
        dict.fromkeys(name for one in dataset.columns.values() for name in one.columns())
    )
    if unknown := sorted(set(corrections) - set(columns)):
        raise DataError(
            f"--set {unknown[0]}: dataset {dataset.name} maps no such column. It maps: "
            f"{', '.join(columns)}."
        )
    cells = payload.get("cells") or {}
    if set(cells) <= {"text"}:
        cells = {}
    kept = {name: corrections.get(name, cells.get(name)) for name in columns}
    texts = {
        name: pa.array([None if value is None else str(value)], pa.string())
        for name, value in kept.items()
    }
    return pa.table({**texts, "_row": pa.array([int(payload["row"])], pa.int64())})


@dataclass
class _Rejects:
    """Collects the rows of a file that cannot be used, and those of them that were released."""

    source: str
    dataset: FileDataset
    file: File
    quarantined: Quarantined
    items: list[Rejection] = field(default_factory=list)
    released: list[tuple[Release, Rejection]] = field(default_factory=list)

    def add(self, row: int, code: str, reason: str, payload: Mapping[str, Any]) -> None:
        name = self.file.name
        rejection = Rejection(
            source=self.source,
            table_name=self.dataset.entity.value,
            record_key=f"{name}:{row}",
            reason_code=code,
            reason=reason,
            payload={"dataset": self.dataset.name, "row": row, "cells": payload},
        )
        if release := self.quarantined.release_of(rejection):
            self.released.append((release, rejection))
        else:
            self.items.append(rejection)


def _read_text(dataset: FileDataset, path: Path, rejects: _Rejects) -> Iterator[pa.Table]:
    """Batches of a file with every column as text, and ``_row``, the number of the record."""
    kind = format_of(dataset, path.name)
    readers: dict[str, Callable[[], Iterator[pa.Table]]] = {
        "csv": lambda: _read_csv(dataset, path, rejects),
        "parquet": lambda: _read_parquet(path),
        "xlsx": lambda: _read_xlsx(dataset, path),
    }
    try:
        yield from readers[kind]()
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: its bytes are not {dataset.encoding}. State the file's `encoding` for "
            f"dataset {dataset.name} in sources.yml."
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: {_unreadable(error)}. Nothing of it was loaded.") from None


def _unreadable(error: Exception) -> str:
    text = str(error)
    if "Truncated" in text:
        return "ends in the middle of its compressed data: half a file"
    if "straddl" in text:
        return (
            f"has a record of more than {_BLOCK_BYTES // 2**20} MB, as a quote that is never "
            "closed makes one"
        )
    if "Empty CSV" in text:
        return "is empty"
    if isinstance(error, FileNotFoundError | PermissionError):
        return "cannot be opened"
    return f"cannot be read ({type(error).__name__})"


# --- CSV


def _read_csv(dataset: FileDataset, path: Path, rejects: _Rejects) -> Iterator[pa.Table]:
    names = _csv_header(dataset, path)
    _require_columns(names, dataset, path)
    ragged: list[int] = []
    unclosed: list[int] = []  # an exception raised inside pyarrow's handler would be lost

    def on_ragged(row: Any) -> str:
        # The header counts as a row; records are counted from 1 below it.
        number = row.number - 1 if dataset.header else row.number
        if row.text.count(dataset.quote) % 2 and "\n" in row.text:
            unclosed.append(number)
        ragged.append(number)
        rejects.add(
            number,
            "ragged_row",
            f"has {row.actual_columns} cells where the header has {row.expected_columns}",
            {"text": row.text},
        )
        return "skip"

    row, last = 0, None
    for batch in _open_csv(dataset, path, names, on_ragged):
        numbers, row = _row_numbers(row, batch.num_rows, ragged)
        yield _decoded(pa.Table.from_batches([batch]), numbers, rejects)
        last = batch if batch.num_rows else last
    if unclosed:
        raise _unclosed(path, unclosed[0])
    if last is not None and _ends_inside_quote(dataset, path, last):
        raise _unclosed(path, row)


def _unclosed(path: Path, row: int) -> DataError:
    return DataError(
        f"{path}: the record in row {row} opens a quote that is never closed, so the rest of the "
        "file cannot be told apart. It looks cut off; export it again. Nothing of it was loaded."
    )


def _ends_inside_quote(dataset: FileDataset, path: Path, last: pa.RecordBatch) -> bool:
    """Whether the file's last record swallowed the rest of the file through an open quote."""
    cells = [last.column(index)[last.num_rows - 1].as_py() for index in range(last.num_columns)]
    if not any(b"\n" in cell for cell in cells if cell is not None):
        return False
    quote = dataset.quote.encode()
    with _open_stream(dataset, path) as stream:
        count = 0
        while block := stream.read(_BLOCK_BYTES):
            count += block.count(quote)
    return count % 2 == 1


def _open_stream(dataset: FileDataset, path: Path) -> Any:
    stream = pa.input_stream(str(path), compression="detect")
    if dataset.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig"):
        return stream
    return pa.transcoding_input_stream(stream, dataset.encoding, "utf-8")


def _open_csv(
    dataset: FileDataset, path: Path, names: list[str] | None, on_ragged: Callable[[Any], str]
) -> Any:
    return pacsv.open_csv(
        _open_stream(dataset, path),
        read_options=pacsv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES if names else 1 << 20,
            autogenerate_column_names=not dataset.header,
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=dataset.delimiter,
            quote_char=dataset.quote,
            newlines_in_values=True,
            invalid_row_handler=on_ragged,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types={name: pa.binary() for name in names or []},
            strings_can_be_null=False,
            null_values=[],
            check_utf8=False,
        ),
    )


def _csv_header(dataset: FileDataset, path: Path) -> list[str]:
    """The column names; for a file without a header f0, f1 and so on."""
    try:
        reader = _open_csv(dataset, path, None, lambda row: "skip")
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        raise _unclosed(path, 1) from None
    names: list[str] = reader.schema.names
    reader.close()
    return names


def _row_numbers(before: int, count: int, ragged: list[int]) -> tuple[list[int], int]:
    """The numbers of the next ``count`` good records after record ``before``."""
    skipped = set(ragged)
    numbers: list[int] = []
    number = before
    if not skipped:
        return list(range(before + 1, before + count + 1)), before + count
    while len(numbers) < count:
        number += 1
        if number not in skipped:
            numbers.append(number)
    return numbers, number


def _decoded(table: pa.Table, numbers: list[int], rejects: _Rejects) -> pa.Table:
    """Bytes to text. Rows with bytes that are not text go to quarantine."""
    bad = pa.array([False] * table.num_rows)
    columns = {}
    for name in table.column_names:
        try:
            columns[name] = pc.cast(table[name], pa.string())
        except pa.ArrowInvalid:
            texts = [_decode(cell) for cell in table[name].to_pylist()]
            columns[name] = pa.chunked_array([pa.array([t or "" for t in texts], pa.string())])
            wrong = pa.array([text is None for text in texts])
            for index in pc.indices_nonzero(pc.and_not(wrong, bad)).to_pylist():
                rejects.add(
                    numbers[index], "invalid_encoding", f"{name}: bytes that are no text", {}
                )
            bad = pc.or_(bad, wrong)
    decoded = pa.table(columns).append_column("_row", pa.array(numbers, pa.int64()))
    return decoded.filter(pc.invert(bad)) if pc.any(bad).as_py() else decoded


def _decode(cell: bytes | None) -> str | None:
    try:
        return (cell or b"").decode("utf-8")
    except UnicodeDecodeError:
        return None


# --- Parquet and XLSX


def _read_parquet(path: Path) -> Iterator[pa.Table]:
    row = 0
    with pq.ParquetFile(path) as stored:
        for batch in stored.iter_batches(batch_size=_BATCH_ROWS):
            columns = {
                name: _as_text(batch.column(index)) for index, name in enumerate(batch.schema.names)
            }
            numbers = pa.array(range(row + 1, row + batch.num_rows + 1), pa.int64())
            yield pa.table(columns).append_column("_row", numbers)
            row += batch.num_rows


def _as_text(column: pa.Array) -> pa.Array:
    """A typed column as the text a person would write: ISO dates, plain decimals."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _as_text(column.cast(kind.value_type))
    if pa.types.is_decimal(kind):
        # A cast would write small values as 1E-7.
        texts = [None if value is None else f"{value:f}" for value in column.to_pylist()]
        return pa.array(texts, pa.string())
    if pa.types.is_floating(kind):
        return pa.array([_plain_number(value) for value in column.to_pylist()], pa.string())
    if pa.types.is_timestamp(kind):
        # Sub-microsecond digits are below anything the warehouse keeps.
        whole = pc.cast(column, pa.timestamp("us", tz=kind.tz), safe=False)
        if kind.tz is not None:
            whole = pc.cast(whole, pa.timestamp("us", tz="UTC"))
        return pc.cast(whole, pa.string())
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        return pa.nulls(len(column), pa.string())
    return pc.cast(column, pa.string())


def _plain_number(value: float | None) -> str | None:
    """A binary float as the decimal it was meant to be: 15 digits, as spreadsheets show them."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    text = f"{value:.15g}"
    return f"{value:.18f}".rstrip("0").rstrip(".") if "e" in text else text


def _read_xlsx(dataset: FileDataset, path: Path) -> Iterator[pa.Table]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_path(str(path)) as book:
            if dataset.sheet and dataset.sheet not in book.sheet_names:
                raise DataError(
                    f"{path}: has no sheet '{dataset.sheet}'. It has: "
                    f"{', '.join(book.sheet_names)}."
                )
            name = dataset.sheet or book.sheet_names[0]
            rows = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
    except CalamineError as error:
        raise DataError(f"{path}: is no readable workbook ({type(error).__name__}).") from None
    if not rows:
        raise DataError(f"{path}: its sheet is empty.")
    width = max(len(row) for row in rows)
    header = [str(c) for c in rows[0]] if dataset.header else [f"f{i}" for i in range(width)]
    body = rows[1:] if dataset.header else rows
    _require_columns(header, dataset, path)
    keep = [i for i, row in enumerate(body) if any(cell not in ("", None) for cell in row)]
    columns = {
        name: pa.array([_cell_text(body[i][index]) for i in keep], pa.string())
        for index, name in enumerate(header)
        if name
    }
    columns["_row"] = pa.array([i + 1 for i in keep], pa.int64())
    yield pa.table(columns)


def _cell_text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _plain_number(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)


def _require_columns(names: list[str], dataset: FileDataset, path: Path) -> None:
    wanted = {name for mapping in dataset.columns.values() for name in mapping.columns()}
    if missing := sorted(wanted - set(names)):
        raise DataError(
            f"{path}: has no column {', '.join(missing)}, which dataset {dataset.name} in "
            f"sources.yml maps. It has: {', '.join(names[:30])}. If these look like one name, "
            "state the file's `delimiter`."
        )
    if twice := sorted(name for name in wanted if names.count(name) > 1):
        raise DataError(f"{path}: has the column {', '.join(twice)} twice; rename one of them.")


# --------------------------------------------------------------------------- text to values


@dataclass(frozen=True)
class _Fault:
    """Rows (as a mask) that break one rule."""

    mask: Any
    code: str
    reason: str


def canonical(
    batch: pa.Table,
    dataset: FileDataset,
    content_hash: str,
    rejects: _Rejects,
    phone_default_region: str | None,
) -> pa.Table:
    """Canonical, typed columns of a batch of text; rows that break a rule go to ``rejects``."""
    faults: list[_Fault] = []
    values: dict[str, Any] = {}
    for name, kind in ENTITY_COLUMNS[dataset.entity].items():
        mapping = dataset.columns.get(name)
        arrow_type = _ARROW[name if kind == "factor" else kind]
        if mapping is None:
            values[name] = pa.nulls(batch.num_rows, arrow_type)
            continue
        text = _text_of(mapping, batch, dataset)
        values[name], found = _typed(name, kind, arrow_type, text, dataset)
        faults += found
        if name in REQUIRED_COLUMNS[dataset.entity] or name == _KEYS[dataset.entity]:
            # An unparsable cell is null as well, and already has its reason.
            faults.append(_Fault(pc.is_null(text), f"missing_{name}", f"{name}: is empty"))
    if dataset.entity is Entity.ORDER_LINES:
        values["line_amount"] = _line_amount(values)
        missing = pc.is_null(values["line_amount"])
        rule = "line_amount: not given, nor quantity and unit_price"
        faults.append(_Fault(missing, "missing_line_amount", rule))
    if dataset.entity is Entity.CUSTOMERS:
        values["phone_e164"] = e164_column(values["phone"], values["country"], phone_default_region)
    numbers = batch["_row"].combine_chunks()
    if _KEYS[dataset.entity] == "order_key" and "order_key" not in dataset.columns:
        rows = pc.cast(numbers, pa.string())
        values["order_key"] = pc.binary_join_element_wise(_repeat(content_hash, rows), rows, "-")
    if dataset.entity is Entity.SPEND:
        values["spend_key"] = pc.binary_join_element_wise(
            pc.cast(values["spent_on"], pa.string()),
            pc.utf8_lower(values["acquisition_source"]),
            " ",
        )
    values["line_number"] = values["row_number"] = numbers
    values["content_hash"] = _repeat(content_hash, numbers)
    schema = [f.name for f in schema_of(dataset.entity) if f.name not in _ADDED_LATER]
    table = pa.table({name: values[name] for name in schema})
    bad = _reject(batch, faults, rejects)
    return table if bad is None else table.filter(pc.invert(bad))


def _reject(batch: pa.Table, faults: list[_Fault], rejects: _Rejects) -> Any:
    """Add each faulty row once, with its first fault; returns the mask of faulty rows or None."""
    bad = None
    for fault in faults:
        mask = fault.mask.combine_chunks() if hasattr(fault.mask, "combine_chunks") else fault.mask
        if not pc.any(mask).as_py():
            continue
        new = mask if bad is None else pc.and_not(mask, bad)
        for index in pc.indices_nonzero(new).to_pylist():
            row = batch.slice(index, 1).to_pylist()[0]
            rejects.add(row.pop("_row"), fault.code, fault.reason, row)
        bad = mask if bad is None else pc.or_(bad, mask)
    return bad


def _text_of(mapping: ColumnMapping, batch: pa.Table, dataset: FileDataset) -> pa.Array:
    """The text of one canonical column, null where it is empty."""
    if mapping.constant is not None:
        return _repeat(mapping.constant, batch["_row"])
    if mapping.column is not None:
        text = _cleaned(batch, mapping.column, dataset)
    elif mapping.concat is not None:
        parts = [_cleaned(batch, name, dataset) for name in mapping.concat]
        text = pc.binary_join_element_wise(*parts, mapping.separator)
    else:
        text = _by_cases(mapping, batch, dataset)
    return _edited(text, mapping)


def _cleaned(batch: pa.Table, name: str, dataset: FileDataset) -> pa.Array:
    text = pc.utf8_trim_whitespace(batch[name].combine_chunks())
    empty = pc.is_in(text, value_set=pa.array(["", *dataset.null_values], pa.string()))
    return pc.if_else(empty, pa.scalar(None, pa.string()), text)


def _by_cases(mapping: ColumnMapping, batch: pa.Table, dataset: FileDataset) -> pa.Array:
    text = _repeat(mapping.otherwise, batch["_row"])
    for case in reversed(mapping.cases or ()):
        cell = pc.fill_null(_cleaned(batch, case.column, dataset), "")
        if case.starts_with is not None:
            holds = pc.starts_with(cell, case.starts_with)
        elif case.ends_with is not None:
            holds = pc.ends_with(cell, case.ends_with)
        else:
            holds = pc.equal(cell, case.equals)
        text = pc.if_else(holds, case.value, text)
    return text


def _edited(text: pa.Array, mapping: ColumnMapping) -> pa.Array:
    if mapping.strip_prefix:
        text = pc.replace_substring_regex(text, "^" + re.escape(mapping.strip_prefix), "")
    if mapping.strip_suffix:
        text = pc.replace_substring_regex(text, re.escape(mapping.strip_suffix) + "$", "")
    if mapping.add_prefix:
        text = pc.binary_join_element_wise(_repeat(mapping.add_prefix, text), text, "")
    if mapping.values:
        place = pc.index_in(text, value_set=pa.array(list(mapping.values), pa.string()))
        replaced = pc.take(pa.array(list(mapping.values.values()), pa.string()), place)
        text = pc.coalesce(replaced, text)
    return text


def _typed(
    name: str, kind: str, arrow_type: pa.DataType, text: pa.Array, dataset: FileDataset
) -> tuple[pa.Array, list[_Fault]]:
    """Cast the text of one column; what does not fit is null and has a fault."""
    if kind == "timestamp":
        values, bad = parse_times(text, _formats(dataset), dataset.zone(), dataset.name)
        rule = f"{name}: is no date as in date_formats"
        return values, [_Fault(bad, f"invalid_{name}", rule)]
    if kind == "day":
        values, bad = parse_days(text, _formats(dataset))
        rule = f"{name}: is no date as in date_formats"
        return values, [_Fault(bad, f"invalid_{name}", rule)]
    if kind in ("factor", "amount"):
        values, bad = parse_decimals(
            text, arrow_type, dataset.decimal_separator, dataset.thousands_separator
        )
        return values, [_Fault(bad, f"invalid_{name}", f"{name}: is no number that fits")]
    if name == "currency":
        text = pc.utf8_upper(text)
        bad = pc.invert(pc.fill_null(pc.match_substring_regex(text, "^[A-Z]{3}$"), True))
        return text, [_Fault(bad, "invalid_currency", "currency: is no three-letter code")]
    bad = pc.fill_null(pc.match_substring(text, "\x00"), False)
    faults = [_Fault(bad, f"invalid_{name}", f"{name}: holds a NUL character")]
    if dataset.entity is Entity.CONSENT_EVENTS and name in _CONSENT_RULES:
        pattern, rule = _CONSENT_RULES[name]
        fits = pc.fill_null(pc.match_substring_regex(text, pattern, ignore_case=True), True)
        faults.append(_Fault(pc.invert(fits), f"invalid_{name}", f"{name}: {rule}"))
    return text, faults


# An event that says nothing the models know, or of no address, would count for nobody in silence: a
# withdrawal must not get lost. The address as the models read it (macros/addresses.sql).
_EVIDENCE = (
    *("pending", "single", "double", "existing_customer", "withdrawn", "bounced", "complained"),
    "profiling_objection",
)
_CONSENT_RULES = {
    "evidence": (rf"^\s*({'|'.join(_EVIDENCE)})\s*$", f"is none of {', '.join(_EVIDENCE)}"),
    "email": (
        r"^[\s\x{A0}\x{200B}]*[^@\s]+@[^@\s.]+(\.[^@\s.]+)+[\s\x{A0}\x{200B}]*$",
        "is no email address",
    ),
}


def _formats(dataset: FileDataset) -> tuple[str, ...]:
    # Typed cells of Parquet and XLSX are turned into ISO text.
    return tuple(dict.fromkeys((*dataset.date_formats, "iso")))


def _line_amount(values: Mapping[str, pa.Array]) -> pa.Array:
    product = pc.multiply(values["quantity"], values["unit_price"])
    return pc.coalesce(values["line_amount"], product)


def _repeat(text: str | None, like: Any) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), len(like))


def _finish(table: pa.Table, label: str, schema: pa.Schema, loaded_at: datetime) -> pa.Table:
    table = table.append_column("source_name", _repeat(label, table))
    stamp = pa.repeat(pa.scalar(loaded_at, pa.timestamp("us", tz="UTC")), table.num_rows)
    return table.append_column("loaded_at", stamp).select(schema.names)


def parse_decimals(
    text: pa.Array, kind: pa.DataType, decimal_separator: str, thousands_separator: str
) -> tuple[pa.Array, pa.Array]:
    """Text to decimals, without a float in between; returns (values, mask of bad cells).

    More decimals than ``kind`` holds are rounded half to even; more than 18, more digits before
    the point than fit, and anything that is no plain number is bad.
    """
    if thousands_separator:
        text = pc.replace_substring(text, thousands_separator, "")
    if decimal_separator == ",":
        # Without this a point would silently become a decimal point.
        text = pc.if_else(pc.fill_null(pc.match_substring(text, "."), False), "x", text)
        text = pc.replace_substring(text, ",", ".")
    digits = kind.precision - kind.scale
    pattern = rf"^[+-]?(0*\d{{1,{digits}}}(\.\d{{0,18}}0*)?|\.\d{{1,18}})$"
    fits = pc.fill_null(pc.match_substring_regex(text, pattern), True)
    clean = pc.if_else(fits, text, pa.scalar(None, pa.string()))
    trimmed = pc.replace_substring_regex(clean, r"^([+-]?)0+(\d)", r"\1\2")
    trimmed = pc.replace_substring_regex(trimmed, r"(\.\d{18})0+$", r"\1")
    exact = pc.cast(trimmed, pa.decimal128(38, 18))
    if kind.scale < 18:
        exact = pc.round(exact, ndigits=kind.scale, round_mode="half_to_even")
    values = pc.cast(exact, kind, safe=True) if kind != exact.type else exact
    return values, pc.invert(fits)


def parse_times(
    text: pa.Array, formats: Sequence[str], zone: ZoneInfo | None, dataset: str
) -> tuple[pa.Array, pa.Array]:
    """Text to UTC timestamps; returns (values, mask of bad cells).

    Each distinct text is parsed once, by the first format that fits; ISO columns are cast as a
    whole first. A time without a zone is in ``zone``: of an hour that happens twice the first one
    is meant, an hour that does not exist is moved forward.

    Raises ConfigError when a time carries no zone and ``zone`` is None.
    """
    if formats[0] == "iso":
        try:
            local = pc.cast(text, pa.timestamp("us"))
            return _to_utc(local, zone, dataset), pa.repeat(pa.scalar(False), len(text))
        except pa.ArrowInvalid:
            pass
    encoded = text.dictionary_encode()
    parsed = [_parse_time(item, formats) for item in encoded.dictionary.to_pylist()]
    naive = pa.array(
        [moment if moment and moment.tzinfo is None else None for moment in parsed],
        pa.timestamp("us"),
    )
    aware = pa.array(
        [moment.astimezone(UTC) if moment and moment.tzinfo else None for moment in parsed],
        pa.timestamp("us", tz="UTC"),
    )
    known = pc.coalesce(aware, _to_utc(naive, zone, dataset))
    values = pc.take(known, encoded.indices)
    return values, pc.and_(pc.is_valid(text), pc.is_null(values))


def parse_days(text: pa.Array, formats: Sequence[str]) -> tuple[pa.Array, pa.Array]:
    """Text to calendar days as they are written; returns (values, mask of bad cells).

    A time of day and a zone are read and dropped: an account's report calls its own day by name.
    """
    encoded = text.dictionary_encode()
    parsed = [_parse_time(item, formats) for item in encoded.dictionary.to_pylist()]
    days = pa.array([moment.date() if moment else None for moment in parsed], pa.date32())
    values = pc.take(days, encoded.indices)
    return values, pc.and_(pc.is_valid(text), pc.is_null(values))


def _parse_time(text: str | None, formats: Sequence[str]) -> datetime | None:
    for format_ in formats if text else ():
        try:
            if format_ == "iso":
                moment = datetime.fromisoformat(str(text))
            else:
                moment = datetime.strptime(str(text), format_)  # noqa: DTZ007 (zone added later)
            # Conversions to UTC must stay within the years that exist.
            return moment if 1 < moment.year < 9999 else None
        except ValueError:
            continue
    return None


def _to_utc(local: pa.Array, zone: ZoneInfo | None, dataset: str) -> pa.Array:
    """Local timestamps to UTC, through the zone's offset at each distinct quarter of an hour."""
    utc = pa.timestamp("us", tz="UTC")
    if local.null_count == len(local):
        return pa.nulls(len(local), utc)
    if zone is None:
        raise ConfigError(
            f"sources.yml: files: dataset {dataset}: its times carry no zone. State `timezone`, "
            "for example Europe/Berlin."
        )
    if zone.key == "UTC":
        return pc.cast(local, utc)
    quarters = pc.floor_temporal(local, 15, "minute").dictionary_encode()
    offsets = pa.array(
        [
            (quarter.replace(tzinfo=zone).utcoffset() or timedelta()) if quarter else None
            for quarter in quarters.dictionary.to_pylist()
        ],
        pa.duration("us"),
    )
    return pc.cast(pc.subtract(local, pc.take(offsets, quarters.indices)), utc)
