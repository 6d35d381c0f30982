"""Kills deliveries at seeded random points and writes docs/chaos.md.

Every round plans an audience of eight known and two new contacts, one of whom has withdrawn, kills
the delivery one to three times (at a failpoint, or after a random time, which may be in the middle
of anything), lets another person withdraw, runs again, delivers the next plan, and checks what
`Story.check` says. A round that does not hold ends the run with its number and the seed.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import machine, server
from kundenkreis.destinations import open_destination
from kundenkreis.settings import home, repository_root
from kundenkreis.warehouse.embedded import SERVER_SETTINGS
from sandbox.testing import Handle, running_sandbox
from tests.integration.delivery_crashes import (
    Story,
    resolver,
    settings,
    subscribed,
    vendor_of_jobs,
)

FULL_RUN = 300
"""Kills that docs/chaos.md stands for; of fewer it is not written."""

_PLACES = {
    "before_intended": 5,
    "after_intended": 5,
    "before_request": 5,
    "after_request": 5,
    "before_settle": 5,
    "after_settle": 5,
    "after_states": 1,
    "before_audience": 1,
    "after_audience": 1,
    "between_operations": 3,
    "before_end": 1,
}
_READING_AGAIN = {"during_suppression_read": 4, "after_suppression_read": 4}
_OF_JOBS = {"before_job_stored": 5, "after_job_stored": 5, "before_poll": 12, "after_poll": 12}
_LONGEST_SECONDS = 0.5


@dataclass
class Tally:
    """What happened: kills by kind and place, and what was compared."""

    rounds: Counter[str]
    kills: Counter[str]
    compared: Counter[str]
    seconds: float = 0.0


def main() -> None:
    """Run as many rounds as it takes for the kills that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=FULL_RUN)
    parser.add_argument("--seed", type=int, default=20_260_131)
    arguments = parser.parse_args()
    folder = home() / "chaos"
    folder.mkdir(parents=True, exist_ok=True)
    with server.running(folder, keep=False) as embedded:
        described = machine.describe(embedded.dsn(), SERVER_SETTINGS)
        dsn = server.fresh_warehouse(embedded, "chaos")
        tally = _run(dsn, arguments.kills, arguments.seed)
    page = _page(tally, arguments.seed, described)
    place = repository_root() / "docs" if arguments.kills >= FULL_RUN else folder
    (place / "chaos.md").write_text(page)
    print(page)
    print(f"Written: {place / 'chaos.md'}")


def _run(dsn: str, kills: int, seed: int) -> Tally:
    tally = Tally(Counter(), Counter(), Counter())
    begun = time.monotonic()
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(
            running_sandbox(place / "sandbox", customers=400, seed=5, until=date(2026, 11, 22))
        )
        jobs = stack.enter_context(_jobs(place / "jobs", sandbox))
        number = 0
        while tally.kills.total() < kills:
            number += 1
            dice = random.Random(f"{seed}-{number}")
            try:
                _round(dsn, sandbox, jobs, number, dice, tally)
            except AssertionError as broken:
                raise SystemExit(f"round {number} of seed {seed}: {broken}") from broken
            print(f"round {number}: {tally.kills.total()} of {kills} kills", flush=True)
    tally.seconds = time.monotonic() - begun
    return tally


@contextmanager
def _jobs(folder: Path, sandbox: Handle) -> Iterator[Path]:
    folder.mkdir()

    def open_tool() -> Any:
        return open_destination(
            "mailchimp", settings("mailchimp").destinations["mailchimp"], resolver(sandbox)
        )

    with vendor_of_jobs(folder, open_tool):
        yield folder


def _round(
    dsn: str, sandbox: Handle, jobs: Path, number: int, dice: random.Random, tally: Tally
) -> None:
    vendor, kind = dice.choice(
        [("listmonk", "listmonk"), ("mailchimp", "mailchimp"), ("mailchimp", "jobs")]
    )
    long_delivery = dice.random() < 0.25
    people = subscribed(vendor, sandbox)
    story = Story(
        dsn,
        vendor,
        sandbox,
        f"Round {number}",
        dice.sample(people, 8),
        [f"round{number}-{one}@neukunde.de" for one in range(2)],
        jobs=jobs if kind == "jobs" else None,
        long_delivery=long_delivery,
    )
    story.begin()
    places = dict(_PLACES)
    places |= _READING_AGAIN if long_delivery else {}
    places |= _OF_JOBS if kind == "jobs" else {}
    for _ in range(dice.randint(1, 3)):
        if dice.random() < 0.5:
            name = dice.choice(sorted(places))
            failpoint = f"deliver.{name}#{dice.randint(1, places[name])}"
            killed = story.deliver(failpoint) != 0
            tally.kills[f"at {name}"] += killed
        else:
            killed = story.deliver(after=dice.uniform(0.05, _LONGEST_SECONDS)) != 0
            tally.kills["at a random time"] += killed
        if not killed:
            break
    story.withdraw(story.known[1])
    assert story.deliver() == 0, "the last delivery failed"
    if dice.random() < 0.3:
        killed = story.reconcile(after=dice.uniform(0.0, 0.2)) != 0
        tally.kills["in reconciliation, at a random time"] += killed
        assert story.reconcile() == 0, "reconciliation failed"
    story.leave()
    assert story.deliver(publication=2) == 0, "the delivery of the next plan failed"
    tally.compared.update(story.check())
    tally.rounds[kind] += 1


def _page(tally: Tally, seed: int, described: dict[str, Any]) -> str:
    kinds = {
        "listmonk": "listmonk",
        "mailchimp": "Mailchimp",
        "jobs": "Mailchimp, behind a vendor that works on jobs by itself",
    }
    rounds = ", ".join(f"{kinds[kind]} {count}" for kind, count in sorted(tally.rounds.items()))
    kills = [f"| {place} | {count} |" for place, count in sorted(tally.kills.items()) if count]
    return "\n".join(
        [
            "# Killed deliveries",
            "",
            "Written by `make chaos`. Deliveries to the sandbox are killed (SIGKILL) at random, up "
            "to three times each, at a named step or after a random time, and run again; then the "
            "next plan is delivered. After each round:",
            "",
            "- the audience in the tool holds exactly who should be in it;",
            "- no request after a person's withdrawal wrote to them or put them into an audience;",
            "- every change that the tool's request log shows has its attempt in the ledger, and "
            "every confirmed attempt its request;",
            "- no attempt is open, and nothing is in doubt but what was sent to people before they "
            "withdrew.",
            "",
            f"{described['date']}, {described['processor']}, {described['cores']} cores, "
            f"{described['system']}, PostgreSQL {described['versions']['PostgreSQL']}. "
            f"Seed {seed}: **{tally.kills.total()} kills in {tally.rounds.total()} rounds, all of "
            f"which held**, in {tally.seconds / 60:.0f} minutes. Rounds by tool: {rounds}. "
            f"Compared: {tally.compared['requests']:,} changes that the tools saw and "
            f"{tally.compared['attempts']:,} attempts in the ledger.",
            "",
            "| killed | times |",
            "| --- | ---: |",
            *kills,
            "",
        ]
    )


if __name__ == "__main__":
    main()
