"""What `doctor` makes of what it finds: levels at their boundaries, a fix for all that is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path

import pytest

from kundenkreis.doctor import (
    alerts,
    clock,
    configuration,
    disk,
    packages,
    publication,
    scheduler,
    server,
    warehouse,
)
from kundenkreis.doctor.findings import Finding, Patient
from kundenkreis.errors import CredentialError
from kundenkreis.settings import load_settings
from kundenkreis.warehouse import embedded

GIB = 2**30


def levels(findings: Iterable[Finding]) -> list[str]:
    found = list(findings)
    for finding in found:
        assert bool(finding.fix) == (finding.level != "ok"), finding
    return [finding.level for finding in found]


# Packages


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10), "error"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "warning")],
)
def test_pythons(version: tuple[int, int], level: str) -> None:
    assert packages.python(version).level == level


def test_packages_are_compared_with_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.txt"
    lock.write_text(
        "# comment\n"
        "pydantic==0.0.1\n    # via something\n"
        "not-a-package-of-anybody==1.0\n"
        "only-on-another-system==1.0 ; sys_platform == 'vms'\n"
        "typer>=0.1  # via us\n"
    )
    found = list(packages.against_lock(lock))
    assert levels(found) == ["error", "warning"]
    assert "1 locked packages are not installed: not-a-package-of-anybody." in found[0].what
    assert "pydantic" in found[1].what
    assert "instead of ==0.0.1" in found[1].what
    assert "another-system" not in found[0].what + found[1].what


def test_the_locked_packages_are_those_that_run_the_tests() -> None:
    lock = configuration.config_folder().parent / "requirements.txt"
    assert "error" not in levels(packages.against_lock(lock))


def test_a_missing_lock_is_said(tmp_path: Path) -> None:
    assert levels(packages.against_lock(tmp_path / "none.txt")) == ["warning"]


# Clock, disk, publication, server


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [
        (None, []),
        (0.0, []),
        (-29.9, []),
        (30.0, ["warning"]),
        (-30.0, ["warning"]),
        (299.0, ["warning"]),
        (-300.0, ["error"]),
    ],
)
def test_clocks(ahead: float | None, expected: list[str]) -> None:
    found = list(clock.compared("HubSpot", ahead))
    assert levels(found) == expected
    if ahead and expected:
        assert ("behind HubSpot" if ahead > 0 else "ahead of HubSpot") in found[0].what


@pytest.mark.parametrize(
    ("free", "level"), [(30 * GIB, "ok"), (29 * GIB, "warning"), (10 * GIB - 1, "error")]
)
def test_room(free: int, level: str) -> None:
    assert disk.room(Path("/data"), free, 30 * GIB, "a build").level == level


def test_a_small_database_still_wants_some_room() -> None:
    assert disk.room_needed(0) == GIB
    assert disk.room_needed(7 * GIB) == 7 * GIB


@pytest.mark.parametrize(
    ("published", "level", "days"),
    [
        (date(2026, 6, 30), "ok", ""),
        (date(2026, 7, 1), "ok", ""),
        (date(2026, 6, 29), "warning", "1 day behind"),
        (date(2026, 6, 28), "warning", "2 days behind"),
        (date(2026, 6, 27), "error", "3 days behind"),
    ],
)
def test_the_age_of_what_readers_see(published: date, level: str, days: str) -> None:
    found = publication.age(published, expected=date(2026, 6, 30))
    assert levels([found]) == [level]
    assert days in found.what
    if level != "ok":
        assert found.fix.endswith("kundenkreis run --as-of 2026-06-30")


def test_a_ledger_that_a_crash_forgets_is_an_error() -> None:
    safe = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    assert levels(server.durability(safe)) == []
    assert levels(server.durability({**safe, "synchronous_commit": "local"})) == []
    for name in safe:
        found = list(server.durability({**safe, name: "off"}))
        assert levels(found) == ["error"]
        assert f"alter system set {name} = on" in found[0].fix


def test_a_server_that_logs_personal_data_is_named() -> None:
    assert levels(server.privacy({"log_statement": "ddl"})) == []
    assert levels(server.privacy({"log_statement": "all"})) == ["warning"]
    assert levels(server.privacy({"log_parameter_max_length_on_error": "-1"})) == ["warning"]


def test_the_embedded_server_is_compared_with_its_settings() -> None:
    assert levels(server.embedded_settings(embedded.SERVER_SETTINGS)) == []
    changed = {**embedded.SERVER_SETTINGS, "listen_addresses": "*"}
    assert levels(server.embedded_settings(changed)) == ["warning"]


@pytest.mark.parametrize(("number", "level"), [(130_010, "error"), (140_000, "ok")])
def test_versions_of_postgresql(number: int, level: str) -> None:
    assert levels([warehouse.version(number)]) == [level]


# Airflow

GOOD = {
    "core.executor": "airflow.executors.local_executor.LocalExecutor",
    "core.parallelism": "4",
    "core.fernet_key": "set",
    "core.load_examples": "False",
    "core.dags_are_paused_at_creation": "False",
    "core.dagbag_import_timeout": "30.0",
    "core.simple_auth_manager_all_admins": "False",
    "core.unit_test_mode": "False",
    "core.xcom_backend": "airflow.sdk.execution_time.xcom.BaseXCom",
    "core.default_timezone": "utc",
    "api.expose_config": "False",
    "api_auth.jwt_secret": "missing",
    "auth.passwords": "own",
    "database.kind": "postgresql",
    "database.password": "own",
    "dag.found": "yes",
    "plugins.ignored": "yes",
}


def _airflow(**changes: str) -> list[Finding]:
    settings = {**GOOD, **{name.replace("__", "."): value for name, value in changes.items()}}
    return list(scheduler.check(Patient(None, None, _nothing, settings)))


def _nothing(name: str) -> object:
    raise CredentialError(f"Connection '{name}' is not set.")


def test_good_settings_of_airflow() -> None:
    found = _airflow()
    assert levels(found) == ["ok"]
    assert found[0].what == "LocalExecutor, 4 tasks at once"


@pytest.mark.parametrize(
    ("changes", "level", "where"),
    [
        ({"database__kind": "sqlite"}, "error", "[database] sql_alchemy_conn"),
        ({"core__executor": "SequentialExecutor"}, "warning", "[core] executor"),
        ({"core__parallelism": "1"}, "warning", "[core] parallelism"),
        ({"core__max_active_tasks_per_dag": "1"}, "warning", "[core] max_active_tasks_per_dag"),
        ({"core__parallelism": "100000"}, "warning", "[core] parallelism"),
        ({"core__fernet_key": "missing"}, "error", "[core] fernet_key"),
        ({"database__password": "default"}, "error", "[database] sql_alchemy_conn"),
        ({"auth__passwords": "default"}, "error", "[core] simple_auth_manager_passwords_file"),
        (
            {"core__simple_auth_manager_all_admins": "True"},
            "error",
            "[core] simple_auth_manager_all_admins",
        ),
        ({"core__executor": "x.y.CeleryExecutor"}, "error", "[api_auth] jwt_secret"),
        ({"api__expose_config": "True"}, "warning", "[api] expose_config"),
        ({"dag__found": "no"}, "error", "[core] dags_folder"),
        ({"plugins__ignored": "no"}, "error", "plugins/.airflowignore"),
        ({"core__load_examples": "True"}, "warning", "[core] load_examples"),
        ({"core__dagbag_import_timeout": "5"}, "warning", "[core] dagbag_import_timeout"),
        (
            {"core__dags_are_paused_at_creation": "True"},
            "warning",
            "[core] dags_are_paused_at_creation",
        ),
        ({"core__unit_test_mode": "True"}, "error", "[core] unit_test_mode"),
    ],
)
def test_settings_of_airflow_that_hurt(changes: dict[str, str], level: str, where: str) -> None:
    found = _airflow(**changes)
    assert levels(found) == [level]
    assert found[0].where == where


@pytest.mark.parametrize(
    ("slots", "level"),
    [({}, "error"), ({"vendor_x": 0}, "error"), ({"vendor_x": 1}, "ok"),
     ({"vendor_x": 2}, "warning"), ({"vendor_x": -1}, "warning")],
)  # fmt: skip
def test_pools_of_vendor_accounts(slots: dict[str, int], level: str) -> None:
    found = list(scheduler.pools(["vendor_x"], {"default_pool": 128, **slots}))
    assert levels(found) == [level]
    assert found[0].where == "pool vendor_x"


def test_pools_are_looked_at_where_airflows_database_answers(folder: Callable[..., Path]) -> None:
    settings = load_settings(folder())
    for pools, wanted in ((None, set()), ({}, {"pool vendor_woocommerce"})):
        patient = Patient(settings, None, _nothing, GOOD, pools)
        found = [one for one in scheduler.check(patient) if one.where.startswith("pool ")]
        assert {one.where for one in found} == wanted


def test_a_dag_in_a_bundle_from_elsewhere_is_not_looked_for() -> None:
    assert levels(_airflow(dag__found="elsewhere")) == ["ok"]


@pytest.fixture
def airflow(tmp_path: Path, clean_env: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An Airflow of its own, as a team would have it."""
    for name in list(os.environ):
        if name.startswith("AIRFLOW"):
            clean_env.delenv(name)
    (tmp_path / "airflow").mkdir()
    clean_env.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    return clean_env


