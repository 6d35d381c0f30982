"""A compiled dbt project and a warehouse for it, shared by tests that live through nights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis import night
from kundenkreis.quality.suites.marts import REQUIRED_COLUMNS
from kundenkreis.settings import Settings, home, load_settings
from kundenkreis.warehouse.schema import ensure_schemas
from tests.integration.compiled_project import CompiledProject, compile_project
from tests.integration.dbt_support import create_raw_tables
from tests.shared_databases import made_once, shared_folder

_SOURCES = """
woocommerce: {quiet_days: [2026-04-06, 12-24, 12-25, 12-26]}
hubspot: {}
files:
  datasets:
    - name: till
      entity: orders
      path: till.csv
      quiet_days: [2026-04-06]
      columns:
        {order_key: Receipt, ordered_at: Date, status: S, currency: C, total_amount: Total}
    - name: desk
      entity: consent_events
      path: desk.csv
      columns: {email: Email, evidence: Evidence}
"""


@dataclass(frozen=True)
class ShopTemplate:
    """A warehouse with staging, seeds and functions, to be cloned; and the models to build."""

    server: Any
    project: CompiledProject
    database: str

    def clone(self, name: str, of: str | None = None) -> str:
        """Make a database, anew where there is one, and return its URI."""
        self.drop(name)
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as connection:
            template = of or self.database
            connection.execute(
                f'create database "{name}" template "{template}" strategy file_copy'.encode()
            )
        return str(self.server.dsn(name))

    def drop(self, *names: str) -> None:
        """Drop databases, where they are there."""
        with psycopg.connect(self.server.dsn("postgres"), autocommit=True) as connection:
            for name in names:
                connection.execute(f'drop database if exists "{name}" with (force)'.encode())


@pytest.fixture(scope="session")
def shop_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of the generated shops."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "sources.yml").write_text(_SOURCES)
    (folder / "destinations.yml").write_text("listmonk: {}\nmailchimp: {}\n")
    (folder / "model.yml").write_text("exchange_rates: {USD: 0.9}\n")
    (folder / "segments.yml").write_text(
        (Path(__file__).parents[2] / "config" / "segments.yml").read_text()
    )
    return load_settings(folder)


@pytest.fixture(scope="session")
def shop_template(
    postgres: Any, shop_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ShopTemplate]:
    """What dbt compiled once; the two colours are empty, as if built by the same rules."""
    name = "shop"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f'create database "{name}"'.encode())
    dsn = postgres.dsn(name)
    project = made_once(
        shared_folder(tmp_path_factory) / "shop_template",
        dsn,
        lambda: _compile_into(dsn, shop_settings),
    )
    template = ShopTemplate(postgres, project, name)
    yield template
    template.drop(name)


def _compile_into(dsn: str, settings: Settings) -> CompiledProject:
    ensure_schemas(dsn)
    create_raw_tables(dsn, "files", "hubspot", "woocommerce")
    project = compile_project(
        dsn,
        settings.dbt_vars(),
        home() / "dbt" / "target_marts_blue",
        [*REQUIRED_COLUMNS, *night.REJECTING_MODELS],
    )
    with psycopg.connect(dsn) as connection:
        for colour in ("blue", "green"):
            connection.execute(
                f"drop schema if exists marts_{colour}, intermediate_{colour} cascade".encode()
            )
            connection.execute(
                "insert into operations.build_state values (%s, '2026-01-01', null, '{}', 'rules',"
                " 'run')",
                (f"marts_{colour}",),
            )
    return project
