"""The exceptions from the security rules, and the audit of the locked packages."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest

from kundenkreis.settings import repository_root

ROOT = repository_root()
FOLDERS = ("plugins", "dags", "sandbox", "deploy", "benchmarks", "tests")


def test_every_exception_from_a_security_rule_says_why() -> None:
    marked = [
        (file, line)
        for folder in FOLDERS
        for file in sorted((ROOT / folder).rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.search(r"# noqa: S\d", line)
    ]
    assert len(marked) > 10
    wrong = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file, line in marked
        if not re.search(r"# noqa: S\d+(?:, S\d+)* (?:\(.{3,}\)|- .{3,})", line)
    ]
    assert wrong == []


def test_the_security_rules_are_on_everywhere() -> None:
    import tomllib

    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in rules["select"]
    assert not [folder for folder, ignored in rules["per-file-ignores"].items() if "S" in ignored]


@pytest.fixture
def audit() -> ModuleType:
    """deploy/audit.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("audit", ROOT / "deploy" / "audit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answers(
    monkeypatch: pytest.MonkeyPatch, audit: ModuleType, answer: list[dict[str, Any]] | None
) -> list[int]:
    """Let the database answer so, and count the packages of each question."""
    asked: list[int] = []

    def ask(pins: list[str]) -> list[dict[str, Any]] | None:
        asked.append(len(pins))
        return answer

    monkeypatch.setattr(audit, "_audit", ask)
    return asked


@pytest.mark.parametrize(
    "answer", [None, [{"name": "amqp", "version": "1", "skip_reason": "not found"}]]
)
def test_an_audit_without_its_database_says_so_and_fails_nothing(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: list[dict[str, Any]] | None,
) -> None:
    asked = _answers(monkeypatch, audit, answer)
    assert audit.main(ROOT) == 0
    assert capsys.readouterr().out.startswith("NOT CHECKED: ")
    assert asked == [1]


def test_a_known_vulnerability_fails_the_audit_unless_it_is_accepted(
    audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vulnerability = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    package = {"name": "amqp", "version": "1", "vulns": [vulnerability]}
    asked = _answers(monkeypatch, audit, [package])
    assert audit.main(ROOT) == 1
    assert "amqp 1: PYSEC-1; fixed in 2" in capsys.readouterr().out
    assert asked[1] > 200
    monkeypatch.setitem(audit.ACCEPTED, "CVE-1", "a reason")
    assert audit.main(ROOT) == 0


def test_the_locks_are_read_whole(audit: ModuleType) -> None:
    for name in audit.LOCKS:
        pins = audit.locked(ROOT / name)
        lines = (ROOT / name).read_text().splitlines()
        assert len(pins) == len([line for line in lines if line[:1].isalnum()])
