"""docs/benchmarks.md out of the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.nights import GROWING

FULL_BUILD_RATIO = 1.5
NIGHT_RATIO = 0.1
FLOOR_RATIO = 1.5
GATE_SECONDS = 30
PREDICTION_SECONDS = 10
PREDICTION_MEGABYTES = 500
DRT_RATIO = 1 / 3
DELIVERY_FLOOR_RATIO = 2.5
MEMORY_RATIO = 1.1
LIMIT_RATIO = 1.1

# What the preparation of a run leaves behind is less.
_BUSY_LOAD = 1.5

_TOGETHER = "all that grows"

_TITLES = {
    "database": "Kundenkreis, in the night",
    "functions": "Kundenkreis, as functions",
    "lifetimes": "lifetimes",
    "pymc-marketing": "PyMC-Marketing, MAP",
}
_SENDERS = {
    "kundenkreis": "Kundenkreis",
    "kundenkreis_members": "Kundenkreis, who join an audience as well",
    "floor": "floor",
    "drt": "drt, `batch_size` 500",
    "drt_tuned": "drt, `batch_size` as many as rows: its best tuning",
}
_LIMITS = {"connections": "connections at once", "window": "calls in a window, by headers"}


def page(results: dict[str, Any]) -> str:
    """The page, as Markdown.

    Args:
        results: by part (``model``, ``predictions``, ``delivery``), each with its ``machine``.
    """
    sections = ["# Benchmarks", _introduction()]
    if "model" in results:
        sections += _customer_model(results["model"])
    if "predictions" in results:
        sections += _predictions(results["predictions"])
    if "delivery" in results:
        sections += _delivery(results["delivery"])
    return "\n\n".join(sections) + "\n"


def verdicts(results: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Every target that was measured: its name, what was measured, and what it may be at most."""
    found: list[tuple[str, float, float]] = []
    if "model" in results:
        model = results["model"]
        found += [
            (
                "lifecycle and RFM in full, to the floor",
                _ratio(model["full_build"]),
                FULL_BUILD_RATIO,
            ),
            *(
                (f"{group} of a night, to the full build", ratio, NIGHT_RATIO)
                for group in (*GROWING, _TOGETHER)
                if (ratio := _night_ratio(model, group)) is not None
            ),
            ("RFM, to the floor", _ratio(model["rfm"]), FLOOR_RATIO),
            ("customer_360, to the floor", _ratio(model["customer_360"]), FLOOR_RATIO),
            *(
                (f"gate {name}, seconds", gate["seconds"], GATE_SECONDS)
                for name, gate in model.get("gates", {}).items()
            ),
        ]
    if "predictions" in results:
        run = results["predictions"]["runs"]["database"]
        found += [
            ("fit and scores, seconds", run["seconds"], PREDICTION_SECONDS),
            ("fit and scores, megabytes", run["memory_bytes"] / 1e6, PREDICTION_MEGABYTES),
        ]
    if "delivery" in results:
        found += _delivery_verdicts(results["delivery"])
    return found


def _introduction() -> str:
    return (
        "Written by `make bench`; [benchmarks/](../benchmarks/README.md) says what is measured and "
        "how. Times of one run compare with each other, not with those of another machine, so "
        "that every target is a ratio to a floor or a peer of the same run: a floor is the same "
        "result by hand-written SQL, and the run stops where the results differ."
    )


def _customer_model(part: dict[str, Any]) -> list[str]:
    generated = part["shop"]
    return [
        "## Customer model",
        _machine(part["machine"]),
        f"{generated['persons']:,} persons, {generated['accounts']:,} accounts and "
        f"{generated['orders']:,} orders in three years, generated.",
        "### A full build of lifecycle and RFM",
        "The models from int_orders on, alone in one dbt call (from the beginning of the first to "
        "the end of the last), and the same tables by one SQL script in the same database. "
        f"The faster of {len(part['full_build']['all_seconds'])} each.",
        _table(
            ("", "models, s", "floor, s", "ratio", "target", ""),
            [_floor_row("lifecycle and RFM", part["full_build"], FULL_BUILD_RATIO)],
        ),
        _models(part["full_build"]["models"]),
        "### A night that changes one customer in a hundred",
        _nights_text(part),
        _nights(part),
        _slowest(part["nights"][-1]),
        _wall(part),
        "### What changes for everybody",
        "Each alone in one dbt call in the last of these nights, and its floor. "
        f"The faster of {len(part['rfm']['all_seconds'])} each.",
        _table(
            ("", "models, s", "floor, s", "ratio", "target", ""),
            [
                _floor_row("RFM", part["rfm"], FLOOR_RATIO),
                _floor_row("customer_360", part["customer_360"], FLOOR_RATIO),
            ],
        ),
        _compared(part),
        *_gates(part.get("gates", {})),
    ]


