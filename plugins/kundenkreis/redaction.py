"""Takes personal data out of texts that other software wrote, before anybody logs them."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"[\w.+%'~-]+@[\w-]+(?:\.[\w-]+)*", re.UNICODE)
# PostgreSQL and dbt repeat values: `Key (email)=(a@b.example)`, `numeric: "12,5x"`.
_KEY_VALUE = re.compile(r"\)=\(.*?\)(?=\s|$|\.)")
_INVALID_VALUE = re.compile(r'(invalid input (?:syntax|value) for [^:]*: )".*?"')
_URI_PASSWORD = re.compile(r"(://[^:/@\s]*):[^@\s]*@")


def redact(text: str) -> str:
    """Replace addresses, key values and passwords in an error text by a placeholder."""
    text = _URI_PASSWORD.sub(r"\1:***@", text)
    text = _KEY_VALUE.sub(")=(***)", text)
    text = _INVALID_VALUE.sub(r"\1(value hidden)", text)
    return _ADDRESS.sub("***@***", text)


def first_lines(text: str, count: int = 3) -> str:
    """The first non-empty lines of an error text, redacted, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # DETAIL and CONTEXT repeat whole rows.
    kept = [line for line in lines if not line.startswith(("DETAIL:", "CONTEXT:"))]
    return redact(" ".join(kept[:count]))
