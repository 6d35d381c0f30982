"""Writes docs/gates.md from the suites themselves (``make docs``, or this module on its own).

The page shows the suites as they are with every source, one email tool and one segment, on a night
that has a history and a publication before it.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from kundenkreis.destinations.config import DestinationsConfig
from kundenkreis.quality.bounds import History
from kundenkreis.quality.facts import LandingFacts, MartsFacts
from kundenkreis.quality.suites import contract, landing, marts, rejections
from kundenkreis.quality.suites.common import TableSuite
from kundenkreis.quality.suites.landed import feeds, landed_tables
from kundenkreis.settings import (
    Labels,
    ModelSettings,
    RetentionConfig,
    Segment,
    Settings,
    repository_root,
)
from kundenkreis.sources.config import ENTITY_COLUMNS, SourcesConfig

_HEAD = """# Gates

<!-- Written by `make docs`; do not edit by hand. -->

A gate is one Great Expectations checkpoint. `gate_landing` reads what arrived, `gate_marts` the
marts that are about to be published.

| severity | when it fails |
|---|---|
| critical | The run stops red. Nothing is published and nothing is sent. |
| warning | The run goes on; the report names it. |
| info | The run goes on; `quality.gate_results` and the Data Docs show it. |

An expectation that cannot be evaluated (a column is missing, a query fails) stops the run whatever
its severity. Every result is a row of `quality.gate_results`; the Data Docs of a run are in
`.kundenkreis/data_docs/<run id>/<gate>/index.html`, beside the links `publication_<id>` and
`latest` to the folder of a run; `kundenkreis status` prints the paths. Both hold counts, never a
person's data; the message of a stopped run gives the SQL that lists the rows by id.

What a night is compared with stands in `quality.measurements`: what gates measured before. While
there are too few nights, an expectation that compares is left out. `kundenkreis gates` and the view
`quality.gate_trend` show how each expectation did night after night.

The numbers behind the limits are in `plugins/kundenkreis/quality/limits.py`, each with its reason.
How many rows one reason may reject is in [quality.yml](configuration.md); there is an expectation
per source, table and reason that a night rejected something for, of which one is shown here.
"""

_DAY = date(2026, 1, 31)
_MOMENT = datetime(2026, 1, 31, 23, tzinfo=UTC)
_SCHEMA = "marts_blue"


def gates_markdown() -> str:
    """The whole page, ending in a line break."""
    settings = _everything()
    return "\n".join(
        [
            _HEAD,
            "## gate_landing",
            *_sections(
                [
                    *landing.suites(settings, _landing_facts(settings)),
                    _rejections("landing", "orders", "invalid_total", settings),
                ]
            ),
            "## gate_marts",
            *_sections(
                [
                    contract.suite(_SCHEMA, (), ()),
                    *marts.suites(settings, _marts_facts()),
                    _rejections("marts", "orders", "no_exchange_rate", settings),
                ]
            ),
        ]
    )


def page() -> Path:
    """Where the page is kept."""
    return repository_root() / "docs" / "gates.md"


def _sections(suites: list[TableSuite]) -> list[str]:
    """One table per database table, in the order the gate reads them."""
    by_table: dict[str, list[str]] = {}
    for suite in suites:
        for expectation in suite.expectations:
            meta = expectation.meta
            rule = str(meta["id"]).split(".", 1)[1].removeprefix(f"{meta['table']}.")
            by_table.setdefault(str(meta["table"]), []).append(
                f"| `{rule}` | {expectation.severity.value} "
                f"| {_cell(expectation.description)} | {_cell(meta['action'])} |"
            )
    lines = []
    for table, rows in by_table.items():
        lines += [
            "",
            f"### {table}",
            "",
            "| expectation | severity | what is expected | what to do when it fails |",
            "|---|---|---|---|",
            *rows,
        ]
    return [*lines, ""]


def _rejections(gate: str, table: str, reason: str, settings: Settings) -> TableSuite:
    """There is one expectation per source, table and reason; one of them stands for all."""
    one = rejections.Rejected(
        "woocommerce", table, reason, "quarantine.rejected_records where true", "0"
    )
    return rejections.suite(gate, [one], settings.quality)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _everything() -> Settings:
    sources = SourcesConfig.model_validate(
        {
            "woocommerce": {},
            "hubspot": {},
            "files": {
                "datasets": [
                    {
                        "name": entity.value,
                        "entity": entity.value,
                        "path": "export.csv",
                        "columns": {column: column for column in columns},
                    }
                    for entity, columns in ENTITY_COLUMNS.items()
                ]
            },
        }
    )
    destinations = DestinationsConfig.model_validate({"listmonk": {}})
    return Settings(
        folder=repository_root() / "config",
        model=ModelSettings(),
        sources={name: getattr(sources, name) for name in ("woocommerce", "hubspot", "files")},
        segments={
            "welcome": Segment(
                labels=Labels(en="Welcome", de="Willkommen"),
                description="",
                where="true",
                requires=["frequency"],
            )
        },
        destinations={"listmonk": destinations.listmonk},
        retention=RetentionConfig(),
    )


def _landing_facts(settings: Settings) -> LandingFacts:
    names = [
        f"raw_{source}.{landed.table}"
        for source, tables in landed_tables(settings).items()
        for landed in tables
    ]
    columns = {(name.split(".")[0], name.split(".")[1]): frozenset[str]() for name in names}
    columns["quarantine", "rejected_records"] = frozenset()
    columns["activation", "subscriber_states"] = frozenset()
    volumes = {f"landing.{name}.volume": [1_000] for name in names}
    usual = {"rows": 100.0, "amount": 40.0, "at_night": 0.1}
    history = {}
    for feed in feeds(settings):
        for figure in (*usual, *(f"filled.{column}" for column in feed.landed.filled)):
            value = usual.get(figure, 0.9)
            history[feed.name, feed.measure(figure)] = History((value,) * 14, (value,) * 14)
    return LandingFacts("run", _MOMENT, _MOMENT, columns, volumes, history=history)


def _marts_facts() -> MartsFacts:
    columns = {
        (_SCHEMA, table): frozenset(names) for table, names in marts.REQUIRED_COLUMNS.items()
    }
    columns["marts", "segment_members"] = frozenset(marts.REQUIRED_COLUMNS["segment_members"])
    columns["activation", "subscriber_states"] = frozenset()
    columns["raw_woocommerce", "customers"] = frozenset({"id", "date_created_gmt"})
    columns["raw_woocommerce", "orders"] = frozenset({"id", "total", "total_tax", "exchange_rate"})
    columns["marts", "customer_360"] = frozenset(marts.REQUIRED_COLUMNS["customer_360"])
    for table in ("customer_ids", "stage_changes", "rfm_segment_changes"):
        columns["history", table] = frozenset()
    columns["activation", "rows_under_way"] = frozenset()
    level, share = History(recent=(1_000.0,) * 14), History(recent=(0.3,) * 14)
    history = {
        ("customer_360", "customers"): level,
        ("customer_360", "contactable"): level,
        ("customer_360", "filled.ATTRIBUTE"): level,
        ("customer_360", "share.STAGE"): share,
        ("customer_rfm", "share.SEGMENT"): share,
        ("orders", "orders"): level,
        ("orders", "counted_orders"): level,
        ("orders", "counted_revenue"): level,
    }
    return MartsFacts(
        _SCHEMA,
        _DAY,
        columns,
        published_as_of=_DAY,
        same_rules=True,
        measured=dict.fromkeys(history, 0.3),
        history=history,
    )


if __name__ == "__main__":
    page().write_text(gates_markdown(), encoding="utf-8")
