"""Takes personal data out of texts that other software wrote, before anybody logs them."""

from __future__ import annotations

import re

# Every character RFC 5322 allows in an unquoted local part, up to its 64; in URLs the @ may be
# encoded. The bounds keep a search through a long text linear.
_ADDRESS = re.compile(
    r"""(?:"[^"\n]{0,64}"|[\w.!#$%&'*+/=?^`{|}~-]{1,64})(?:@|%40)\[?[\w:-]+(?:\.[\w-]+)*\]?"""
)
# PostgreSQL and dbt repeat values: `Key (email)=(a@b.example)`, `numeric: "12,5x"`. A value may
# hold brackets, quotes and line breaks of its own, so the longest match is taken, not the shortest.
_KEY_VALUE = re.compile(r"\)=\(.*\)", re.DOTALL)
_FAILING_ROW = re.compile(r"(Failing row contains )\(.*\)", re.DOTALL)
_INVALID_VALUE = re.compile(
    r"((?:invalid input (?:syntax|value) for|invalid value|malformed|out of range)"
    r'[^:"\n]{0,80}: )".*"',
    re.DOTALL,
)
_URI_PASSWORD = re.compile(r"(://[^:/@\s]{0,256}):[^/\s]{0,256}@")
# DETAIL and CONTEXT repeat whole rows, over as many lines as the row has.
_ROW_TEXT = re.compile(
    r"^\s*(?:DETAIL|CONTEXT):.*?(?=^\s*(?:HINT|LINE \d+|QUERY|compiled code at)\b|\Z)",
    re.DOTALL | re.MULTILINE,
)
_HIDDEN = "***"
_KEPT = "\0"  # in no address, so that a URI's host is not taken for one


def redact(text: str) -> str:
    """Replace addresses, key values and passwords in an error text by a placeholder."""
    text = _URI_PASSWORD.sub(rf"\g<1>:{_KEPT}@", text)
    text = _FAILING_ROW.sub(rf"\1({_HIDDEN})", text)
    text = _KEY_VALUE.sub(f")=({_HIDDEN})", text)
    text = _INVALID_VALUE.sub(r"\1(value hidden)", text)
    return _ADDRESS.sub(f"{_HIDDEN}@{_HIDDEN}", text).replace(_KEPT, _HIDDEN)


def first_lines(text: str, count: int = 3) -> str:
    """The first non-empty lines of an error text, redacted, on one line."""
    text = redact(_ROW_TEXT.sub("", text))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[:count])
