"""docs/configuration.md and config/schema say what the settings' models say."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from kundenkreis.documentation import configuration
from kundenkreis.settings import repository_root

ROOT = repository_root()
CONFIG_FILES = sorted([*ROOT.glob("config/*.yml"), *ROOT.glob("examples/*/*.yml")])


@pytest.mark.parametrize("path", list(configuration.files()), ids=lambda path: path.name)
def test_the_file_is_current(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == configuration.files()[path], (
        f"{path.name} is out of date: run `make docs`"
    )


@pytest.mark.parametrize("name", list(configuration.FILES))
def test_every_key_is_described(name: str) -> None:
    schema, page = configuration.schema(name), configuration.configuration_markdown()
    for model in [schema, *schema.get("$defs", {}).values()]:
        for key, value in model.get("properties", {}).items():
            assert value.get("description"), f"{name}.yml: {key} has no description"
            assert f"| `{key}` |" in page


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_file_fits_its_schema_and_names_it(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named, "the first line names no schema"
    assert (file.parent / named[1]).resolve() == configuration.schema_path(file.stem)
    _validator(file.stem).validate(yaml.safe_load(text))


def test_there_are_files_to_check() -> None:
    assert len(CONFIG_FILES) >= 13


_SEGMENT = {"labels": {"en": "A", "de": "A"}, "description": "", "where": "true"}
_WRONG: list[tuple[str, dict[str, Any]]] = [
    ("model", {"refund_polcy": "net"}),
    ("model", {"refund_policy": "some"}),
    ("model", {"churn_factor": "4"}),
    ("model", {"exchange_rates": {"dollar": 1}}),
    ("model", {"rfm_fallback_cutoffs": {"monetary": [1, 2, 3]}}),
    ("model", {"rfm_fixed_cutoffs": {"monetary": [1, 2, 3]}}),
    ("sources", {"files": {"datasets": [{"name": "a", "entity": "orders", "path": "a.csv"}]}}),
    ("sources", {"shopify": {}}),
    ("segments", {"segments": {"Upper": _SEGMENT}}),
    ("segments", {"segments": {"buyers": {**_SEGMENT, "destination": []}}}),
    ("destinations", {"listmonk": {"max_rejections": 21}}),
    ("retention", {"lead_days": 0}),
]


@pytest.mark.parametrize(("name", "content"), _WRONG)
def test_the_schema_refuses_what_the_models_refuse(name: str, content: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        _validator(name).validate(content)


@pytest.mark.parametrize("name", list(configuration.FILES))
def test_the_defaults_in_the_schema_are_those_of_the_model(name: str) -> None:
    model: type[BaseModel] = configuration.FILES[name]
    schema = configuration.schema(name)
    stated = {
        key: copy.deepcopy(value["default"])
        for key, value in schema["properties"].items()
        if value.get("default") is not None
    }
    assert model.model_validate(stated) == model()


def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = configuration.schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)
