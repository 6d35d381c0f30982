"""The command line in a process that begins with the libraries of a night imported.

A small night spends much of its time on importing them. multiprocessing's fork server does so once
for all nights of a test worker; each command is still a process apart, with an environment and
output of its own, that can be killed.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests import shared_parses

DIRECT_GATES = "KUNDENKREIS_TEST_DIRECT_GATES"
"""Of a command's environment: its gates ask their queries without Great Expectations."""

_LIBRARIES = [
    "alembic",
    "cadwyn",
    "dbt.cli.main",
    "dbt.adapters.postgres",
    "dlt",
    "dlt.destinations",
    "fastapi",
    "great_expectations",
    "scipy.optimize",
    "scipy.special",
    "tests.integration.direct_evaluation",
    "tests.night.airflow_ahead",
]


def call(
    arguments: tuple[str, ...], environment: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run `python -m kundenkreis` with these arguments and wait for its end.

    Raises:
        subprocess.TimeoutExpired: it took longer and was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    with tempfile.TemporaryDirectory(prefix="night-") as folder:
        outputs = (Path(folder) / "stdout", Path(folder) / "stderr")
        process = context.Process(target=_command, args=(arguments, dict(environment), outputs))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout)
        texts = [output.read_text(encoding="utf-8") for output in outputs]
        return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def _command(
    arguments: tuple[str, ...], environment: dict[str, str], outputs: tuple[Path, Path]
) -> None:
    import pytest

    from tests.integration import direct_evaluation
    from tests.night import airflow_ahead

    gc.freeze()  # what is loaded stays as long as the process
    gc.set_threshold(100_000, 50, 100)
    for descriptor, output in enumerate(outputs, start=1):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    shared_parses.install(Path(environment[shared_parses.FOLDER_VARIABLE]))
    airflow_ahead.initialise_with_the_dag()
    if DIRECT_GATES in environment:
        direct_evaluation.use_in_gates(pytest.MonkeyPatch())
    sys.argv = ["kundenkreis", *arguments]
    runpy.run_module("kundenkreis", run_name="__main__")
