"""What dbt gives a template, as far as sqlfluff needs it to render the models without a database.

Named in ``.sqlfluff`` as ``library_path``; dbt itself never reads it. Macros come from ``macros/``,
variables are the defaults of ``dbt_project.yml``.
"""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from jinja2 import pass_context

_PROJECT = yaml.safe_load((Path(__file__).parents[1] / "dbt_project.yml").read_text("utf-8"))

execute = False
flags = SimpleNamespace(WHICH="compile")
target = SimpleNamespace(schema="staging", type="postgres")
modules = SimpleNamespace(re=re)


def var(name: str, default: Any = None) -> Any:
    """A variable's default."""
    value = _PROJECT["vars"].get(name)
    return default if value is None else value


class _Adapter:
    @staticmethod
    @pass_context
    def dispatch(context: Any, macro: str, package: str | None = None) -> Any:
        """The Postgres version of a macro, else its default."""
        return context.get(f"postgres__{macro}") or context.get(f"default__{macro}")


class _Exceptions:
    @staticmethod
    def raise_compiler_error(message: str) -> None:
        """Refuse, as dbt does."""
        raise ValueError(message)


class _Dbt:
    type_string = staticmethod(lambda: "text")
    type_int = staticmethod(lambda: "integer")
    type_bigint = staticmethod(lambda: "bigint")
    type_numeric = staticmethod(lambda: "numeric(28, 6)")
    type_float = staticmethod(lambda: "double precision")
    type_timestamp = staticmethod(lambda: "timestamp")
    type_boolean = staticmethod(lambda: "boolean")
    hash = staticmethod(lambda text: f"md5({text})")
    concat = staticmethod(" || ".join)
    split_part = staticmethod(lambda text, by, part: f"split_part({text}, {by}, {part})")
    dateadd = staticmethod(lambda part, count, day: f"({day} + interval '{count} {part}')")
    datediff = staticmethod(lambda first, second, part: f"({second} - {first})")
    safe_cast = staticmethod(lambda text, type_: f"cast({text} as {type_})")
    current_timestamp = staticmethod(lambda: "now()")
    listagg = staticmethod(
        lambda measure, by="','", order="", limit=None: f"string_agg({measure}, {by} {order})"
    )


adapter = _Adapter()
exceptions = _Exceptions()
dbt = _Dbt()
