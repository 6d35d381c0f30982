"""The page that `make bench` writes, out of made-up results."""

from __future__ import annotations

from typing import Any

from benchmarks import report
from benchmarks.nights import GROUPS

_MACHINE = {
    "date": "2026-01-31",
    "processor": "a processor",
    "cores": 2,
    "memory_gib": 24,
    "system": "Linux",
    "load_average_at_start": 0.1,
    "versions": {"PostgreSQL": "18"},
    "settings": {"work_mem": "64MB"},
}


def _beside_floor(seconds: float, floor_seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "floor_seconds": floor_seconds,
        "all_seconds": [seconds],
        "all_floor_seconds": [floor_seconds],
        "models": {"some_model": seconds},
        "compared": [{"table": "some_table", "rows": 1000, "missing_columns": [], **more}],
    }


def _night(seconds: float, is_first: bool) -> dict[str, Any]:
    return {
        "is_first_of_its_colour": is_first,
        "tasks": {"transform": seconds},
        "models": {"a_model": 2.0, "a_slow_model": 3.0},
        "groups": dict.fromkeys([*GROUPS, "other models"], seconds),
    }


def _model(later: list[float]) -> dict[str, Any]:
    return {
        "machine": _MACHINE,
        "shop": {"persons": 1000, "accounts": 900, "orders": 7000, "consent_events": 1},
        "full_build": _beside_floor(15, 10),
        "rfm": _beside_floor(15.1, 10),
        "customer_360": _beside_floor(5, 10, missing_columns=["a_new_column"]),
        "gates": {
            "landing": {"seconds": 12.0, "expectations": 40, "stopped": ""},
            "marts": {"seconds": 31.0, "expectations": 60, "stopped": ""},
        },
        "nights": [_night(100, True), _night(80, True), *(_night(each, False) for each in later)],
    }


def _run(seconds: float, memory: float) -> dict[str, Any]:
    parts = dict.fromkeys(["import_seconds", "load_seconds", "fit_seconds", "score_seconds"], 1.0)
    return {
        "version": "",
        "seconds": seconds,
        "memory_bytes": memory,
        "log_likelihood": -1.0,
        "orders": dict.fromkeys(["r", "alpha", "a", "b"], 1.0),
        "values": dict.fromkeys(["p", "q", "v"], 1.0),
        "expected_orders": 1.0,
        "expected_revenue": 1.0,
        **parts,
    }


def _verdicts(results: dict[str, Any]) -> dict[str, bool]:
    return {name: measured <= target for name, measured, target in report.verdicts(results)}


def test_a_night_is_judged_by_its_slowest_against_the_faster_full_build() -> None:
    met, missed = _verdicts({"model": _model([3, 8])}), _verdicts({"model": _model([3, 8.01])})
    for group in report.GROWING:
        assert met[f"{group} of a night, to the full build"] is True
        assert missed[f"{group} of a night, to the full build"] is False
    assert met["lifecycle and RFM in full, to the floor"] is True
    assert met["RFM, to the floor"] is False


def test_the_page_says_what_is_missed_and_what_a_floor_leaves_out() -> None:
    page = report.page({"model": _model([8])})
    assert "| RFM | 15.1 | 10.0 | 1.51 | ≤ 1.5 | **missed** |" in page
    assert "| landing | 40 | 12.0 | ≤ 30 | met |" in page
    assert "| marts | 60 | 31.0 | ≤ 30 | **missed** |" in page
    assert "| customer_360 | 5.0 | 10.0 | 0.50 | ≤ 1.5 | met |" in page
    assert "| lifecycle | 100 | 80.0 | 8.0 | 10% | ≤ 10 % | met |" in page
    assert "in seconds: a_slow_model 3.0, a_model 2.0." in page
    assert "The floor of some_table leaves out a_new_column" in page


def test_without_a_third_night_nothing_is_said_of_nights() -> None:
    results = {"model": _model([])}
    assert not [name for name in _verdicts(results) if "of a night" in name]
    assert "Too few nights" in report.page(results)


def test_the_page_says_when_the_machine_was_busy() -> None:
    quiet = _model([8])
    busy = {**quiet, "machine": {**_MACHINE, "load_average_at_start": 9.0}}
    assert "busy" not in report.page({"model": quiet})
    assert "The machine was busy with other work" in report.page({"model": busy})


def test_predictions_are_judged_by_the_night() -> None:
    runs = {"database": _run(10.1, 400e6), "lifetimes": _run(40.4, 600e6)}
    part = {"machine": _MACHINE, "customers": 1000, "groups": 10, "runs": runs}
    assert _verdicts({"predictions": part}) == {
        "fit and scores, seconds": False,
        "fit and scores, megabytes": True,
    }
    page = report.page({"predictions": part})
    assert "| fit and scores, s | 10.1 | ≤ 10 | **missed** |" in page
    assert "| lifetimes | 40.4 | 1.0 | 1.0 | 1.0 | 1.0 | 600 | 4.0 |" in page


def _sent(seconds: float) -> dict[str, Any]:
    return {"seconds": seconds, "memory_bytes": 90e6, "writes": 200, "rows": 100_000}


def _deliveries(**night: Any) -> dict[str, Any]:
    runs = {
        "kundenkreis": _sent(4),
        "kundenkreis_members": _sent(8),
        "floor": _sent(1.6),
        "drt": {**_sent(12), "version": "1.2.1"},
        "drt_tuned": _sent(3),
    }
    limit = {
        "seconds": 11.0,
        "allowed_seconds": 10.0,
        "writes_allowed_seconds": 9.5,
        "calls": 205,
        "refused": 1,
    }
    nights = {"unchanged_writes": 0, "changed_writes": 2, "forced_writes": 2, **night}
    return {
        "machine": _MACHINE,
        "members": 100_000,
        "rows_per_call": 500,
        "first": {"0": runs, "100": {**runs, "drt": _sent(11.9)}},
        "memory": {"500000": {"memory_bytes": 99e6}, "10000": {"memory_bytes": 90e6}},
        "nights": nights,
        "limits": {"connections": limit, "window": {**limit, "refused": 2}},
    }


def test_delivery_is_judged_by_drt_the_floor_and_the_limits() -> None:
    found = _verdicts({"delivery": _deliveries()})
    assert [name for name, met in found.items() if not met] == [
        "first delivery at 100 ms, to drt",
        "calls refused under a limit of calls in a window, by headers",
    ]
    nights = _verdicts({"delivery": _deliveries(unchanged_writes=1, changed_writes=3)})
    assert nights["writing calls of an unchanged night"] is False
    assert nights["writing calls of a night that changes 1 %"] is False
    page = report.page({"delivery": _deliveries()})
    assert "| drt, `batch_size` 500 1.2.1 | 12.00 | 8,333 | 200 | 90 | 3.00 |" in page
    assert "| connections at once | 11.0 | 10.0 | 9.5 | 205 | 1 |" in page
    assert "10,000 members 90 MB, 500,000 members 99 MB" in page
