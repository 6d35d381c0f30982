"""`kundenkreis erase`, `erasures`, `export-person` and `retention`.

A person is named by customer id or address. An address may come from standard input or a prompt, so
that it is in no shell history; nothing here repeats it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from kundenkreis.cli_support import (
    AsJson,
    console,
    errors,
    migrated_warehouse,
    person,
    print_json,
    use_sandbox_if_nothing_else,
)
from kundenkreis.errors import KundenkreisError
from kundenkreis.terminal import new_table

erasures_app = typer.Typer(help="Erasures: their certificates, and going on with pending ones.")

Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="[CUSTOMER|ADDRESS]",
        help="Customer id or address; without it, it is read from standard input or asked for.",
    ),
]
By = Annotated[str | None, typer.Option("--by", help="Who asks; by default the login name.")]
WaitMinutes = Annotated[
    float, typer.Option(min=0, help="How long to wait for a night that is being built.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(erase)
    app.command("export-person")(export_person)
    app.command()(retention)
    app.add_typer(erasures_app, name="erasures")


def erase(
    subject: Subject = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only count what there is, place by place.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask again.")] = False,
    effective: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="The last day whose records stay out (2026-01-31); by default now.",
        ),
    ] = None,
    by: By = None,
    wait_minutes: WaitMinutes = 60,
    as_json: AsJson = False,
) -> None:
    """Erase a person from the warehouse and every email tool; orders stay, as nobody's.

    A tool that does not answer leaves the erasure pending: the next night, or `kundenkreis erasures
    resume`, goes on with it.
    """
    from kundenkreis.privacy import erasure

    errand = _errand(wait_minutes, quiet=as_json)
    wanted = _subject(subject)
    moment = _end_of_day(effective, errand.settings)
    found = erasure.preview(errand, wanted)
    if dry_run:
        _print_preview(found, as_json)
        return
    if not yes:
        if not sys.stdin.isatty():
            raise KundenkreisError(
                "Nobody is there to confirm. Look at it with --dry-run, then say --yes."
            )
        _print_preview(found, as_json=False)
        typer.confirm("Erase this person? It cannot be undone", abort=True, err=True)
    _print_certificate(erasure.erase(errand, wanted, person(by), effective_at=moment), as_json)


@erasures_app.command("list")
def erasures_list(as_json: AsJson = False) -> None:
    """List erasures, the newest first. Their certificates hold no personal data."""
    from kundenkreis.privacy import erasure
    from kundenkreis.warehouse.connection import connect

    with connect(migrated_warehouse()) as connection:
        found = erasure.certificates(connection)
    if as_json:
        print_json([erasure.as_json(one) for one in found])
        return
    if not found:
        console.print("Nobody was erased.")
        return
    table = new_table("id", "why", "when", "by", "state", "open", "addresses", "records", "orders")
    for one in found:
        waiting = [name for name, place in one.places.items() if place["state"] == "pending"]
        table.add_row(
            str(one.erasure_id),
            one.kind,
            f"{one.requested_at:%Y-%m-%d %H:%M}",
            one.requested_by,
            one.state,
            ", ".join(waiting),
            *map(str, (one.addresses, one.records, one.orders)),
        )
    console.print(table)


@erasures_app.command("show")
def erasures_show(
    erasure_id: Annotated[int, typer.Argument(help="As listed.")], as_json: AsJson = False
) -> None:
    """Show the certificate of an erasure, place by place."""
    from kundenkreis.privacy import erasure
    from kundenkreis.warehouse.connection import connect

    with connect(migrated_warehouse()) as connection:
        _print_certificate(erasure.certificate(connection, erasure_id), as_json)


@erasures_app.command("resume")
def erasures_resume(
    erasure_id: Annotated[
        int | None, typer.Argument(help="As listed; all pending ones without it.")
    ] = None,
    wait_minutes: WaitMinutes = 60,
    as_json: AsJson = False,
) -> None:
    """Go on with erasures that are pending: a tool was down, or the process was killed."""
    from kundenkreis.privacy import erasure
    from kundenkreis.warehouse.connection import connect

    errand = _errand(wait_minutes, quiet=as_json)
    with connect(errand.dsn) as connection:
        wanted = erasure.pending(connection) if erasure_id is None else [erasure_id]
    found = [erasure.resume(errand, one) for one in wanted]
    if as_json:
        print_json([erasure.as_json(one) for one in found])
        return
    if not found:
        console.print("No erasure is pending.")
    for one in found:
        _print_certificate(one, as_json=False)


@erasures_app.command("settle")
def erasures_settle(
    erasure_id: Annotated[int, typer.Argument(help="As listed.")],
    destination: Annotated[str, typer.Argument(help="The email tool, as in destinations.yml.")],
    as_json: AsJson = False,
) -> None:
    """Tick off an email tool in which the contact was deleted by hand."""
    from kundenkreis.privacy import erasure

    errand = _errand(60, quiet=as_json)
    _print_certificate(erasure.settle_by_hand(errand, erasure_id, destination), as_json)


def export_person(
    subject: Subject = None,
    output: Annotated[
        Path | None,
        typer.Option(help="A new file, which only you may read; by default standard output."),
    ] = None,
) -> None:
    """Write everything that is held about a person as JSON, with what each place holds it for."""
    from kundenkreis.privacy.export import export_person as export
    from kundenkreis.privacy.export import write_private
    from kundenkreis.warehouse.connection import connect

    wanted = _subject(subject)
    with connect(migrated_warehouse(), application_name="kundenkreis export") as connection:
        copy = export(connection, wanted)
    if output is None:
        print_json(copy)
        return
    write_private(output, copy)
    for schema, held in copy["places"].items():
        rows = sum(map(len, held["tables"].values()))
        console.print(f"{schema:20} {rows:6,} rows  {held['purpose']}", highlight=False)
    console.print(f"Written to {output}, readable by you only.", highlight=False, soft_wrap=True)


def retention(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what is due.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="DATE", help="The day to reckon from; by default yesterday."
        ),
    ] = None,
    by: By = None,
    wait_minutes: WaitMinutes = 60,
    as_json: AsJson = False,
) -> None:
    """Remove what is older than retention.yml allows; every night does so by itself."""
    from kundenkreis.privacy.retention import apply_retention

    errand = _errand(wait_minutes, quiet=as_json)
    yesterday = datetime.now(errand.settings.model.zone).date() - timedelta(days=1)
    found = apply_retention(
        errand, _date(as_of) if as_of else yesterday, by=person(by), dry_run=dry_run
    )
    if as_json:
        print_json(found)
        return
    table = new_table("what", "rows due" if dry_run else "rows removed or emptied")
    for name, rows in found.items():
        table.add_row(name.replace("_", " "), f"{rows:,}")
    console.print(table)


# --------------------------------------------------------------------------- shared


def _errand(wait_minutes: float, *, quiet: bool) -> Any:
    from kundenkreis.connections import connection_from_environment
    from kundenkreis.privacy.erasure import Errand
    from kundenkreis.settings import load_settings

    settings = load_settings()
    use_sandbox_if_nothing_else()

    def progress(line: str) -> None:
        if not quiet:
            errors.print(line, highlight=False, markup=False)

    return Errand(
        migrated_warehouse(),
        settings,
        connection_from_environment,
        progress,
        wait_seconds=wait_minutes * 60,
    )


def _subject(given: str | None) -> str:
    """Whom a command is about: given, read from standard input, or asked for."""
    if given is not None and given != "-":
        text = given
    elif sys.stdin.isatty():
        text = typer.prompt("Customer id or address", err=True)
    else:
        text = sys.stdin.readline()
    if not text.strip():
        raise KundenkreisError(
            "Say who: a customer id as in marts.customers, or an address, on standard input or as "
            "an argument."
        )
    return text.strip()


def _end_of_day(text: str | None, settings: Any) -> datetime | None:
    if text is None:
        return None
    day = _date(text) + timedelta(days=1)
    moment = datetime.combine(day, time(), settings.model.zone) - timedelta(microseconds=1)
    return min(moment.astimezone(UTC), datetime.now(UTC))


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise KundenkreisError(f"'{text}' is no date; write it as 2026-01-31.") from None


def _print_preview(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    sizes = ", ".join(f"{found[name]} {name}" for name in ("customers", "addresses", "records"))
    console.print(f"{sizes}; {found['orders']} orders stay, as nobody's.", highlight=False)
    table = new_table("place", "table", "rows")
    for place, tables in found["places"].items():
        for name, rows in tables.items():
            table.add_row(place, name, f"{rows:,}")
    console.print(table)


def _print_certificate(found: Any, as_json: bool) -> None:
    from kundenkreis.privacy import erasure

    if as_json:
        print_json(erasure.as_json(found))
        return
    console.print(
        f"Erasure {found.erasure_id} is {found.state}; {found.orders} orders stay, as nobody's.",
        highlight=False,
    )
    table = new_table("place", "state", "rows", "outcome")
    for name, place in found.places.items():
        outcome = place["outcome"] or place["last_error"] or ""
        table.add_row(name, place["state"], f"{sum(place['rows'].values()):,}", outcome)
    console.print(table)
    if found.state == "pending":
        console.print(
            f"Go on with `kundenkreis erasures resume {found.erasure_id}`; the next night does so "
            "as well.",
            highlight=False,
            soft_wrap=True,
        )
