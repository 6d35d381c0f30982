"""The expectation that a query finds nothing; queries run once, two at a time, and ahead."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import sqlalchemy
from great_expectations.execution_engine import SqlAlchemyExecutionEngine
from great_expectations.expectations import UnexpectedRowsExpectation
from great_expectations.expectations.metrics.metric_provider import metric_value
from great_expectations.expectations.metrics.query_metric_provider import QueryMetricProvider

_METRIC = "rows_found.count"
_AT_A_TIME = 2

_counts: dict[str, Future[int | None]] = {}


class RowsFound(QueryMetricProvider):  # type: ignore[misc]  # it is untyped
    """How many rows a query finds; waits for `counting_ahead` where that counts it."""

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
        if query in _counts and (count := _counts[query].result()) is not None:
            return count
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
def counting_ahead(engine: Any, expectations: Iterable[Any]) -> Iterator[dict[str, float]]:
    """Run the expectations' queries, two at a time, beside what Great Expectations does itself.

    It asks for them one by one, and waits for those that are not counted yet. A query that fails is
    left to it, which records what it raises.

    Yields:
        The seconds that each query took, by its expectation's id; complete in the end.
    """
    wanted = [one for one in expectations if isinstance(one, ExpectQueryToFindNoRows)]
    seconds: dict[str, float] = {}

    def count(expectation: Any) -> int | None:
        begun = time.monotonic()
        try:
            with engine.connect() as connection:
                counted = connection.execute(_count_of(expectation.unexpected_rows_query))
                return int(counted.scalar_one())
        except sqlalchemy.exc.SQLAlchemyError:
            return None
        finally:
            seconds[expectation.meta["id"]] = time.monotonic() - begun

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        try:
            for one in wanted:
                _counts[one.unexpected_rows_query] = pool.submit(count, one)
            yield seconds
        finally:
            pool.shutdown(cancel_futures=True)
            _counts.clear()


def _count_of(query: str) -> Any:
    """The query of an expectation, counted; its unused ``batch`` is left out."""
    plain = re.sub(
        r"^with batch as \(select \* from \{batch\}(?: as batch_rows)?\)(,?) ",
        lambda found: "with " if found.group(1) else "",
        query,
    )
    unescaped = plain.replace("{{", "{").replace("}}", "}")
    return sqlalchemy.text(f"select count(*) from ({unescaped}) as found")
