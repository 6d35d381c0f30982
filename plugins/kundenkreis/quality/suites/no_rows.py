"""The expectation that a query finds nothing, which runs the query once, and two at a time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from great_expectations.expectations import UnexpectedRowsExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.query_metric_provider import QueryMetricProvider

_METRIC = "rows_found.count"
_AT_A_TIME = 2

_counted: dict[str, int] = {}


class RowsFound(QueryMetricProvider):  # type: ignore[misc]  # it is untyped
    """How many rows a query finds; from `counted_ahead` where it has been counted already."""

    metric_name = _METRIC
    value_keys = ("unexpected_rows_query",)

    @metric_value(engine=SqlAlchemyExecutionEngine)  # type: ignore[untyped-decorator]
    def _sqlalchemy(
        cls: Any,
        execution_engine: Any,
        metric_domain_kwargs: Mapping[str, Any],
        metric_value_kwargs: Mapping[str, Any],
        metrics: Mapping[str, Any],
        runtime_configuration: Mapping[str, Any],
    ) -> int:
        query = metric_value_kwargs["unexpected_rows_query"]
        if query in _counted:
            return _counted[query]
        return int(execution_engine.execute_query(_count_of(query)).fetchone()[0])


class ExpectQueryToFindNoRows(UnexpectedRowsExpectation):  # type: ignore[misc]  # it is untyped
    """As Great Expectations' own, but it only counts.

    That one (1.24) runs its query twice, once for the count and once for the rows themselves, of
    which it keeps none in the result format that the gates use. So no row leaves the warehouse
    here, and a gate over millions of orders takes half the time.
    """

    metric_dependencies: ClassVar[tuple[str, ...]] = (_METRIC,)

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: Any = None,
    ) -> dict[str, Any]:
        found = metrics[_METRIC]
        return {"success": found == 0, "result": {"observed_value": found}}


@contextmanager
def counted_ahead(engine: Any, expectations: Iterable[Any]) -> Iterator[dict[str, float]]:
    """Run the expectations' queries, two at a time, before Great Expectations asks one by one.

    A query that fails is left to Great Expectations, which records what it raises.

    Yields:
        The seconds that each query took, by its expectation's id.
    """
    wanted = [one for one in expectations if isinstance(one, ExpectQueryToFindNoRows)]
    seconds: dict[str, float] = {}

    def count(expectation: Any) -> None:
        begun = time.monotonic()
        query = expectation.unexpected_rows_query
        try:
            with engine.connect() as connection:
                _counted[query] = int(connection.execute(_count_of(query)).scalar_one())
        except sqlalchemy.exc.SQLAlchemyError:
            return
        seconds[expectation.meta["id"]] = time.monotonic() - begun

    try:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            list(pool.map(count, wanted))
        yield seconds
    finally:
        _counted.clear()


def _count_of(query: str) -> Any:
    """The query of an expectation, counted; its unused ``batch`` is left out."""
    plain = re.sub(
        r"^with batch as \(select \* from \{batch\}(?: as batch_rows)?\)(,?) ",
        lambda found: "with " if found.group(1) else "",
        query,
    )
    unescaped = plain.replace("{{", "{").replace("}}", "}")
    return sqlalchemy.text(f"select count(*) from ({unescaped}) as found")
