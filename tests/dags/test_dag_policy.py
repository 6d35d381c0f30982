"""What every DAG file of the project keeps to, read in a fresh interpreter as Airflow does."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from kundenkreis.pools import DEFAULT_POOL, needed_pools, pool_of
from kundenkreis.settings import load_settings, repository_root

ROOT = repository_root()
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))
DAG_ID = "customer_lifecycle"
HEAVY = (
    "dlt",
    "great_expectations",
    "dbt",
    "pandas",
    "numpy",
    "scipy",
    "pyarrow",
    "httpx",
    "sandbox",
)

# The design's night, and beside its report what happens to what the size guard held.
ORDER = (
    *("extract", "gate_landing", "transform", "predict", "segment", "gate_marts"),
    *("publish", "plan", "deliver", "reconcile", "report", "retention"),
)
HELD = ("held", "approve", "deliver_held")

_PROBE = """
import json, runpy, sys
from pathlib import Path

root, heavy = Path(sys.argv[1]), json.loads(sys.argv[2])

# Airflow itself brings some of them along: only what a DAG file adds is its own.
import airflow.sdk
known = set(sys.modules)
for file in sorted((root / "dags").glob("*.py")):
    runpy.run_path(str(file))
added = {name.split(".")[0] for name in set(sys.modules) - known}

from airflow.dag_processing.dagbag import DagBag
from airflow import plugins_manager

plugins_manager.ensure_plugins_loaded()
plugin_errors = plugins_manager.get_import_errors()
package = str(root / "plugins" / "kundenkreis") + "/"
stray = [
    name for name, module in list(sys.modules.items())
    if str(getattr(module, "__file__", None) or "").startswith(package)
    and name.split(".")[0] != "kundenkreis"
]
bag = DagBag(dag_folder=str(root / "dags"))

def seconds(value):
    return None if value is None else value.total_seconds()

def describe(dag):
    return {
        "tags": sorted(dag.tags),
        "doc_md": dag.doc_md,
        "description": dag.description,
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "dagrun_timeout": seconds(dag.dagrun_timeout),
        "timezone": str(dag.timezone),
        "schedule": dag.schedule,
        "params": list(dag.params),
        "tasks": {
            task.task_id: {
                "type": task.task_type,
                "owner": task.owner,
                "pool": task.pool,
                "retries": task.retries,
                "retry_delay": seconds(task.retry_delay),
                "execution_timeout": seconds(task.execution_timeout),
                "trigger_rule": str(task.trigger_rule.value),
                "upstream": sorted(task.upstream_task_ids),
                "outlets": [outlet.uri for outlet in task.outlets],
                "is_mapped": task.get_closest_mapped_task_group() is not None,
                "options": getattr(task, "options", None),
                "defaults": getattr(task, "defaults", None),
                "response_timeout": seconds(getattr(task, "response_timeout", None)),
            }
            for task in dag.tasks
        },
    }

