"""One parse of the dbt project for all test workers and the nights they start.

dbt takes seconds to parse the project, and does so for every set of variables, every database name
and every server address. What it has parsed lies in a file, which it takes up where all of these
are the same and no file of the project has changed. Each worker has a server and a home of its own,
so that file is handed from one to the other, and the address does not count. Nor do the database
and the colour: they are in a parse by name only, so they are put in afterwards
(test_dbt_parse.py compares that with a parse that dbt made for them).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from kundenkreis.warehouse import dbt
from kundenkreis.warehouse.publish import BLUE, intermediate_schema

FOLDER_VARIABLE = "KUNDENKREIS_TEST_PARSES"
_FILE = "partial_parse.msgpack"

parse_unshared = dbt._parsed


def install(folder: Path) -> None:
    """Let every dbt build of this process take up what any has parsed; other processes read it."""
    folder.mkdir(exist_ok=True)
    dbt._parsed = _shared(folder)


def _shared(folder: Path) -> Callable[..., Any]:
    def parsed(target: Path, logs: Path, variables: Mapping[str, Any]) -> Any:
        colour = variables.get("marts_schema")
        of_blue = {**variables, "marts_schema": BLUE} if colour else variables
        own, shared = target / _FILE, folder / _name(of_blue)
        _prepare_dbt(folder)
        with _locked(shared):
            if shared.exists() and not _is_copy(own, shared):
                shutil.copy2(shared, own)
            manifest = parse_unshared(target, logs, of_blue)
            if not shared.exists():
                new = shared.with_suffix(".new")
                shutil.copy2(own, new)
                new.rename(shared)
        if colour:
            move_to_colour(manifest, str(colour))
        return manifest

    return parsed


def move_to_colour(manifest: Any, colour: str) -> None:
    """Make of a parse for the blue colour one for another colour."""
    schemas = {BLUE: colour, intermediate_schema(BLUE): intermediate_schema(colour)}
    for node in _placed(manifest):
        if node.schema in schemas:
            _put(node, "schema", schemas[node.schema])
    manifest.build_flat_graph()


def move_to_database(manifest: Any, database: str) -> None:
    """Make of a parse for any database one for another, before dbt takes it up."""
    for node in _placed(manifest):
        if getattr(node, "database", None):
            _put(node, "database", database)


def _placed(manifest: Any) -> Iterator[Any]:
    """Everything of a manifest that has a place in the warehouse."""
    enabled = (manifest.nodes, manifest.sources, manifest.functions, manifest.unit_tests)
    listed = chain(*(part.values() for part in enabled), *manifest.disabled.values())
    return (node for node in listed if hasattr(node, "schema"))


def _put(node: Any, part: str, name: str) -> None:
    """Change a part of a node's place, and its name, which dbt has quoted."""
    before = getattr(node, part)
    setattr(node, part, name)
    if relation := getattr(node, "relation_name", None):
        assert f'"{before}".' in relation, relation
        node.relation_name = relation.replace(f'"{before}".', f'"{name}".', 1)


def _prepare_dbt(folder: Path) -> None:
    """Let dbt take up a parse for another server or database, and compiled templates as well."""
    from dbt.contracts.files import FileHash
    from dbt.parser.manifest import ManifestLoader
    from dbt_common.behavior_flags import BehaviorFlagRendered

    from tests import quick_dbt

    if hasattr(ManifestLoader, "is_prepared"):
        return
    quick_dbt.install(folder / quick_dbt.TEMPLATES)
    state_check = ManifestLoader.build_manifest_state_check
    read = ManifestLoader.read_manifest_for_partial_parse

    def check_of_any_server(loader: Any) -> Any:
        check = state_check(loader)
        # One that equals itself, as dbt's empty one does not.
        check.profile_hash = FileHash.from_contents("any server")
        return check

    def read_and_moved(loader: Any) -> Any:
        manifest = read(loader)
        if manifest:
            move_to_database(manifest, loader.root_project.credentials.database)
        return manifest

    ManifestLoader.build_manifest_state_check = check_of_any_server
    ManifestLoader.read_manifest_for_partial_parse = read_and_moved
    # Who declared a flag is looked up in the sources of all callers, for each of them anew.
    BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt")
    ManifestLoader.is_prepared = True


def _name(variables: Mapping[str, Any]) -> str:
    text = json.dumps(dbt.variables_while_parsing(variables), sort_keys=True, default=str)
    return f"{hashlib.sha256(text.encode()).hexdigest()}.msgpack"


def _is_copy(own: Path, shared: Path) -> bool:
    if not own.exists():
        return False
    ours, theirs = own.stat(), shared.stat()
    return (ours.st_mtime_ns, ours.st_size) == (theirs.st_mtime_ns, theirs.st_size)


@contextmanager
def _locked(shared: Path) -> Iterator[None]:
    """Who comes second waits for the parse instead of making another."""
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