def _gates(gates: dict[str, Any]) -> list[str]:
    if not gates:  # results of before they were measured
        return []
    return [
        "### The gates",
        "Over the last of these nights, each with its Data Docs and without the imports.",
        _table(
            ("gate", "expectations", "seconds", "target", ""),
            [_gate_row(name, gate) for name, gate in gates.items()],
        ),
    ]


def _gate_row(name: str, gate: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        "stopped the night" if gate["stopped"] else str(gate["expectations"]),
        _seconds(gate["seconds"]),
        f"≤ {GATE_SECONDS}",
        _met(gate["seconds"], GATE_SECONDS),
    )


def _nights_text(part: dict[str, Any]) -> str:
    return (
        "Two colours are built by turns, and the first build of each is a full one. From the third "
        "night on a colour takes up what changed since it was built last: two nights' changes. "
        "dbt's execution times per group of models, added up, within whole nights that build one "
        "model at a time and run their data tests afterwards, so that a model's time is its own; "
        "the ratio is the slowest of these nights to the faster full build."
        if _later_nights(part)
        else "Too few nights were run to have one that is not the first of its colour."
    )


def _nights(part: dict[str, Any]) -> str:
    later = _later_nights(part)
    heads = [f"night {number}, s" for number in range(1, len(part["nights"]) + 1)]
    rows = []
    groups = part["nights"][0]["groups"]
    for group in (*GROWING, _TOGETHER, *(name for name in groups if name not in GROWING)):
        seconds = [_seconds(_of_group(one, group)) for one in part["nights"]]
        ratio = _night_ratio(part, group)
        shown = f"{ratio:.0%}" if ratio is not None and later else ""
        is_judged = group in (*GROWING, _TOGETHER) and later
        target = ("≤ 10 %", _met(ratio, NIGHT_RATIO)) if is_judged else ("", "")
        rows.append((group, *seconds, shown, *target))
    return _table(("", *heads, "ratio", "target", ""), rows)


def _slowest(last: dict[str, Any]) -> str:
    """Names what hides in the sums, so that a new model that grows is noticed."""
    ranked = sorted(last["models"].items(), key=lambda item: item[1], reverse=True)
    listed = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in ranked[:10])
    return f"The slowest models of the last night, in seconds: {listed}."


def _wall(part: dict[str, Any]) -> str:
    heads = [f"night {number}, s" for number in range(1, len(part["nights"]) + 1)]
    tasks = part["nights"][0]["tasks"]
    rows = [(task, *(_seconds(one["tasks"][task]) for one in part["nights"])) for task in tasks]
    return "Wall times of the tasks, one model at a time:\n\n" + _table(("task", *heads), rows)


def _night_ratio(part: dict[str, Any], group: str) -> float | None:
    later = [_of_group(one, group) for one in _later_nights(part)]
    first = [_of_group(one, group) for one in part["nights"] if one["is_first_of_its_colour"]]
    return max(later) / min(first) if later and min(first) else None


def _of_group(one_night: dict[str, Any], group: str) -> float:
    groups: dict[str, float] = one_night["groups"]
    return sum(groups[name] for name in GROWING) if group == _TOGETHER else groups[group]


def _later_nights(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in part["nights"] if not one["is_first_of_its_colour"]]


def _floor_row(name: str, found: dict[str, Any], target: float) -> tuple[str, ...]:
    ratio = _ratio(found)
    return (
        name,
        _seconds(found["seconds"]),
        _seconds(found["floor_seconds"]),
        f"{ratio:.2f}",
        f"≤ {target:g}",
        _met(ratio, target),
    )


