"""Airflow imported and its task API made, before anything is known of the run to come.

Airflow makes one router per version of its task API, which takes a process seven seconds. Imported
as a library Airflow reads no settings of a run; `initialise_with_the_dag` lets it do so where one
begins.
"""

from __future__ import annotations

import os
from typing import Any

from kundenkreis import local_run
from kundenkreis.airflow_home import airflow_environment

os.environ.update(airflow_environment("sqlite://"))
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
try:
    import airflow.models.dagrun
    import airflow.sdk.definitions.dag  # noqa: F401 (what a run imports first)
    from airflow import settings
    from airflow.sdk.execution_time.supervisor import in_process_api_server
finally:
    del os.environ["_AIRFLOW__AS_LIBRARY"]

in_process_api_server().app._cadwyn_initialize()


def initialise_with_the_dag() -> None:
    """Let Airflow read its settings when a run loads the DAG, which is where it was imported."""
    load = local_run._load_dag

    def load_with_settings() -> Any:
        settings.initialize()
        return load()

    local_run._load_dag = load_with_settings
