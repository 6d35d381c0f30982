"""The `kundenkreis` command within the process of a test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from kundenkreis import cli

Call = Callable[..., "tuple[int, str, str]"]


def entry_point(
    environment: pytest.MonkeyPatch, capture: pytest.CaptureFixture[Any], *command: str
) -> Call:
    """A function that calls the entry point; it returns exit code, output and error output.

    Args:
        command: arguments that every call begins with.
    """

    def run(*arguments: str) -> tuple[int, str, str]:
        environment.setattr(sys, "argv", ["kundenkreis", *command, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capture.readouterr()
        code = ended.value.code
        assert isinstance(code, int | None)
        return code or 0, captured.out, captured.err

    return run
