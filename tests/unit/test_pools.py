"""A pool for each vendor account, and what Airflow's database is given before the first night."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kundenkreis import airflow_init
from kundenkreis.pools import DEFAULT_POOL, needed_pools, pool_of
from kundenkreis.settings import load_settings


def _config(folder: Path, sources: str, destinations: str) -> Path:
    (folder / "sources.yml").write_text(sources)
    (folder / "destinations.yml").write_text(destinations)
    (folder / "segments.yml").write_text("segments: {}\n")
    return folder


def test_an_account_has_one_pool_whoever_uses_it(tmp_path: Path) -> None:
    files = (
        "files: {datasets: [{name: t, entity: products, path: t.csv, columns: {product_key: k}}]}"
    )
    folder = _config(
        tmp_path,
        f"woocommerce: {{connection: shop}}\nhubspot: {{connection: suite}}\n{files}\n",
        "listmonk: {}\nmailchimp: {connection: suite}\n",
    )
    settings = load_settings(folder)
    assert [pool.name for pool in needed_pools(settings)] == [
        "vendor_listmonk",
        "vendor_shop",
        "vendor_suite",
    ]
    assert {pool.slots for pool in needed_pools(settings)} == {1}
    assert pool_of(settings.sources["hubspot"]) == pool_of(settings.destinations["mailchimp"])
    assert pool_of(settings.sources["files"]) == DEFAULT_POOL


class _Airflow:
    """Airflow's command line, as far as `airflow_init` uses it."""

    def __init__(self, **pools: int) -> None:
        self.pools = {DEFAULT_POOL: 128, **pools}
        self.calls: list[tuple[str, ...]] = []
        self.answers: list[str] = []

    def __call__(self, environment: Mapping[str, str], *arguments: str, answer: str = "") -> str:
        self.calls.append(arguments)
        self.answers.append(answer)
        if arguments[:2] == ("pools", "list"):
            listed = [{"pool": name, "slots": str(slots)} for name, slots in self.pools.items()]
            return f"a warning [with a bracket]\n{json.dumps(listed)}\n"
        if arguments[:2] == ("pools", "import"):
            imported = json.loads(Path(arguments[2]).read_text())
            self.pools |= {name: pool["slots"] for name, pool in imported.items()}
        return ""


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> _Airflow:
    """An Airflow in which somebody gave one account two slots."""
    fake = _Airflow(vendor_hubspot=2)
    monkeypatch.setattr(airflow_init, "_airflow", fake)
    return fake


def _initialise(**environment: str) -> list[str]:
    said: list[str] = []
    airflow_init.initialise(needed_pools(load_settings()), environment, said.append)
    return said


def test_missing_pools_are_added_and_slots_are_kept(airflow: _Airflow) -> None:
    _initialise()
    ours = {name: slots for name, slots in airflow.pools.items() if name != DEFAULT_POOL}
    assert ours.pop("vendor_hubspot") == 2
    assert set(ours.values()) == {1} and len(ours) >= 3
    assert airflow.calls[0] == ("db", "migrate")
    _initialise()
    assert [call[1] for call in airflow.calls].count("import") == 1


def test_the_first_login_is_added_where_logins_are_kept(airflow: _Airflow) -> None:
    fab: dict[str, Any] = {
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.providers.fab.auth_manager.FabAuthManager"
    }
    _initialise(KUNDENKREIS_ADMIN_PASSWORD="geheim")
    _initialise(**fab)
    assert not any(call[0] == "users" for call in airflow.calls)
    said = _initialise(**fab, KUNDENKREIS_ADMIN_PASSWORD="geheim")
    assert airflow.calls[-1][:2] == ("users", "create")
    assert airflow.answers[-1] == "geheim\ngeheim\n"
    assert "geheim" not in " ".join([*airflow.calls[-1], *said])


def test_a_missing_pool_is_told_from_one_that_is_there(airflow: _Airflow) -> None:
    states = airflow_init.pool_states(needed_pools(load_settings()), {})
    slots = {state.name: state.slots for state in states}
    assert slots["vendor_hubspot"] == 2
    assert slots["vendor_woocommerce"] is None


def test_without_a_vendor_airflow_is_not_asked(airflow: _Airflow) -> None:
    assert airflow_init.pool_states([], {}) == []
    assert airflow.calls == []
