"""docker-compose.yml and the Dockerfile: what can be said about them without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kundenkreis import health
from kundenkreis.settings import repository_root
from kundenkreis.warehouse.embedded import SERVER_SETTINGS
from sandbox.service import connections
from tests.compose_file import (
    FILE,
    MissingVariable,
    interpolate,
    read_environment_file,
    resolve,
)

ROOT = repository_root()
PROFILES = [frozenset(), frozenset({"demo"}), frozenset({"celery", "flower"})]
NAMES = ["-".join(sorted(profiles)) or "none" for profiles in PROFILES]
ALL = frozenset({"demo", "celery", "flower"})
TEXT = FILE.read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def _create_secrets(file: Path) -> str:
    script = ROOT / "deploy" / "create_secrets.py"
    completed = subprocess.run(
        [sys.executable, str(script), str(file)], capture_output=True, text=True, check=True
    )
    return completed.stdout


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `make secrets` writes."""
    file = tmp_path_factory.mktemp("secrets") / ".env"
    _create_secrets(file)
    return read_environment_file(file)


@pytest.fixture(scope="module")
def services(secrets: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Every service of every profile."""
    found: dict[str, dict[str, Any]] = resolve(secrets, ALL)["services"]
    return found


# The file


@pytest.mark.parametrize("profiles", PROFILES, ids=NAMES)
def test_the_file_keeps_to_the_compose_specification(
    profiles: frozenset[str], secrets: dict[str, str]
) -> None:
    schema = json.loads((ROOT / "tests" / "schemas" / "compose-spec.json").read_text())
    resolved = resolve(secrets, profiles)
    jsonschema.Draft7Validator(schema).validate(resolved)
    known = set(resolved["services"])
    for name, service in resolved["services"].items():
        needed = set(service.get("depends_on", {}))
        assert needed <= known, f"{name} waits for a service of another profile"
    wrong = {**resolved, "services": {"postgres": {"imagine": "postgres"}}}
    with pytest.raises(jsonschema.ValidationError, match="imagine"):
        jsonschema.Draft7Validator(schema).validate(wrong)


def _docker_compose() -> list[str]:
    """Docker Compose itself, which needs no engine to read a file; skips where it is not there."""
    if program := shutil.which("docker-compose"):
        return [program]
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        docker = None
    if docker is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    return [docker, "compose"]


@pytest.mark.parametrize("profiles", PROFILES, ids=NAMES)
def test_docker_compose_reads_the_file_as_this_test_does(
    profiles: frozenset[str], secrets: dict[str, str]
) -> None:
    chosen = [word for profile in sorted(profiles) for word in ("--profile", profile)]
    command = [*_docker_compose(), "--file", str(FILE), *chosen, "config", "--format", "json"]
    environment = {**os.environ, **secrets, "COMPOSE_DISABLE_ENV_FILE": "1"}
    completed = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    theirs, ours = json.loads(completed.stdout)["services"], resolve(secrets, profiles)["services"]
    assert set(theirs) == set(ours)
    for name, service in ours.items():
        assert theirs[name].get("environment", {}) == service.get("environment", {}), name
        # `config` writes what can be read again: each $ of a value is doubled.
        for key in ("command",):
            shown = [interpolate(word, {}) for word in theirs[name][key]]
            assert shown == service[key], name


def test_variables_are_filled_in_as_the_specification_says() -> None:
    environment = {"A": "1", "EMPTY": ""}
    assert interpolate("$A ${A} ${B} ${B:-2} ${EMPTY:-3} $$A", environment) == "1 1  2 3 $A"
    assert interpolate("${B:-x${A:?never}y}", environment) == "x1y"
    with pytest.raises(MissingVariable, match=r"^EMPTY is needed$"):
        interpolate("${EMPTY:?is needed}", environment)


# Secrets


def test_every_secret_is_required_and_made_by_the_script(secrets: dict[str, str]) -> None:
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required == set(secrets)
    for name in required:
        given = {other: value for other, value in secrets.items() if other != name}
        with pytest.raises(MissingVariable, match=f"{name} is missing; make secrets writes it"):
            resolve(given, ALL)


def test_no_secret_has_a_default() -> None:
    defaults = re.findall(r"\$\{([A-Z_]+):-", TEXT)
    assert defaults
    # The warehouse's connection holds a password, and its default asks for it.
    secret = [name for name in defaults if re.search("PASSWORD|SECRET|KEY|TOKEN|CONN_", name)]
    assert secret == ["AIRFLOW_CONN_WAREHOUSE"]
    literals = re.findall(r"(?i)(?:password|secret|_key)\w*: +(\S+)", TEXT)
    assert [text for text in literals if not text.startswith("${")] == []


def test_secrets_are_random_kept_and_for_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("POSTGRES_PASSWORD=mine\nOTHER=1")
    said = _create_secrets(file)
    first = read_environment_file(file)
    assert (first["POSTGRES_PASSWORD"], first["OTHER"]) == ("mine", "1")
    assert file.stat().st_mode & 0o777 == 0o600
    made = [value for name, value in first.items() if name not in ("POSTGRES_PASSWORD", "OTHER")]
    assert all(len(value) >= 43 and value not in said for value in made)
    assert len(set(made)) == len(made)
    assert "nothing added" in _create_secrets(file)
    assert read_environment_file(file) == first


# Services


def test_every_service_that_stays_says_whether_it_is_well(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if name == "init":  # ends, and the others wait for its success
            waits = [s["depends_on"].get("init", {}).get("condition") for s in services.values()
                     if "init" in s.get("depends_on", {})]  # fmt: skip
            assert set(waits) == {"service_completed_successfully"}
            continue
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["restart"] == "unless-stopped", name


def test_images_are_pinned(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z]+)?$", service["image"]), name
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.M)
    assert base and re.search(r":3\.\d+\.\d+-slim-", base[1])
    assert services["scheduler"]["build"]["args"]["BASE_IMAGE"] == base[1]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version and services["scheduler"]["image"] == f"kundenkreis:{version[1]}"


def test_nothing_listens_to_the_outside_by_default(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_no_process_of_ours_has_rights_it_does_not_need(services: dict[str, Any]) -> None:
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)
    assert users[-1] == "${USER_ID}" and "ARG USER_ID=50000" in DOCKERFILE
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # PostgreSQL's image begins as root, gives its folder to its user, and becomes that user.
        assert name == "postgres" or service["cap_drop"] == ["ALL"], name
        assert service.get("user") != "root" and not service.get("privileged"), name


def test_what_is_kept_is_in_named_volumes(services: dict[str, Any]) -> None:
    declared = set(yaml.safe_load(TEXT)["volumes"])
    mounted = {
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "/"))
    }
    assert mounted == declared
    for folder in ("/opt/airflow/logs", "/var/lib/kundenkreis/data_docs"):
        assert folder in DOCKERFILE  # else a new volume would belong to root


def test_the_warehouse_works_with_the_settings_of_the_embedded_one(
    services: dict[str, Any],
) -> None:
    given = dict(word.split("=") for word in services["postgres"]["command"] if "=" in word)
    assert len(given) > 5
    assert {name: SERVER_SETTINGS[name] for name in given} == given


def test_the_demo_knows_the_credentials_of_the_sandbox() -> None:
    expected = connections(8900, "sandbox")
    found = read_environment_file(ROOT / "deploy" / "demo.env")
    assert found.pop("AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION") == "False"
    assert {name: json.loads(value) for name, value in found.items()} == expected


# The image


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    rules = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]  # fmt: skip
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert copied == allowed
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_no_secret_and_no_state_gets_into_the_image() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    for private in (".env", "connections.env", ".git", ".kundenkreis", ".venv"):
        assert not any(fnmatch(private, rule) for rule in allowed)


def test_the_image_installs_with_the_locked_installer() -> None:
    locked = re.search(r"^uv==(\S+)$", (ROOT / "requirements-dev.txt").read_text(), re.M)
    assert locked and f"install uv=={locked[1]} " in DOCKERFILE


# Health checks


def test_a_health_check_fails_where_nobody_answers_and_reads_no_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert health.main(["http://127.0.0.1:9/health"]) == 1
    assert health.main(["file:///etc/passwd"]) == 1
    said = capsys.readouterr().err
    assert "http://127.0.0.1:9/health: " in said and "is no http:// address" in said
