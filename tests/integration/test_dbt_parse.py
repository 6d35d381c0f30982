"""One parse of the dbt project serves every night: only the text of variables differs by night."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kundenkreis.settings import load_settings, repository_root
from kundenkreis.warehouse import dbt
from kundenkreis.warehouse.publish import BLUE
from tests import shared_parses

# Times of the parse itself.
_MADE_WHEN = ("created_at", "generated_at")

NIGHT = {
    **load_settings(repository_root() / "config").dbt_vars(),
    "as_of_date": "2026-03-31",
    "marts_schema": "marts_green",
    "built_as_of_date": "2026-03-29",
    "new_loads": {"woocommerce": ["1774900000.1"], "hubspot": ["1774900000.2"]},
    "released_exchange_rates": [
        {"source": "woocommerce", "order_id": "7", "currency": "CHF", "rate": "0.9"}
    ],
    "run_id": "manual__2026-04-01",
}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(own) for key, own in value.items() if key not in _MADE_WHEN}
    if isinstance(value, list):
        return [_without_times(own) for own in value]
    return value


def _parsed(
    folder: Path, database: str, variables: dict[str, Any], patch: pytest.MonkeyPatch
) -> Any:
    patch.setenv("KUNDENKREIS_DBT_DBNAME", database)
    (folder / database).mkdir()
    return shared_parses.parse_unshared(folder / database, folder / database, variables)


def test_what_stands_for_a_nights_variables_changes_nothing_of_the_parse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does what tests/shared_parses.py puts into a parse: the colour and the database."""
    stands_for = dbt.variables_while_parsing(NIGHT)
    replaced = {name for name, value in NIGHT.items() if stands_for[name] != value}
    assert replaced == set(dbt._WHILE_PARSING)
    assert NIGHT["marts_schema"] != BLUE

    night = _parsed(tmp_path, "of_the_night", NIGHT, monkeypatch)
    shared = _parsed(tmp_path, "another", {**stands_for, "marts_schema": BLUE}, monkeypatch)
    shared_parses.move_to_colour(shared, NIGHT["marts_schema"])
    shared_parses.move_to_database(shared, "of_the_night")

    parsed = [
        _without_times(manifest.writable_manifest().to_dict(omit_none=False))
        for manifest in (night, shared)
    ]
    parts = parsed[0].keys() - {"metadata"}
    assert parts >= {"nodes", "macros", "sources", "functions", "disabled", "parent_map"}
    assert len(parsed[0]["nodes"]) > 150
    for part in parts:
        assert parsed[0][part] == parsed[1][part], part


def test_a_full_build_and_one_of_what_changed_are_parsed_apart() -> None:
    assert dbt.variables_while_parsing({"built_as_of_date": None}) == {"built_as_of_date": None}
