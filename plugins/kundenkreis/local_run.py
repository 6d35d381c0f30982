"""One night in this process: the real DAG, run by Airflow's own `dag.test()`.

Nothing else has to be running. Airflow's metadata of each run is an SQLite file of its own, so a
scheduler that works on the main metadata database never picks one up, and a run that was killed
disturbs no later one. Airflow's log goes to a file; the terminal shows the night's progress.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kundenkreis.airflow_home import airflow_environment
from kundenkreis.errors import KundenkreisError
from kundenkreis.settings import home

DAG_ID = "customer_lifecycle"
Watch = Callable[[str, str, str], None]


@dataclass(frozen=True)
class LocalRun:
    """The outcome of one night.

    Attributes:
        run_id: Airflow's run id.
        succeeded: whether Airflow calls the run a success.
        failed: the failed tasks with their messages, in the order in which they failed.
        log: the file with Airflow's log.
    """

    run_id: str
    succeeded: bool
    failed: dict[str, str]
    log: Path


def run_night(as_of: date | None, watch: Watch) -> LocalRun:
    """Run the DAG once and wait for it.

    Args:
        as_of: the day to compute; the day before today when None.
        watch: gets task id, event (started, progress, success, failed, skipped) and text.

    Raises:
        KundenkreisError: the DAG cannot be loaded; names file and reason.
    """
    logs = home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"night_{datetime.now(UTC):%Y%m%dT%H%M%S}_{os.getpid()}.log"
    with _metadata_database() as database:
        os.environ.update(_environment_over(database))
        # A person is waiting: connectors retry on their own, whole tasks do not.
        os.environ.setdefault("KUNDENKREIS_TASK_RETRIES", "0")
        with _output_to(log):
            return _run(_load_dag(), as_of, watch, log)


@contextmanager
def _metadata_database() -> Iterator[Path]:
    """A fresh Airflow metadata database for one run, so that runs never meet in one file."""
    template = metadata_template()
    with tempfile.TemporaryDirectory(prefix="run_", dir=template.parent) as run_folder:
        database = Path(run_folder) / "metadata.db"
        shutil.copyfile(template, database)
        yield database


def metadata_template(*, create: bool = True) -> Path:
    """The file that every run's metadata database is a copy of.

    It is made once per Airflow version, because creating all of Airflow's tables takes seconds.

    Args:
        create: make it where it is not there yet.
    """
    folder = home() / "airflow"
    folder.mkdir(parents=True, exist_ok=True)
    template = folder / f"metadata_{version('apache-airflow-core')}.db"
    if create and not template.exists():
        _create_template(template)
    return template


def _create_template(template: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="template_", dir=template.parent) as folder:
        database = Path(folder) / "metadata.db"
        completed = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env={**os.environ, **_environment_over(database)},
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode:
            raise KundenkreisError(
                f"Airflow could not create its metadata database in {template.parent}: "
                f"{completed.stderr.strip().splitlines()[-1:]}"
            )
        database.replace(template)  # at once, and the same whoever comes first


def _environment_over(database: Path) -> dict[str, str]:
    """Airflow's settings over a file, also where the environment names another database.

    That one is a scheduler's, which would meet the run in it.
    """
    uri = f"sqlite:///{database}"
    return {**airflow_environment(uri), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": uri}


def _load_dag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if bag.import_errors:
        messages = [_last_line(text) for text in bag.import_errors.values()]
        raise KundenkreisError(" ".join(messages))
    dag = bag.get_dag(DAG_ID)
    # `dag.test()` of Airflow 3.3 breaks off at the end of a run that has a deadline. Lateness is
    # told when the run ends, here as everywhere.
    dag.deadline = None
    return dag


def _last_line(text: str) -> str:
    """The message of an import error without its stack trace."""
    lines = [line for line in text.strip().splitlines() if line and not line.startswith(" ")]
    return lines[-1].removeprefix("kundenkreis.errors.") if lines else text


def _run(dag: Any, as_of: date | None, watch: Watch, log: Path) -> LocalRun:
    from kundenkreis.operators import metrics
    from kundenkreis.operators import night as operators

    metrics.initialise()
    failed: dict[str, str] = {}

    def remember(task_id: str, event: str, text: str) -> None:
        if event == "failed":
            failed[task_id] = text
        watch(task_id, event, text)

    operators.watcher = remember
    try:
        dag_run = dag.test(run_conf={"as_of": as_of.isoformat()} if as_of else None)
    finally:
        operators.watcher = None
    succeeded = str(dag_run.state) == "success"
    if not succeeded and not failed:
        failed[DAG_ID] = "The run failed before a task began; the log says where."
    return LocalRun(dag_run.run_id, succeeded, failed, log)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send everything this process and its libraries print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            os.close(saved[0])
            os.close(saved[1])
