"""Writes the reference pages from what they describe: ``python -m kundenkreis.documentation``.

- ``docs/configuration.md`` and ``config/schema/*.schema.json`` from the settings' models
- ``docs/data_model.md`` from dbt's manifest and the comments in ``warehouse/schema*.sql``
- ``docs/gates.md`` from the gates' suites

Tests compare the pages with what would be written now.
"""

from __future__ import annotations

from pathlib import Path


def write_all() -> list[Path]:
    """Write every generated file; returns those that changed."""
    from kundenkreis.documentation import configuration, data_model
    from kundenkreis.quality import documentation as gates

    contents = {
        **configuration.files(),
        data_model.page(): data_model.data_model_markdown(data_model.read_manifest()),
        gates.page(): gates.gates_markdown(),
    }
    changed = [
        path
        for path, text in contents.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents[path], encoding="utf-8")
    return changed
