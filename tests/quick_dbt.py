"""What dbt does anew for each model of each build, done once for all builds of the tests.

dbt compiles every template for every node, makes an object of each of its macros for every node,
and writes every event into a message that nobody reads. For a night that is little; the tests build
some thousands of nodes. What dbt makes of the project stays the same: `make dbt-parse`, the nights
of tests/deployment and one of tests/night are without any of this.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import marshal
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

from dbt.clients.jinja import MacroGenerator
from dbt.context.macros import MacroNamespace, MacroNamespaceBuilder
from dbt.include.global_project import PROJECT_NAME
from dbt_common import tests as caching_of_dbts_own_tests
from dbt_common.clients.jinja import MacroFuzzEnvironment
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager import EventManager

TEMPLATES = "templates"
"""Folder for compiled templates, within the one of the shared parses."""


def install(folder: Path) -> None:
    """Let dbt in this process keep what it makes; other processes find templates in the folder."""
    caching_of_dbts_own_tests.enable_test_caching()
    folder.mkdir(exist_ok=True)
    MacroFuzzEnvironment.compile = _compiled_once(MacroFuzzEnvironment.compile, folder)
    MacroNamespaceBuilder.build_namespace = _namespaces(MacroNamespaceBuilder.build_namespace)
    EventManager.fire_event = _without_debugging(EventManager.fire_event)


# ----------------------------------------------------------------- templates


def _compiled_once(compile_template: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    known: dict[tuple[str, str], CodeType] = {}
    version = importlib.metadata.version("jinja2")

    def compiled(environment: Any, source: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(source, str) or arguments or options:
            return compile_template(environment, source, *arguments, **options)
        key = (type(environment).__name__, source)
        if key not in known:
            name = hashlib.sha256("\0".join((version, *key)).encode()).hexdigest()
            known[key] = _stored(folder / name, lambda: compile_template(environment, source))
        return known[key]

    return compiled


def _stored(file: Path, make: Callable[[], CodeType]) -> CodeType:
    """A compiled template from its file, which is written where there is none."""
    try:
        stored: CodeType = marshal.loads(file.read_bytes())  # noqa: S302 (written by these tests)
    except FileNotFoundError:
        stored = make()
        new = file.with_suffix(f".{os.getpid()}_{threading.get_ident()}")
        new.write_bytes(marshal.dumps(stored))
        new.rename(file)
    return stored


# ----------------------------------------------------------------- macros


class _Namespace(MacroNamespace):
    """dbt's namespace of macros, which knows each name's macro instead of looking for it."""

    def __init__(self, names: Mapping[str, Any], *parts: Any) -> None:
        super().__init__(*parts)
        self._names = names

    def __getitem__(self, key: str) -> Any:
        return self._names[key]

    def __contains__(self, key: object) -> bool:
        return key in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class _Places:
    """Where each macro of a project stands in a namespace: of every part, name -> macro."""

    macros: Mapping[str, Mapping[str, Any]]
    count: int
    global_names: Mapping[str, Any]
    local_names: Mapping[str, Any]
    internal_names: Mapping[str, Any]
    packages: Mapping[str, Mapping[str, Any]]


def _namespaces(build: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[tuple[Any, ...], _Places] = {}

    def built(builder: Any, macros: Mapping[str, Mapping[str, Any]], context: Any) -> Any:
        count = sum(map(len, macros.values()))
        key = (builder.root_package, builder.search_package, *builder.internal_package_names_order)
        places = known.get(key)
        if places is None or places.macros is not macros or places.count != count:
            namespace = build(builder, macros, context)
            known[key] = _places(macros, count, namespace)
            return namespace
        return _namespace(places, builder, context)

    return built


def _places(macros: Any, count: int, namespace: MacroNamespace) -> _Places:
    def macros_of(names: Mapping[str, Any]) -> dict[str, Any]:
        return {name: generator.macro for name, generator in names.items()}

    return _Places(
        macros,
        count,
        macros_of(namespace.global_namespace),
        macros_of(namespace.local_namespace),
        macros_of(namespace.global_project_namespace),
        {package: macros_of(names) for package, names in namespace.packages.items()},
    )


def _namespace(places: _Places, builder: Any, context: Any) -> _Namespace:
    generators: dict[str, MacroGenerator] = {}

    def generators_of(names: Mapping[str, Any]) -> dict[str, MacroGenerator]:
        found = {}
        for name, macro in names.items():
            generator = generators.get(macro.unique_id)
            if generator is None:
                generator = MacroGenerator(macro, context, builder.node, builder.thread_ctx)
                generators[macro.unique_id] = generator
            found[name] = generator
        return found

    global_names = generators_of(places.global_names)
    local_names = generators_of(places.local_names)
    internal_names = generators_of(places.internal_names)
    packages = {package: generators_of(names) for package, names in places.packages.items()}
    # The other way round than dbt looks: what it finds first is put in last.
    names = {
        **internal_names,
        PROJECT_NAME: internal_names,
        **packages,
        **global_names,
        **local_names,
    }
    return _Namespace(names, global_names, local_names, internal_names, packages)


# ----------------------------------------------------------------- events


def _without_debugging(fire: Callable[..., None]) -> Callable[..., None]:
    def fired(manager: Any, event: Any, level: Any = None, *arguments: Any, **options: Any) -> None:
        if (level or event.level_tag()) != EventLevel.DEBUG:
            fire(manager, event, level, *arguments, **options)

    return fired
