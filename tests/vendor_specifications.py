"""The schemas that vendors publish: read from beside the repository, never kept in it."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

_YamlLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def require_specifications() -> None:
    """Skip the test where the vendors' files are not there."""
    folder = os.environ.get("KUNDENKREIS_SHARED", "")
    if not folder or not (Path(folder) / "specs").is_dir():
        pytest.skip("KUNDENKREIS_SHARED does not name a folder with the vendors' specs/")


@cache
def specification(name: str) -> Any:
    """A file of the folder, JSON or YAML; skips the test where it is not there."""
    require_specifications()
    path = Path(os.environ["KUNDENKREIS_SHARED"]) / "specs" / name
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else yaml.load(text, _YamlLoader)  # noqa: S506 (a safe one)