def test_airflow_is_asked_as_it_is_set_up(airflow: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = "s3cret-fernet-key"
    airflow.setenv("AIRFLOW__CORE__FERNET_KEY", secret)
    airflow.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path / "dags"))
    airflow.setenv("AIRFLOW__CORE__PARALLELISM", "1")
    (tmp_path / "airflow" / "simple_auth_manager_passwords.json.generated").write_text(
        '{"admin": "admin"}'
    )
    facts = scheduler.read([])
    assert facts.findings == []
    assert secret not in str(facts)
    assert facts.settings["core.fernet_key"] == "set"
    assert facts.pools is None  # its database has no tables
    assert facts.settings["database.kind"] == "sqlite"
    where = {one.where for one in scheduler.check(Patient(None, None, _nothing, facts.settings))}
    assert {
        "[core] dags_folder",
        "[core] parallelism",
        "[core] simple_auth_manager_passwords_file",
        "[database] sql_alchemy_conn",
    } <= where
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "customer_lifecycle.py").touch()
    assert scheduler.read([]).settings["dag.found"] == "yes"


def test_a_broken_airflow_is_a_finding(airflow: pytest.MonkeyPatch) -> None:
    airflow.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", "{no json")
    facts = scheduler.read([])
    assert [finding.level for finding in facts.findings] == ["error"]
    assert "Airflow broke off" in facts.findings[0].what


def test_where_airflow_says_nothing_nothing_is_judged() -> None:
    assert list(scheduler.check(Patient(None, None, _nothing, {}))) == []


# Config and alerts


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a config folder, which is then the one in use."""

    def write(**files: str) -> Path:
        monkeypatch.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
        (tmp_path / "sources.yml").write_text("woocommerce: {}\n")
        for name, text in files.items():
            (tmp_path / f"{name}.yml").write_text(text)
        return tmp_path

    return write


def _patient() -> Patient:
    return Patient(load_settings(), None, _nothing, {})


def test_all_mistakes_are_found_at_once(folder: Callable[..., Path]) -> None:
    where = folder(
        model="refund_polcy: net\nlabel_language: fr\n",
        quality="rejected_rows: {max_percent: 200}\n",
        segments="segments: [1]\n",
    )
    found = list(configuration.check(Patient(None, None, _nothing, {})))
    assert levels(found) == ["error"] * 4
    assert {finding.where for finding in found} == {
        f"{where}/model.yml:1",
        f"{where}/model.yml:2",
        f"{where}/quality.yml:1",
        f"{where}/segments.yml:1",
    }


_SEGMENT = "labels: {en: A, de: A}, description: a, where: 'true'"


def test_what_does_nothing_is_named(folder: Callable[..., Path]) -> None:
    folder(segments=f"segments:\n  a: {{{_SEGMENT}, destinations: [mailchimp]}}\n")
    found = list(configuration.check_effect(_patient()))
    assert levels(found) == ["warning"]
    assert "mailchimp" in found[0].what
    assert found[0].fix.endswith("mailchimp: {}")
    folder(destinations="mailchimp: {}\n")
    assert list(configuration.check_effect(_patient())) == []


def test_a_house_that_nobody_hears_of_is_warned(folder: Callable[..., Path]) -> None:
    folder()
    assert levels(alerts.check(_patient())) == ["warning"]


def test_a_channel_without_its_connection_is_an_error(folder: Callable[..., Path]) -> None:
    folder(
        alerts="channels: {ops: {kind: slack}}\n"
        "events: {failed_task: [ops], failed_gate: [ops], late_run: [ops]}\n"
    )
    found = list(alerts.check(_patient()))
    assert levels(found) == ["warning", "error"]
    assert found[0].fix == "in alerts.yml:  deadline_minutes: 360"
    assert "AIRFLOW_CONN_SLACK_ALERTS" in found[1].fix


@pytest.mark.parametrize(
    ("notifier", "level"),
    [
        ("airflow.providers.smtp.notifications.smtp.SmtpNotifier", "ok"),
        ("airflow.providers.nobody.notifications.x.Notifier", "error"),
    ],
)
def test_a_notifier_has_to_be_installed(
    folder: Callable[..., Path], notifier: str, level: str
) -> None:
    folder(
        alerts=f"channels: {{ops: {{kind: notifier, notifier: {notifier}}}}}\n"
        "events: {failed_task: [ops], failed_gate: [ops]}\n"
    )
    found = list(alerts.check(_patient()))
    assert levels(found) == [level]
    if level == "error":
        assert found[0].fix.endswith("apache-airflow-providers-nobody")
