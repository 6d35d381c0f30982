"""The config folder: every mistake at once, and what is configured to no effect."""

from __future__ import annotations

import re
from collections.abc import Iterator

from kundenkreis.doctor.findings import Finding, Patient, error, ok, or_ok, warning
from kundenkreis.settings import Settings, config_folder, problems_of

SUBJECT = "config"
_PLACE = re.compile(r"^(?P<where>\S+?\.yml(?::\d+)?): (?P<what>.*)$", re.DOTALL)


def check(_: Patient) -> Iterator[Finding]:
    """Every mistake that `load_settings` would refuse."""
    folder = config_folder()
    problems = [_mistake(text) for text in problems_of(folder)]
    yield from or_ok(problems, ok(SUBJECT, str(folder), "every file can be read"))


def check_effect(patient: Patient) -> Iterator[Finding]:
    """What is allowed and yet does nothing."""
    if patient.settings is not None:
        yield from _without_effect(patient.settings)


def _mistake(text: str) -> Finding:
    place = _PLACE.match(text)
    where, what = (place["where"], place["what"]) if place else (str(config_folder()), text)
    return error(SUBJECT, where, what, "edit the file; docs/configuration.md lists every key")


def _without_effect(settings: Settings) -> Iterator[Finding]:
    sources, segments = settings.folder / "sources.yml", settings.folder / "segments.yml"
    if not settings.sources:
        fix = f"connect one in {sources}, for example:  woocommerce: {{}}"
        yield warning(SUBJECT, str(sources), "No source is connected.", fix)
    tools = {name for one in settings.active_segments.values() for name in one.destinations}
    unconnected = sorted(tools - set(settings.destinations))
    if unconnected:
        where = str(settings.folder / "destinations.yml")
        lines = ", ".join(f"{name}: {{}}" for name in unconnected)
        yield warning(
            SUBJECT,
            where,
            f"Segments name tools that are not connected: {', '.join(unconnected)}. They get "
            "nothing.",
            f"add to {where}:  {lines}",
        )
    silent = [key for key, one in settings.active_segments.items() if not one.destinations]
    if silent:
        yield ok(SUBJECT, str(segments), f"go to no email tool: {', '.join(sorted(silent))}")
