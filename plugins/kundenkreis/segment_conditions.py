"""What PostgreSQL says of the SQL that people write into ``segments.yml``."""

from __future__ import annotations

import psycopg

from kundenkreis.errors import ConfigError
from kundenkreis.redaction import first_lines
from kundenkreis.settings import Segment, Settings


def refuse_broken(
    connection: psycopg.Connection,
    settings: Settings,
    key: str,
    segment: Segment,
    customer_360: str,
    *,
    evaluate: bool,
) -> None:
    """Refuse a segment whose `where` or `requires` PostgreSQL does not take.

    Args:
        customer_360: the relation, with its schema.
        evaluate: look at every row as well, because a division by nought shows on a row only.

    Raises:
        ConfigError: names the file, the segment and the database's message.
    """
    parts = [("where", segment.where)]
    parts += [("requires", f"{column} is not null") for column in segment.requires]
    what, rows = ("count(*)", "") if evaluate else ("1", " limit 0")
    for name, condition in parts:
        query = f"select {what} from {customer_360} where ({condition}){rows}"
        try:
            with connection.transaction():
                connection.execute(query.encode())
        except psycopg.Error as problem:
            raise ConfigError(
                f"{settings.folder / 'segments.yml'}: segment '{key}': {name}: "
                f"{first_lines(str(problem), 1)}. It may use the columns of customer_360; "
                "docs/data_model.md lists them."
            ) from None
