"""The Markdown files of the repository: their links lead somewhere, their commands exist."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kundenkreis.cli import app
from kundenkreis.settings import repository_root

ROOT = repository_root()
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.M | re.S)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_PLACEHOLDERS = ("<", "[", "…", "...", "-", "#", "'", '"')


def _pages() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def _commands(page: Path, program: str) -> Iterator[list[str]]:
    """The words after ``program`` wherever the page calls it, alternatives told apart."""
    text = page.read_text(encoding="utf-8")
    lines = [line.strip() for block in _FENCE.findall(text) for line in block.splitlines()]
    lines += _SPAN.findall(_FENCE.sub("", text))
    for line in lines:
        for part in re.split(r"&&|;", line):
            called = re.match(rf"\s*(?:\.venv/bin/)?{program}\s+(.*)", part)
            if called:
                words = re.split(r"\s+#", called[1])[0].replace("\\|", "|").split()
                yield words


def _subcommands(words: list[str]) -> Iterator[list[str]]:
    """``warehouse start|stop`` as ``warehouse start`` and ``warehouse stop``."""
    plain = []
    for word in words:
        if word.startswith(_PLACEHOLDERS):
            break
        plain.append(word)
    paths: list[list[str]] = [[]]
    for word in plain:
        paths = [[*path, choice] for path in paths for choice in word.split("|")]
    yield from paths


def _missing_command(words: list[str]) -> str | None:
    """The first word that names no command; what follows a command is its own business."""
    command = get_command(app)
    for word in words:
        commands = getattr(command, "commands", None)
        if commands is None:
            return None
        if word not in commands:
            return word
        command = commands[word]
    return None


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        target = link.split("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name}: {link} leads nowhere"


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_kundenkreis_command_exists(page: Path) -> None:
    for words in _commands(page, "kundenkreis"):
        for path in _subcommands(words):
            wrong = _missing_command(path)
            assert wrong is None, f"{page.name}: `kundenkreis {' '.join(words)}`: no '{wrong}'"


def _missing_option(words: list[str]) -> str | None:
    """The first option that the command does not have; some hand all of theirs to another."""
    command: Any = get_command(app)
    for word in words:
        command = getattr(command, "commands", {}).get(word.split("|")[0], command)
    if command.context_settings.get("ignore_unknown_options"):
        return None
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    used = [word.strip("[]").split("=")[0] for word in words if word.lstrip("[").startswith("--")]
    return next((name for name in used if name not in known), None)


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_of_a_kundenkreis_command_exists(page: Path) -> None:
    for words in _commands(page, "kundenkreis"):
        wrong = _missing_option(words)
        assert wrong is None, f"{page.name}: `kundenkreis {' '.join(words)}`: no '{wrong}'"


def _text(node: ast.AST) -> str:
    """A text of the code, with … for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def test_every_message_of_the_runbook_is_one_of_the_code() -> None:
    """A symptom that nobody can meet would send readers astray. In a row, it is the first cell."""
    texts = [
        _text(node)
        for file in sorted((ROOT / "plugins").rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "runbook.md").read_text(), re.M)
    assert len(rows) > 25
    assert [row for row in rows if not any(row in text for text in texts)] == []


@pytest.mark.parametrize("page", _pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    for words in _commands(page, "make"):
        for word in words:
            assert word in targets or "=" in word, f"{page.name}: `make {word}` does not exist"


def test_the_pages_hold_what_is_checked() -> None:
    """Else a change of style in the pages could switch the checks off."""
    readme = ROOT / "README.md"
    assert ["demo", "ADVANCE=1"] in list(_commands(readme, "make"))
    assert ["warehouse", "start|stop|url|psql|migrate"] in list(_commands(readme, "kundenkreis"))
    assert _missing_command(["warehouse", "start"]) is None
    assert _missing_command(["warehouse", "begin"]) == "begin"
    assert _missing_option(["run", "[--as-of", "2026-01-31]", "--jsn"]) == "--jsn"
    assert _missing_option(["quarantine", "list|show", "RECORD", "--note", "WHY"]) == "--note"
    assert _missing_option(["dbt", "build", "--select", "orders"]) is None


@pytest.mark.parametrize("name", ["docs/configuration.md", "docs/data_model.md"])
def test_a_page_that_messages_and_config_files_name_exists(name: str) -> None:
    assert (ROOT / name).exists()
    sources = [*ROOT.glob("config/*.yml"), *ROOT.glob("plugins/kundenkreis/*.py")]
    assert any(name in source.read_text(encoding="utf-8") for source in sources)
