"""Python, and whether what is installed is what was locked and tested."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from kundenkreis.doctor.findings import Finding, Patient, error, ok, or_ok, warning
from kundenkreis.settings import repository_root

SUBJECT = "packages"
OLDEST_PYTHON = (3, 11)
NEWEST_TESTED_PYTHON = (3, 13)
_INSTALL = "make install"
_SHOWN = 6


def check(_: Patient) -> Iterator[Finding]:
    """Python's version, and the lock."""
    yield python(sys.version_info[:2])
    yield from against_lock(repository_root() / "requirements.txt")


def python(found: tuple[int, int]) -> Finding:
    """Whether this Python is one that the project is tested with."""
    text = f"Python {found[0]}.{found[1]}"
    if found < OLDEST_PYTHON:
        needed = ".".join(map(str, OLDEST_PYTHON))
        fix = f"rm -rf .venv && make install PYTHON=python{needed}"
        return error(SUBJECT, sys.executable, f"{text} is too old; {needed} is needed.", fix)
    if found > NEWEST_TESTED_PYTHON:
        newest = ".".join(map(str, NEWEST_TESTED_PYTHON))
        return warning(
            SUBJECT,
            sys.executable,
            f"{text} is newer than what the project is tested with.",
            f"rm -rf .venv && make install PYTHON=python{newest}",
        )
    return ok(SUBJECT, sys.executable, text)


def against_lock(lock: Path) -> Iterator[Finding]:
    """Compare what is installed with the locked versions."""
    if not lock.exists():
        yield warning(SUBJECT, str(lock), "There is no lock to compare with.", "make lock")
        return
    missing, different, count = [], [], 0
    for requirement in _pinned(lock):
        count += 1
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            different.append(f"{requirement.name} {found} instead of {requirement.specifier}")
    problems = []
    if missing:
        what = f"{len(missing)} locked packages are not installed: {_some(missing)}."
        problems.append(error(SUBJECT, lock.name, what, _INSTALL))
    if different:
        what = f"{len(different)} packages are not the locked ones: {_some(different)}."
        problems.append(warning(SUBJECT, lock.name, what, _INSTALL))
    yield from or_ok(problems, ok(SUBJECT, lock.name, f"{count} packages as locked"))


def _pinned(lock: Path) -> Iterator[Requirement]:
    """The lock's requirements that hold on this machine."""
    for line in lock.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if not text or text.startswith(("#", "-")):
            continue
        try:
            requirement = Requirement(text.split(" #")[0].rstrip("\\ "))
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