facts = {
    "heavy": sorted(added & set(heavy)),
    "plugin_errors": plugin_errors,
    "stray": stray,
    "import_errors": bag.import_errors,
    "dags": {dag_id: describe(dag) for dag_id, dag in bag.dags.items()},
}
print("FACTS" + json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh interpreter finds in the DAG and plugins folders."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    completed = subprocess.run(
        [sys.executable, "-c", _PROBE, str(ROOT), json.dumps(HEAVY)],
        env={
            **{name: os.environ[name] for name in kept if name in os.environ},
            "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": str(ROOT / "plugins"),
        },
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr[-4000:]
    line = next(line for line in completed.stdout.splitlines() if line.startswith("FACTS"))
    found: dict[str, Any] = json.loads(line.removeprefix("FACTS"))
    return found


@pytest.fixture(scope="module")
def night(facts: dict[str, Any]) -> dict[str, Any]:
    """The nightly DAG."""
    found: dict[str, Any] = facts["dags"][DAG_ID]
    return found


# All DAGs


def test_every_dag_file_loads(facts: dict[str, Any]) -> None:
    assert facts["import_errors"] == {}
    assert DAG_ID in facts["dags"]
    assert len(facts["dags"]) >= len(DAG_FILES)


def test_reading_a_dag_file_imports_nothing_heavy(facts: dict[str, Any]) -> None:
    assert facts["heavy"] == []


def test_airflow_loads_no_module_of_the_package_as_a_plugin(facts: dict[str, Any]) -> None:
    assert facts["plugin_errors"] == {}
    assert facts["stray"] == []
    assert "kundenkreis/" in (ROOT / "plugins" / ".airflowignore").read_text().splitlines()


def test_every_dag_says_whose_it_is(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        assert "kundenkreis" in dag["tags"]
        assert dag["description"]
        owners = {task["owner"] for task in dag["tasks"].values()}
        assert owners == {"data-engineering"}


def test_every_dag_runs_once_at_a_time_and_catches_up_nothing(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        assert dag["catchup"] is False
        assert dag["max_active_runs"] == 1


def test_nothing_runs_for_ever(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        assert dag["dagrun_timeout"]
        # A run that would last into the next night's is ended.
        assert dag["dagrun_timeout"] < 24 * 3600
        for task_id, task in dag["tasks"].items():
            assert task["execution_timeout"], task_id
            assert task["execution_timeout"] < dag["dagrun_timeout"], task_id


def test_every_task_is_tried_again(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        for task_id, task in dag["tasks"].items():
            assert task["retries"] >= 1, task_id
            assert task["retry_delay"] >= 30, task_id


def test_every_task_is_in_the_table_of_failures(facts: dict[str, Any]) -> None:
    for dag in facts["dags"].values():
        rows = [line for line in dag["doc_md"].splitlines() if line.startswith("| `")]
        assert re.search(r"^\| task \|.*red.*\|\n\|[-|]+\|$", dag["doc_md"], re.MULTILINE)
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
        patterns = [name for first, *_ in cells for name in re.findall(r"`([^`]+)`", first)]
        tasks = dag["tasks"]
        assert [t for t in tasks if not any(fnmatch(t, p) for p in patterns)] == []
        assert [p for p in patterns if not any(fnmatch(t, p) for t in tasks)] == []
        assert all(len(cell[1]) > 20 for cell in cells)


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.name)
def test_a_dag_file_is_short_and_decides_nothing(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) < 150
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda, ast.If, ast.Try)
    found = [type(node).__name__ for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    assert found == []


def test_the_readme_of_the_folder_lists_every_dag(facts: dict[str, Any]) -> None:
    readme = (ROOT / "dags" / "README.md").read_text()
    assert [dag_id for dag_id in facts["dags"] if f"`{dag_id}`" not in readme] == []


def test_tasks_that_talk_to_one_account_share_its_pool(facts: dict[str, Any]) -> None:
    """A vendor counts the calls of all DAGs together."""
    settings = load_settings(ROOT / "config")
    systems = {**settings.sources, **settings.destinations}
    for dag in facts["dags"].values():
        for task_id, task in dag["tasks"].items():
            group, _, name = task_id.rpartition(".")
            if group in ("extract", "deliver", "reconcile"):
                system = systems[name.removesuffix("_subscribers")]
                assert task["pool"] == pool_of(system), task_id
            else:  # and no task is in a pool that `kundenkreis airflow init` does not make
                known = {DEFAULT_POOL, *(pool.name for pool in needed_pools(settings))}
                assert task["pool"] in known, task_id


# The night


def test_the_night_begins_after_midnight_of_the_business_time_zone(night: dict[str, Any]) -> None:
    assert night["timezone"] == load_settings(ROOT / "config").model.business_timezone
    minute, hour, *rest = night["schedule"].split()
    assert (hour, rest) == ("0", ["*", "*", "*"])
    assert 0 < int(minute) < 60
    assert night["params"] == ["as_of"]


def _step(task_id: str) -> str:
    return task_id.split(".")[0]


def test_the_tasks_are_those_of_the_design(night: dict[str, Any]) -> None:
    assert {_step(task_id) for task_id in night["tasks"]} == {*ORDER, *HELD}
    settings = load_settings(ROOT / "config")
    reads = {*settings.sources, *(f"{name}_subscribers" for name in settings.destinations)}
    assert {t for t in night["tasks"] if _step(t) == "extract"} == {f"extract.{r}" for r in reads}
    for step in ("deliver", "reconcile"):
        expected = {f"{step}.{name}" for name in settings.destinations}
        assert {t for t in night["tasks"] if _step(t) == step} == expected


def test_the_tasks_follow_each_other_as_in_the_design(night: dict[str, Any]) -> None:
    """Every task waits, directly or not, for all tasks of all steps before its own."""
    tasks = night["tasks"]

    def ancestors(task_id: str) -> set[str]:
        direct = set(tasks[task_id]["upstream"])
        return direct.union(*(ancestors(parent) for parent in direct))

    def sorted_before(order: tuple[str, ...], task_id: str) -> set[str]:
        earlier = order[: order.index(_step(task_id))]
        return {other for other in tasks if _step(other) in earlier}

    for task_id in tasks:
        beside_the_report = (
            *(step for step in ORDER if step not in ("report", "retention")),
            *HELD,
        )
        order = beside_the_report if _step(task_id) in HELD else ORDER
        before = sorted_before(order, task_id)
        if _step(task_id) == "reconcile":  # a tool's read-back waits for its own delivery only
            own = task_id.replace("reconcile.", "deliver.")
            before = {t for t in before if _step(t) != "deliver"} | {own}
        assert ancestors(task_id) == before, task_id


def test_a_failure_anywhere_keeps_the_run_red(night: dict[str, Any]) -> None:
    """The last task must not run, and so not be green, where one before it failed."""
    rules = {task_id: task["trigger_rule"] for task_id, task in night["tasks"].items()}
    assert rules.pop("report") == "none_failed"  # a night that publishes nothing is reported
    assert set(rules.values()) == {"all_success"}
    parents = {parent for task in night["tasks"].values() for parent in task["upstream"]}
    assert set(night["tasks"]) - parents == {"retention", "deliver_held"}


def test_held_segments_are_asked_about_one_by_one_and_nothing_answers_by_itself(
    night: dict[str, Any],
) -> None:
    approve = night["tasks"]["approve"]
    assert approve["type"] == "ApproveOperator"
    assert approve["is_mapped"] and night["tasks"]["deliver_held"]["is_mapped"]
    assert approve["options"] == ["Approve", "Reject"]
    assert approve["defaults"] is None
    assert approve["response_timeout"] < night["dagrun_timeout"]


def test_the_night_offers_its_results_as_assets(night: dict[str, Any]) -> None:
    outlets = {task_id: task["outlets"] for task_id, task in night["tasks"].items()}
    assert outlets["publish"] == ["x-kundenkreis://marts"]
    assert outlets["extract.woocommerce"] == ["x-kundenkreis://raw/woocommerce"]
    assert outlets["deliver.listmonk"] == ["x-kundenkreis://audience/listmonk"]


# Who may import what


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _modules(*folders: str) -> list[Path]:
    package = ROOT / "plugins" / "kundenkreis"
    return [file for folder in folders for file in sorted((package / folder).rglob("*.py"))]


# local_run.py starts Airflow; airflow_server.py and airflow_home.py prepare its process.
MAY_IMPORT_AIRFLOW = ("operators/", "ui/", "local_run.py", "airflow_")


def test_only_operators_and_dags_import_airflow() -> None:
    package = ROOT / "plugins" / "kundenkreis"
    importing = [
        str(file.relative_to(package))
        for file in _modules("")
        if any(name.split(".")[0] == "airflow" for name in _imports(file))
    ]
    assert "operators/night.py" in importing  # or this test looks in the wrong place
    assert [name for name in importing if not name.startswith(MAY_IMPORT_AIRFLOW)] == []


@pytest.mark.parametrize("folder", ["sources", "destinations", "predictions"])
def test_connectors_do_not_know_each_other(folder: str) -> None:
    others = {"sources", "destinations", "predictions", "operators"} - {folder}
    forbidden = tuple(f"kundenkreis.{other}" for other in others)
    files = _modules(folder)
    assert files
    breaches = [
        f"{file.name} imports {name}"
        for file in files
        for name in _imports(file)
        if name.startswith(forbidden)
    ]
    assert breaches == []
