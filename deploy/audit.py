"""Checks the locked packages against known vulnerabilities: ``make audit``.

Exit code 1: a package has one that is not in `ACCEPTED`. Where the database cannot be reached,
that is said and the exit code is 0, because nothing was found out about the packages.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
LOCKS = ("requirements.txt", "requirements-deployment.txt", "requirements-dev.txt")

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that are known and do not concern us: id, and why."""


def main(root: Path) -> int:
    """Audit the lock files of a checkout; the result is the exit code."""
    pins = sorted({pin for name in LOCKS for pin in locked(root / name)})
    # One question first: without the database there is no need for hundreds.
    answer = _audit(pins[:1])
    if answer is None or all("skip_reason" in package for package in answer):
        print(
            f"NOT CHECKED: the vulnerability database of PyPI cannot be reached from here, so "
            f"nothing is known about the {len(pins)} locked packages. Run `make audit` on a "
            "machine that reaches it."
        )
        return 0
    return report(_audit(pins) or [], len(pins))


def locked(file: Path) -> list[str]:
    """The pins of a lock file, as ``name==version``, without markers."""
    return re.findall(r"^([A-Za-z0-9._-]+==[^\s;]+)", file.read_text(encoding="utf-8"), re.M)


def report(packages: list[dict[str, Any]], asked: int) -> int:
    """Print what was found; 1 where a vulnerability is not accepted."""
    skipped = [package for package in packages if "skip_reason" in package]
    found = [
        (package, vulnerability)
        for package in packages
        for vulnerability in package.get("vulns", [])
        if not {vulnerability["id"], *vulnerability.get("aliases", [])} & set(ACCEPTED)
    ]
    for package, vulnerability in found:
        fixes = ", ".join(vulnerability.get("fix_versions", [])) or "no version yet"
        print(f"{package['name']} {package['version']}: {vulnerability['id']}; fixed in {fixes}")
    for package in skipped:
        print(f"{package['name']}: not checked, {package['skip_reason']}")
    print(f"{asked} packages, {len(found)} vulnerabilities, {len(skipped)} not checked")
    if found:
        print("Raise the package in its requirements*.in and run `make lock`, or accept it here.")
    return 1 if found else 0


def _audit(pins: list[str]) -> list[dict[str, Any]] | None:
    """What pip-audit says of each; None where it could not ask."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text("\n".join(pins) + "\n")
        options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
        completed = subprocess.run(  # noqa: S603 (a pinned tool and our own lock)
            [uv, "tool", "run", PIP_AUDIT, "--requirement", str(requirements), *options],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        packages: list[dict[str, Any]] = json.loads(completed.stdout)["dependencies"]
    except (ValueError, KeyError):
        return None
    return packages


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
