"""Airflow's settings that hurt: what runs tasks, what guards secrets, how the DAG is read.

Airflow is asked in a process of its own (`kundenkreis.airflow_settings`), with the environment that
`kundenkreis up` would give it, so that nothing here imports it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from kundenkreis.airflow_home import airflow_environment
from kundenkreis.connections import Connection, parse_connection
from kundenkreis.doctor.findings import Finding, Patient, error, ok, or_ok, warning
from kundenkreis.errors import KundenkreisError
from kundenkreis.pools import needed_pools
from kundenkreis.redaction import first_lines
from kundenkreis.warehouse import embedded

SUBJECT = "airflow"
_SECONDS = 25.0
_DEMO_PASSWORDS = "simple_auth_manager_all_admins"


@dataclass(frozen=True)
class AirflowFacts:
    """What Airflow says of itself."""

    settings: dict[str, str] = field(default_factory=dict)
    connections: dict[str, Connection] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    pools: dict[str, int] | None = None


def read(connection_ids: Iterable[str]) -> AirflowFacts:
    """Ask Airflow for its settings and for connections that the environment does not hold."""
    command = [sys.executable, "-m", "kundenkreis.airflow_settings", *connection_ids]
    try:
        completed = subprocess.run(  # noqa: S603 (our own program)
            command,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        line = next(
            line for line in completed.stdout.splitlines() if line.startswith("AIRFLOW_SETTINGS")
        )
    except (subprocess.TimeoutExpired, StopIteration) as problem:
        why = "did not answer in time"
        if isinstance(problem, StopIteration):
            why = f"broke off: {_last_line(completed.stderr)}"
        finding = error(SUBJECT, "settings", f"Airflow {why}.", "airflow config list")
        return AirflowFacts(findings=[finding])
    answer = json.loads(line.removeprefix("AIRFLOW_SETTINGS"))
    found = {}
    for name, text in answer["connections"].items():
        try:
            found[name] = parse_connection(name, text)
        except KundenkreisError:
            continue  # asked for again, and said, where it is used
    return AirflowFacts(answer["settings"], found, pools=answer["pools"])


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return first_lines(lines[-1], 1) if lines else "it printed nothing"


def _environment() -> dict[str, str]:
    """What Airflow runs with: as it is where it has a home of its own, else as `up` starts it."""
    if os.environ.get("AIRFLOW_HOME"):
        return dict(os.environ)
    server = embedded.default_server()
    dsn = server.dsn("airflow") if server.port else "postgresql://127.0.0.1:1/airflow"
    metadata = dsn.replace("postgresql:", "postgresql+psycopg2:", 1)
    return {**os.environ, **airflow_environment(metadata)}


def check(patient: Patient) -> Iterator[Finding]:
    """Judge the settings."""
    if not patient.airflow:
        return
    found = patient.airflow
    problems = [
        *execution(found),
        *secrets(found),
        *dag_folder(found),
        *scheduling(found),
    ]
    fine = f"{_executor(found)}, {found['core.parallelism']} tasks at once"
    yield from or_ok(problems, ok(SUBJECT, "settings", fine))
    if patient.settings is not None and patient.pools is not None:
        needed = [pool.name for pool in needed_pools(patient.settings)]
        yield from pools(needed, patient.pools)


def pools(needed: Sequence[str], slots: Mapping[str, int]) -> Iterator[Finding]:
    """Whether Airflow has the pools of the vendors' accounts, with room for a task.

    Args:
        needed: the names that the DAGs use.
        slots: what Airflow has; below zero is without a limit.
    """
    for name in needed:
        if name not in slots:
            yield error(
                SUBJECT,
                f"pool {name}",
                "The pool is missing: its tasks stay scheduled and are never started.",
                "kundenkreis airflow init",
            )
        elif slots[name] == 0:
            yield error(
                SUBJECT,
                f"pool {name}",
                "The pool has no slot: its tasks stay scheduled and are never started.",
                f"airflow pools set {name} 1 'Calls to one account'",
            )
        elif slots[name] != 1:
            many = "no limit" if slots[name] < 0 else f"{slots[name]} slots"
            yield warning(
                SUBJECT,
                f"pool {name}",
                f"The pool has {many}: so many tasks may use one account at a time.",
                f"airflow pools set {name} 1 'Calls to one account', unless the vendor allows more",
            )
        else:
            yield ok(SUBJECT, f"pool {name}", "1 slot")


def execution(found: Mapping[str, str]) -> Iterator[Finding]:
    """What runs tasks, and how many at once."""
    executor, metadata = _executor(found), found.get("database.kind", "")
    if metadata == "sqlite" and executor != "SequentialExecutor":
        yield error(
            SUBJECT,
            "[database] sql_alchemy_conn",
            f"{executor} writes to SQLite, which locks and is not meant for more than a try.",
            "export AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=postgresql+psycopg2://...  "
            "(`kundenkreis up` uses the warehouse's server)",
        )
    if executor == "SequentialExecutor":
        yield warning(
            SUBJECT,
            "[core] executor",
            "SequentialExecutor runs one task at a time: sources and email tools wait for each "
            "other.",
            "export AIRFLOW__CORE__EXECUTOR=LocalExecutor",
        )
    parallelism = _number(found, "core.parallelism")
    for name in ("parallelism", "max_active_tasks_per_dag"):
        if _number(found, f"core.{name}") == 1:
            yield warning(
                SUBJECT,
                f"[core] {name}",
                "One task at a time: sources and email tools wait for each other.",
                f"export AIRFLOW__CORE__{name.upper()}=4",
            )
    cores = os.cpu_count() or 1
    if executor == "LocalExecutor" and parallelism is not None and parallelism > 8 * cores:
        yield warning(
            SUBJECT,
            "[core] parallelism",
            f"{parallelism} task processes may run at once on {cores} cores.",
            f"export AIRFLOW__CORE__PARALLELISM={max(4, 2 * cores)}",
        )


def secrets(found: Mapping[str, str]) -> Iterator[Finding]:
    """What guards connections and the login."""
    if found.get("core.fernet_key") == "missing":
        yield error(
            SUBJECT,
            "[core] fernet_key",
            "There is no Fernet key: connections stand unencrypted in Airflow's database.",
            "export AIRFLOW__CORE__FERNET_KEY=$(python -c 'from cryptography.fernet import Fernet; "
            "print(Fernet.generate_key().decode())')",
        )
    if found.get("auth.passwords") == "default":
        yield error(
            SUBJECT,
            "[core] simple_auth_manager_passwords_file",
            "Somebody logs in to Airflow with a password that every manual shows.",
            "change it in simple_auth_manager_passwords.json.generated under $AIRFLOW_HOME",
        )
    if "Celery" in _executor(found) and found.get("api_auth.jwt_secret") == "missing":
        yield error(
            SUBJECT,
            "[api_auth] jwt_secret",
            "Workers on other machines cannot prove who they are: every process has its own key.",
            "export AIRFLOW__API_AUTH__JWT_SECRET=$(openssl rand -base64 32)  (the same on all)",
        )
    if found.get("database.password") == "default":
        yield error(
            SUBJECT,
            "[database] sql_alchemy_conn",
            "Airflow's database has a password that every manual shows.",
            "alter user airflow password '...';  and the same in "
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        )
    if found.get(f"core.{_DEMO_PASSWORDS}", "").lower() == "true":
        yield error(
            SUBJECT,
            f"[core] {_DEMO_PASSWORDS}",
            "Everybody who reaches the UI is an administrator, without a login.",
            "export AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=False",
        )
    if found.get("api.expose_config", "").lower() == "true":
        yield warning(
            SUBJECT,
            "[api] expose_config",
            "The UI shows the whole configuration, secrets included.",
            "export AIRFLOW__API__EXPOSE_CONFIG=non-sensitive-only",
        )


def dag_folder(found: Mapping[str, str]) -> Iterator[Finding]:
    """How DAG files and plugins are found."""
    if found.get("dag.found") == "no":
        yield error(
            SUBJECT,
            "[core] dags_folder",
            "The folder that Airflow reads holds no customer_lifecycle.py.",
            f"export AIRFLOW__CORE__DAGS_FOLDER={found.get('dag.expected_folder', 'dags')}",
        )
    if found.get("plugins.ignored") == "no":
        yield error(
            SUBJECT,
            "plugins/.airflowignore",
            "Airflow loads every module of the package as a plugin: it does not ignore "
            "kundenkreis/.",
            "echo 'kundenkreis/' > plugins/.airflowignore",
        )
    if found.get("core.load_examples", "").lower() == "true":
        yield warning(
            SUBJECT,
            "[core] load_examples",
            "Airflow shows its example DAGs beside ours.",
            "export AIRFLOW__CORE__LOAD_EXAMPLES=False",
        )
    timeout = _number(found, "core.dagbag_import_timeout")
    if timeout is not None and 0 < timeout < 15:
        yield warning(
            SUBJECT,
            "[core] dagbag_import_timeout",
            f"A DAG file has {timeout} s to load; a busy machine takes longer, and then the night "
            "is gone from the schedule.",
            "export AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT=30",
        )


def scheduling(found: Mapping[str, str]) -> Iterator[Finding]:
    """What the scheduler does on its own account."""
    if found.get("core.dags_are_paused_at_creation", "").lower() == "true":
        yield warning(
            SUBJECT,
            "[core] dags_are_paused_at_creation",
            "A DAG that Airflow sees for the first time is paused: no night runs until somebody "
            "switches it on.",
            "airflow dags unpause customer_lifecycle",
        )
    if found.get("core.xcom_backend", "").rpartition(".")[2] not in ("", "BaseXCom"):
        yield ok(SUBJECT, "[core] xcom_backend", "an own backend holds the tasks' summaries")
    if found.get("core.unit_test_mode", "").lower() == "true":
        yield error(
            SUBJECT,
            "[core] unit_test_mode",
            "Airflow believes that it is under test.",
            "unset AIRFLOW__CORE__UNIT_TEST_MODE",
        )


def _executor(found: Mapping[str, str]) -> str:
    return found.get("core.executor", "").rpartition(".")[2]


def _number(found: Mapping[str, str], name: str) -> int | None:
    try:
        return int(float(found.get(name, "")))
    except ValueError:
        return None
