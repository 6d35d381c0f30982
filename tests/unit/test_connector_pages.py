"""docs/connectors: every source and destination has its page, with its settings as they are."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kundenkreis.destinations.config import DestinationsConfig
from kundenkreis.settings import repository_root
from kundenkreis.sources.config import FileDataset, SourcesConfig

FOLDER = repository_root() / "docs" / "connectors"
SECTIONS = {
    SourcesConfig: [
        "Connection",
        "Settings",
        "What is read",
        "From night to night",
        "Limits of the vendor",
        "What is not there",
    ],
    DestinationsConfig: [
        "Connection",
        "Settings",
        "What is read",
        "What is written",
        "What is never written",
        "Limits of the vendor",
        "What is not there",
    ],
}


def _settings_of(config: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Connector to the model of its settings; of files the settings are those of a dataset."""
    models = {
        name: next(kind for kind in get_args(field.annotation) if kind is not type(None))
        for name, field in config.model_fields.items()
    }
    return {name: FileDataset if name == "files" else model for name, model in models.items()}


CONNECTORS = {
    name: (config, settings)
    for config in SECTIONS
    for name, settings in _settings_of(config).items()
}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def test_every_connector_has_its_page_and_no_other_page_is_there() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} == set(CONNECTORS)
    assert len(CONNECTORS) >= 6


@pytest.mark.parametrize("name", sorted(CONNECTORS))
def test_the_page_has_every_section_in_order(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.M) == SECTIONS[CONNECTORS[name][0]]


@pytest.mark.parametrize("name", sorted(CONNECTORS))
def test_the_page_has_the_settings_with_their_defaults(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    section = text.split("\n## Settings\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.M))
    assert rows == {
        field: _default(info) for field, info in CONNECTORS[name][1].model_fields.items()
    }


@pytest.mark.parametrize("name", sorted(CONNECTORS))
def test_the_page_is_found_from_the_list_of_pages(name: str) -> None:
    listed = (repository_root() / "docs" / "README.md").read_text(encoding="utf-8")
    assert f"(connectors/{name}.md)" in listed