def _models(seconds: dict[str, float]) -> str:
    listed = ", ".join(f"{name} {_seconds(value)}" for name, value in seconds.items())
    return f"By model, in seconds: {listed}."


def _compared(part: dict[str, Any]) -> str:
    found = [
        comparison
        for name in ("full_build", "rfm", "customer_360")
        for comparison in part[name]["compared"]
    ]
    rows = {comparison["table"]: comparison["rows"] for comparison in found}
    listed = ", ".join(f"{table} ({count:,})" for table, count in rows.items())
    text = f"Rows and checksums equal those of the floors: {listed}."
    for table, columns in {c["table"]: c["missing_columns"] for c in found}.items():
        if columns:
            text += f" The floor of {table} leaves out {', '.join(columns)}, so that it is cheaper."
    return text


def _predictions(part: dict[str, Any]) -> list[str]:
    own = part["runs"]["database"]
    return [
        "## Customer value",
        _machine(part["machine"]),
        f"BG/NBD and Gamma-Gamma fitted on {part['customers']:,} buyers with {part['groups']:,} "
        "distinct orders in time, and all scored for 365 days. Each is a process of its own on "
        "the same data; seconds are those of the whole process, memory is its peak. *In the "
        "night* is the task `predict`, which also fits a holdout and computes everything for 90 "
        "days, reading from and writing to PostgreSQL, and after it the dbt model customer_value; "
        "memory is the task's. The peers were run once before, because their first run compiles.",
        _table(
            ("", "seconds", "import", "load", "fit", "score", "memory, MB", "times ours"),
            [_prediction_row(name, run, own) for name, run in part["runs"].items()],
        ),
        _table(
            ("", "measured", "target", ""),
            [
                (
                    "fit and scores, s",
                    _seconds(own["seconds"]),
                    f"≤ {PREDICTION_SECONDS}",
                    _met(own["seconds"], PREDICTION_SECONDS),
                ),
                (
                    "memory, MB",
                    f"{own['memory_bytes'] / 1e6:.0f}",
                    f"≤ {PREDICTION_MEGABYTES}",
                    _met(own["memory_bytes"] / 1e6, PREDICTION_MEGABYTES),
                ),
            ],
        ),
        "What each found; all log-likelihoods of BG/NBD by one function:",
        _table(
            ("", "r", "alpha", "a", "b", "log-likelihood", "p", "q", "v", "orders", "revenue"),
            [_parameter_row(name, run) for name, run in part["runs"].items()],
        ),
    ]


def _prediction_row(name: str, run: dict[str, Any], own: dict[str, Any]) -> tuple[str, ...]:
    parts = ("import_seconds", "load_seconds", "fit_seconds", "score_seconds")
    return (
        f"{_TITLES[name]} {run['version']}".strip(),
        *(_seconds(run[part]) for part in ("seconds", *parts)),
        f"{run['memory_bytes'] / 1e6:.0f}",
        f"{run['seconds'] / own['seconds']:.1f}",
    )


def _parameter_row(name: str, run: dict[str, Any]) -> tuple[str, ...]:
    return (
        _TITLES[name],
        *(f"{run['orders'][key]:.4f}" for key in ("r", "alpha", "a", "b")),
        f"{run['log_likelihood']:,.2f}",
        *(f"{run['values'][key]:.3f}" for key in ("p", "q", "v")),
        f"{run['expected_orders']:,.0f}",
        f"{run['expected_revenue']:,.0f}",
    )


def _delivery_verdicts(part: dict[str, Any]) -> list[tuple[str, float, float]]:
    found: list[tuple[str, float, float]] = []
    for latency, runs in part["first"].items():
        seconds = runs["kundenkreis"]["seconds"]
        found += [
            (
                f"first delivery at {latency} ms, to drt",
                seconds / runs["drt"]["seconds"],
                DRT_RATIO,
            ),
            (
                f"first delivery at {latency} ms, to the floor",
                seconds / runs["floor"]["seconds"],
                DELIVERY_FLOOR_RATIO,
            ),
        ]
    nights = part["nights"]
    return [
        *found,
        ("memory of fifty times the members", _memory_ratio(part), MEMORY_RATIO),
        ("writing calls of an unchanged night", nights["unchanged_writes"], 0),
        (
            "writing calls of a night that changes 1 %",
            nights["changed_writes"],
            nights["forced_writes"],
        ),
        *(
            (
                f"delivery under a limit of {_LIMITS[name]}, to the limit",
                _limit_ratio(run),
                LIMIT_RATIO,
            )
            for name, run in part["limits"].items()
        ),
        *(
            (f"calls refused under a limit of {_LIMITS[name]}", run["refused"], 1)
            for name, run in part["limits"].items()
        ),
    ]


