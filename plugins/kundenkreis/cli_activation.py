"""Commands around sending: what would be sent and why, who may decide, what was sent."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kundenkreis.cli_support import (
    AsJson,
    By,
    console,
    errors,
    migrated_warehouse,
    person,
    print_json,
    use_sandbox_if_nothing_else,
)
from kundenkreis.errors import KundenkreisError
from kundenkreis.terminal_activation import (
    print_decisions,
    print_deliveries,
    print_explanation,
    print_overlap,
    print_plan,
    print_preview,
    print_rejected,
    print_sent,
)

if TYPE_CHECKING:
    from kundenkreis.activation.approvals import Decision

segments_app = typer.Typer(help="Segments as segments.yml says now, before anything is sent.")

Name = Annotated[
    str, typer.Argument(metavar="SEGMENT|AUDIENCE", help="Key of a segment, or an audience's name.")
]
Destination = Annotated[str | None, typer.Option("--destination", help="Only in this email tool.")]
Note = Annotated[str, typer.Option("--note", help="Why; kept with the decision.")]
Keys = Annotated[
    list[str] | None, typer.Argument(metavar="[SEGMENT]...", help="Keys; all where none is given.")
]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (plan, approve, reject, deliver, deliveries, explain):
        app.command()(command)
    app.add_typer(segments_app, name="segments")


def plan(
    sample: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Show N rows of every kind in turn, addresses masked."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what the current plan would send, to whom, in how many calls and minutes.

    Nothing is sent.
    """
    from kundenkreis import activation
    from kundenkreis.settings import load_settings

    settings = load_settings()
    dsn = migrated_warehouse()
    publication_id = _current_publication(dsn)
    activation.require_plannable(dsn, publication_id)
    summary = activation.plan_summary(dsn, publication_id, settings, sample=sample)
    if as_json:
        print_json(summary)
    else:
        print_plan(console, summary)


def approve(
    name: Name,
    destination: Destination = None,
    note: Note = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Let a held segment or audience go out as it is planned now.

    Where a run waits in Airflow, its question is answered and the run sends it. Else the decision
    is recorded, and `kundenkreis deliver --held` sends it.
    """
    _decide("approve", name, destination, note, person(by), as_json)


def reject(
    name: Name,
    destination: Destination = None,
    note: Note = "",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Keep a held segment or audience from going out; the next night asks again if it is held."""
    _decide("reject", name, destination, note, person(by), as_json)


def _decide(
    decision: Decision, name: str, destination: str | None, note: str, by: str, as_json: bool
) -> None:
    from kundenkreis.activation import approvals
    from kundenkreis.activation.decisions import decide_on
    from kundenkreis.warehouse.connection import connect

    dsn = migrated_warehouse()
    publication_id = _current_publication(dsn)
    with connect(dsn) as connection:
        held = approvals.held_audiences(connection, publication_id)
        chosen = approvals.find(held, name, destination)
        outcome = decide_on(connection, held, chosen, decision, by=by, note=note)
    for warning in outcome.warnings:
        errors.print(warning, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print_json(outcome.as_json())
    else:
        print_decisions(console, outcome)


def deliver(
    held: Annotated[
        bool, typer.Option("--held", help="Send what was held and is approved, and nothing else.")
    ] = False,
    destination: Destination = None,
    as_json: AsJson = False,
) -> None:
    """Send what the current plan still has open: after an outage, or what was held and approved."""
    from kundenkreis import activation
    from kundenkreis.connections import connection_from_environment
    from kundenkreis.settings import load_settings
    from kundenkreis.warehouse import ACTIVATOR
    from kundenkreis.warehouse.roles import dsn_as

    settings = load_settings()
    use_sandbox_if_nothing_else()
    dsn = dsn_as(migrated_warehouse(), ACTIVATOR)
    publication_id = _current_publication(dsn)
    _known_destination(destination, settings.destinations)
    run_id = f"by hand {datetime.now(UTC):%Y-%m-%dT%H:%M:%S}, process {os.getpid()}"
    sent = [
        activation.deliver(
            name,
            settings,
            connection_from_environment,
            dsn,
            run_id,
            publication_id,
            lambda line: errors.print(line, markup=False, highlight=False),
            held=held,
        )
        for name in ([destination] if destination else settings.destinations)
    ]
    if as_json:
        print_json({"publication_id": publication_id, "deliveries": sent})
    else:
        print_sent(console, sent, held=held)


def deliveries(
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Show what the tools refuse, and when it is retried.")
    ] = False,
    destination: Destination = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the last deliveries, or with --rejected the rows that the tools refuse."""
    from kundenkreis.activation import deliveries as found
    from kundenkreis.settings import load_settings

    _known_destination(destination, load_settings().destinations)
    dsn = migrated_warehouse()
    if rejected:
        rows = found.rejected_rows(dsn, destination, limit)
    else:
        rows = found.recent_deliveries(dsn, destination, limit)
    if as_json:
        print_json(rows)
    elif rejected:
        print_rejected(console, rows)
    else:
        print_deliveries(console, rows)


def explain(
    customer: Annotated[
        str, typer.Argument(help="A customer id, a source's id of a record, or an address.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show why a customer is in this stage and these segments, event by event."""
    from kundenkreis import explain as explaining
    from kundenkreis.settings import load_settings

    found = explaining.explain(migrated_warehouse(), load_settings(), customer)
    if as_json:
        print_json(found)
    else:
        print_explanation(console, found)


@segments_app.command("preview")
def segments_preview(keys: Keys = None, as_json: AsJson = False) -> None:
    """Show how large segments would be, edited and new ones too, and who would join and leave."""
    from kundenkreis import segments_preview as previewing
    from kundenkreis.settings import load_settings

    found = previewing.preview(migrated_warehouse(), load_settings(), keys or [])
    if as_json:
        print_json(found)
    else:
        print_preview(console, found)


@segments_app.command("overlap")
def segments_overlap(
    keys: Keys = None,
    contactable: Annotated[
        bool, typer.Option("--contactable", help="Count only who may be written to.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show how many members each two segments share."""
    from kundenkreis import segments_preview as previewing
    from kundenkreis.settings import load_settings

    found = previewing.overlap(
        migrated_warehouse(), load_settings(), keys or [], contactable=contactable
    )
    if as_json:
        print_json(found)
    else:
        print_overlap(console, found)


def _current_publication(dsn: str) -> int:
    from kundenkreis.warehouse.connection import connect
    from kundenkreis.warehouse.publish import current_publication

    with connect(dsn) as connection:
        publication = current_publication(connection)
    if publication is None:
        raise KundenkreisError("Nothing was published yet. `kundenkreis run` runs a night.")
    return publication.publication_id


def _known_destination(name: str | None, known: dict[str, Any]) -> None:
    if name is not None and name not in known:
        raise KundenkreisError(
            f"--destination: '{name}' is not connected. Connected are: "
            f"{', '.join(known) or 'none'} (destinations.yml)."
        )
