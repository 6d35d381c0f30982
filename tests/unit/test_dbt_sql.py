"""What the SQL of the dbt project may not say: the clock, and one warehouse's own dialect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kundenkreis.settings import repository_root

PROJECT = repository_root() / "dbt_project"
FILES = sorted([*PROJECT.glob("models/**/*.sql"), *PROJECT.glob("tests/*.sql")])
MACROS = sorted(PROJECT.glob("macros/**/*.sql"))

_CLOCK = (
    r"(?<!dbt\.)\b(current_(date|time|timestamp)|localtime(stamp)?|getdate|sysdate)\b|\bnow\s*\("
)
_POSTGRES_ONLY = {
    "cast by ::": r"::",
    "type": r"\bas\s+(jsonb|float|text|int[248]?|float[48]|bytea|timestamptz)\s*\)",
    "filter (where ...)": r"\bfilter\s*\(\s*where\b",
    "distinct on": r"\bdistinct\s+on\b",
    "lateral": r"\blateral\b",
    "jsonb": r"\bjsonb",
    "interval": r"\binterval\s+'",
    "regular expression operator": r"!?~\*?\s*E?'",
    "ilike": r"\bilike\b",
    "at time zone": r"\bat\s+time\s+zone\b",
    "is distinct from": r"\bis\s+(not\s+)?distinct\s+from\b",
    "row comparison": r"(?<!\w)\(\s*\w+(\.\w+)?\s*,[^()]*\)\s*(<>|=|<|>|<=|>=|in)\s*\(",
    "function": r"(?<!dbt\.)\b(generate_series|split_part|btrim|array_agg|string_agg|unnest|to_char"
    r"|date_trunc|make_date|bool_or|bool_and|num_nulls|concat_ws|regexp_\w+|md5|extract|age"
    r"|json_(build|agg|each|extract)\w*|substr)\s*\(",
}
# A macro of one warehouse may hold its dialect, a default any but that of Postgres; the others only
# dispatch to them.
_DISPATCHED = re.compile(r"{%-?\s*macro (postgres|duckdb|default)__.*?{%-?\s*endmacro\s*-?%}", re.S)


def _sql(file: Path) -> str:
    """The file's SQL: without comments, and without Jinja expressions that join texts."""
    text = re.sub(r"{#.*?#}", "", file.read_text(encoding="utf-8"), flags=re.S)
    return re.sub(r"--[^\n]*", "", re.sub(r"\s~\s", " + ", text))


def _found(text: str) -> list[str]:
    return [name for name, words in _POSTGRES_ONLY.items() if re.search(words, text, re.I)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_model_knows_no_clock_and_no_dialect(file: Path) -> None:
    assert not re.search(_CLOCK, _sql(file), re.I), "the as-of date is {{ as_of_date() }}"
    assert _found(_sql(file)) == [], "use or add a dispatched macro"


@pytest.mark.parametrize("file", MACROS, ids=lambda file: file.stem)
def test_a_macro_knows_a_dialect_only_where_it_is_dispatched(file: Path) -> None:
    assert not re.search(_CLOCK, _sql(file), re.I)
    assert _found(_DISPATCHED.sub("", _sql(file))) == []


def test_every_macro_for_postgres_has_a_default() -> None:
    text = "\n".join(_sql(file) for file in MACROS)
    postgres = set(re.findall(r"macro postgres__(\w+)", text))
    assert len(postgres) > 10
    assert postgres - set(re.findall(r"macro default__(\w+)", text)) == set()


@pytest.mark.parametrize(
    "text",
    [
        "a::text",
        "count(*) filter (where a)",
        "select distinct on (a) b",
        "a ~ '^x'",
        "where (a, b) in (select 1, 2)",
        "string_agg(a, ',')",
        "a is distinct from b",
        "date '2026-01-01' + interval '1 day'",
        "cast(a as date) at time zone 'UTC'",
        "a ILIKE 'x'",
        "cast(null as jsonb)",
        "cast(a as float)",
    ],
)
def test_the_patterns_find_what_they_are_for(text: str) -> None:
    assert _found(text)