def _memory_ratio(part: dict[str, Any]) -> float:
    few, many = (run["memory_bytes"] for _, run in sorted(part["memory"].items(), key=_by_size))
    return float(many / few)


def _by_size(entry: tuple[str, Any]) -> int:
    return int(entry[0])


def _limit_ratio(run: dict[str, Any]) -> float:
    return float(run["seconds"] / run["allowed_seconds"])


def _delivery(part: dict[str, Any]) -> list[str]:
    members, size = part["members"], part["rows_per_call"]
    return [
        "## Delivery",
        _machine(part["machine"]),
        f"A first delivery of {members:,} members, an address and six attributes each, {size} a "
        "call, to a tool that answers Mailchimp's calls and keeps contacts in memory. It runs on "
        "the same machine and takes its share of it. All programs send the same rows and are "
        "timed without their imports. Ours reads the contacts' states before, records each row "
        "in the ledger before its request and after it, and reads each row's outcome from the "
        "answer. The floor has a server-side cursor, four connections and one insert of hashes "
        "for each call, and does none of that. Ours and the floor ran twice by turns; the faster "
        "counts.",
        *(_first_delivery(latency, runs, members) for latency, runs in part["first"].items()),
        _table(
            ("", "measured", "target", ""),
            [
                (name, f"{measured:.3g}", f"≤ {target:.3g}", _met(measured, target))
                for name, measured, target in _delivery_verdicts(part)
            ],
        ),
        _memory_text(part),
        _limits_text(part),
    ]


def _first_delivery(latency: str, runs: dict[str, Any], members: int) -> str:
    own = runs["kundenkreis"]["seconds"]
    rows = [
        (
            f"{_SENDERS[name]} {run.get('version', '')}".strip(),
            f"{run['seconds']:.2f}",
            f"{run['rows'] / run['seconds']:,.0f}",
            str(run["writes"]),
            f"{run['memory_bytes'] / 1e6:.0f}",
            f"{run['seconds'] / own:.2f}",
        )
        for name in _SENDERS
        if (run := runs.get(name))
    ]
    heads = ("", "seconds", "rows a second", "writing calls", "memory, MB", "times ours")
    return f"With {latency} ms until the tool answers:\n\n" + _table(heads, rows)


def _memory_text(part: dict[str, Any]) -> str:
    listed = ", ".join(
        f"{int(size):,} members {run['memory_bytes'] / 1e6:.0f} MB"
        for size, run in sorted(part["memory"].items(), key=_by_size)
    )
    return f"Peak memory of the delivering process, which loads all of its modules: {listed}."


def _limits_text(part: dict[str, Any]) -> str:
    rows = [
        (
            _LIMITS[name],
            _seconds(run["seconds"]),
            _seconds(run["allowed_seconds"]),
            _seconds(run["writes_allowed_seconds"]) if "writes_allowed_seconds" in run else "",
            str(run["calls"]),
            str(run["refused"]),
        )
        for name, run in part["limits"].items()
    ]
    heads = ("limit", "seconds", "at the limit, s", "its writes alone, s", "calls", "refused")
    return (
        "With the limits that vendors set. At the limit is what all calls take that were made, with"
        " the reads; beside it what those take that write:\n\n" + _table(heads, rows)
    )


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    settings = ", ".join(f"{name} {value}" for name, value in machine["settings"].items())
    load = machine["load_average_at_start"]
    text = (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']:g} GiB, {machine['system']}, load average at the start {load:g}. "
        f"{versions}. Server settings: {settings}."
    )
    if load > _BUSY_LOAD:
        text += " **The machine was busy with other work: these times are too long.**"
    return text


def _ratio(found: dict[str, Any]) -> float:
    return float(found["seconds"] / found["floor_seconds"])


def _met(measured: float | None, target: float) -> str:
    return "met" if measured is not None and measured <= target else "**missed**"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
