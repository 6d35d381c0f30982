"""What the tests keep of dbt is what dbt makes (tests/quick_dbt.py)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from dbt.clients.jinja import MacroStack
from dbt.context.macros import MacroNamespaceBuilder
from dbt_common.clients.jinja import MacroFuzzEnvironment

from tests import quick_dbt

MACROS = {
    package: {
        name: SimpleNamespace(name=name, package_name=package, unique_id=f"macro.{package}.{name}")
        for name in names
    }
    for package, names in {
        "kundenkreis": ["safe_cast", "of_the_project"],
        "a_package": ["safe_cast", "of_a_package"],
        "dbt_postgres": ["safe_cast", "of_postgres", "of_both"],
        "dbt": ["safe_cast", "of_dbt", "of_both"],
    }.items()
}


def _names(namespace: Any) -> dict[str, Any]:
    """Name -> macro, and package -> name -> macro."""
    return {
        name: {own: found.macro.unique_id for own, found in member.items()}
        if isinstance(member, dict)
        else member.macro.unique_id
        for name, member in dict(namespace).items()
    }


def test_a_kept_namespace_finds_the_macros_that_dbt_finds() -> None:
    build = quick_dbt._namespaces(MacroNamespaceBuilder.build_namespace)
    for search_package in ("kundenkreis", "a_package", "dbt"):
        by_dbt, kept = (
            build(
                MacroNamespaceBuilder(
                    "kundenkreis", search_package, MacroStack(), ["dbt_postgres", "dbt"], node
                ),
                MACROS,
                {"of": node},
            )
            for node in ("one model", "another")
        )
        assert _names(kept) == _names(by_dbt)
        assert kept["safe_cast"].node == "another"
        assert kept["safe_cast"].context == {"of": "another"}
        for package in (None, "kundenkreis", "a_package", "dbt"):
            for name in ("safe_cast", "of_both", "of_the_project", "of_nobody"):
                expected = by_dbt.get_from_package(package, name)
                found = kept.get_from_package(package, name)
                assert (found and found.macro) == (expected and expected.macro), (package, name)


def test_a_macro_that_came_since_is_found() -> None:
    macros = {package: dict(names) for package, names in MACROS.items()}
    build = quick_dbt._namespaces(MacroNamespaceBuilder.build_namespace)
    arguments = ("kundenkreis", "kundenkreis", MacroStack(), ["dbt_postgres", "dbt"])
    build(MacroNamespaceBuilder(*arguments), macros, {})
    macros["kundenkreis"]["new"] = SimpleNamespace(
        name="new", package_name="kundenkreis", unique_id="macro.kundenkreis.new"
    )
    assert "new" in build(MacroNamespaceBuilder(*arguments), macros, {})


def test_a_template_is_compiled_by_one_process_and_read_by_the_next(tmp_path: Path) -> None:
    made: list[str] = []

    def compile_template(environment: Any, source: str) -> Any:
        made.append(source)
        return compile(repr(source), "<template>", "eval")

    environment = MacroFuzzEnvironment()
    for _ in range(2):
        compiled = quick_dbt._compiled_once(compile_template, tmp_path)
        assert compiled(environment, "select 1").co_consts == ("select 1",)
    assert compiled(environment, "select 2").co_consts == ("select 2",)
    assert made == ["select 1", "select 2"]
