"""The `kundenkreis` command. Every command has `--json` where its answer is data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, NoReturn

import psycopg
import typer
from rich.console import Console

from kundenkreis import cli_privacy
from kundenkreis.errors import KundenkreisError
from kundenkreis.redaction import first_lines
from kundenkreis.terminal import (
    NightWatch,
    detached_console,
    print_gate_trend,
    print_night,
    print_plan,
    print_quarantine,
    print_record,
    print_rollback,
)

app = typer.Typer(
    help="Customer lifecycle segments, built nightly and kept in step with your email tools.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
warehouse_app = typer.Typer(help="The warehouse: the embedded PostgreSQL, or your own.")
sandbox_app = typer.Typer(help="A shop, a CRM and two email tools on this machine, to try it on.")
quarantine_app = typer.Typer(help="Rows that could not be used: look at them, and work them off.")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(warehouse_app, name="warehouse")
app.add_typer(sandbox_app, name="sandbox")
cli_privacy.register(app)

console = Console()
errors = Console(stderr=True)

AsOfDays = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="DATE[..DATE]",
        help="The day to compute (2026-01-31), or days one after another (2026-01-01..2026-01-31).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Entry point: turns our own errors, and the database's, into one message and exit code 1."""
    try:
        app()
    except KundenkreisError as error:
        _fail(type(error).__name__, str(error))
    except psycopg.Error as error:
        _fail("WarehouseError", f"PostgreSQL refused: {first_lines(str(error))}")


def _fail(kind: str, message: str) -> NoReturn:
    errors.print(f"[bold red]{kind}[/]: ", end="")
    errors.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


@app.command()
def run(as_of: AsOfDays = None, as_json: AsJson = False) -> None:
    """Run one night in this process: the real DAG, start to end.

    A day before the published one fills history; nothing is published or sent for it.
    """
    days = _days(as_of)
    if len(days) > 1:
        _run_nights(days, as_json)
    else:
        _start_warehouse_if_embedded()
        _use_sandbox_if_nothing_else()
        _run_night(days[0] if days else None, as_json)


@app.command()
def demo(
    customers: Annotated[int, typer.Option(help="People the sandbox knows.")] = 5000,
    seed: Annotated[int, typer.Option(help="Another seed makes another shop.")] = 7,
    advance: Annotated[int, typer.Option(help="Days to move the sandbox on first.")] = 0,
) -> None:
    """Start the warehouse and the sandbox, and run a night over them."""
    from kundenkreis import sandbox_control

    _start_warehouse_if_embedded()
    state = sandbox_control.start(customers=customers, seed=seed)
    if advance:
        state = sandbox_control.advance(advance)
    os.environ.update(state.connections)
    console.print(
        f"Sandbox: a shop, a CRM and two email tools on port {state.port}, "
        f"up to and including {state.until}."
    )
    _run_night(state.until, as_json=False)
    console.print(
        "\nNext: [bold]make up[/] for Airflow's UI, [bold]make demo ADVANCE=1[/] for the night "
        "after, [bold].venv/bin/kundenkreis warehouse psql[/] to look at the tables."
    )


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the last run, what readers see, and what was sent."""
    from kundenkreis import status as statuses
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    report = statuses.status(dsn)
    if as_json:
        _print_json(report)
    elif report["run_id"] is None:
        console.print("No night has run yet. `kundenkreis run` runs one.")
    else:
        print_night(console, report)


@app.command()
def gates(
    expectation: Annotated[
        str | None,
        typer.Argument(help="Its id, as in docs/gates.md: shows it run by run.", metavar="[ID]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which expectations of the gates were not met in their last 14 runs, and since when."""
    from kundenkreis.status import gate_trend
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    rows = gate_trend(dsn, expectation)
    if expectation is not None and not rows:
        raise KundenkreisError(
            f"No run has checked '{expectation}'. docs/gates.md has the ids; they begin with "
            "landing. or marts."
        )
    if as_json:
        _print_json(rows)
    elif not rows:
        console.print("Every expectation was met in its last 14 runs.")
    else:
        print_gate_trend(console, rows, of_one=expectation is not None)


@app.command()
def plan(as_json: AsJson = False) -> None:
    """Show what the current plan would send, to whom, in how many calls. Sends nothing."""
    from kundenkreis import activation
    from kundenkreis.settings import load_settings
    from kundenkreis.warehouse.connection import connect, warehouse_dsn
    from kundenkreis.warehouse.publish import current_publication
    from kundenkreis.warehouse.schema import ensure_schemas

    settings = load_settings()
    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    with connect(dsn) as connection:
        publication = current_publication(connection)
    if publication is None:
        raise KundenkreisError("Nothing was published yet. `kundenkreis run` runs a night.")
    activation.require_plannable(dsn, publication.publication_id)
    summary = activation.plan_summary(dsn, publication.publication_id, settings)
    if as_json:
        _print_json(summary)
    else:
        print_plan(console, publication.publication_id, summary)


@app.command()
def publish(
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Show the publication before the current one again.")
    ] = False,
    by: Annotated[
        str | None, typer.Option("--by", help="Who asks for it; by default the login name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take the current publication back: readers see the one before it again.

    Its history rows go with it, its colour is built in full by the next night, and nothing is sent
    until then. What was delivered stays in the ledger.
    """
    from kundenkreis.warehouse import TRANSFORMER
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.publish import wait_minutes
    from kundenkreis.warehouse.roles import dsn_as
    from kundenkreis.warehouse.rollback import roll_back
    from kundenkreis.warehouse.schema import ensure_schemas

    if not rollback:
        raise KundenkreisError(
            "Nights publish by themselves, after their gates: `kundenkreis run`. To show the "
            "publication before the current one again: `kundenkreis publish --rollback`."
        )
    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    done = roll_back(dsn_as(dsn, TRANSFORMER), _person(by), wait_minutes=wait_minutes())
    if as_json:
        _print_json(asdict(done))
    else:
        print_rollback(console, done)


def _person(named: str | None) -> str:
    """Who acts, for the record."""
    import getpass

    if named is not None and named.strip():
        return named.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise KundenkreisError("The login name cannot be told here; say --by NAME.") from None


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def dbt(context: typer.Context) -> None:
    """Run dbt by hand with the night's variables: `kundenkreis dbt build --select orders`.

    Builds the colour that is not published, as of the published date. A night that is under way
    is stopped by a command that builds: two builds never write the same tables.
    """
    from kundenkreis.warehouse import publish, roles
    from kundenkreis.warehouse.connection import connect, warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    with connect(dsn) as connection:
        published = publish.current_publication(connection)
        live = publish.live_schema(connection)
    day = published.as_of_date if published else datetime.now(UTC).date() - timedelta(days=1)
    if not set(context.args) & {"build", "run", "seed", "test", "snapshot", "retry"}:
        colour = publish.GREEN if live == publish.BLUE else publish.BLUE
        raise typer.Exit(_run_dbt(dsn, day, colour, context.args))
    run_id = f"by hand, process {os.getpid()}"
    colour = publish.begin_build(dsn, run_id, day, is_backfill=False)
    with publish.building(dsn, run_id, colour, console.print):
        publish.mark_dirty(dsn, colour, "it was built by hand")
        code = _run_dbt(dsn, day, colour, context.args)
        roles.keep(dsn)
    publish.end_build(dsn, run_id)
    raise typer.Exit(code)


def _run_dbt(dsn: str, day: date, colour: str, arguments: list[str]) -> int:
    from kundenkreis.settings import home, load_settings, repository_root
    from kundenkreis.warehouse.connection import connect, dbt_environment
    from kundenkreis.warehouse.dbt import night_vars
    from kundenkreis.warehouse.releases import released_exchange_rates

    with connect(dsn) as connection:
        rates = released_exchange_rates(connection)
    variables = night_vars(
        load_settings(), day, colour, publication_id=0, run_id="", released_exchange_rates=rates
    )
    project = repository_root() / "dbt_project"
    command = [
        *(sys.executable, "-m", "dbt.cli.main", *arguments),
        *("--project-dir", str(project), "--profiles-dir", str(project)),
        *("--target-path", str(home() / "dbt" / f"target_{colour}_by_hand")),
        *("--log-path", str(home() / "dbt" / "logs"), "--vars", json.dumps(variables)),
    ]
    environment = {**os.environ, **dbt_environment(dsn), "DO_NOT_TRACK": "1"}
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603


@quarantine_app.command("list")
def quarantine_list(
    source: Annotated[str | None, typer.Option(help="Only of this source.")] = None,
    table: Annotated[str | None, typer.Option(help="Only of this table.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason code.")] = None,
    state: Annotated[str, typer.Option(help="open, released, closed or all.")] = "open",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List rejected records, the newest first: where from, and why. Shows no personal data."""
    from kundenkreis.redaction import redact
    from kundenkreis.warehouse import releases
    from kundenkreis.warehouse.connection import connect

    states = {"open": "open", "released": "released", "closed": "closed", "all": None}
    if state not in states:
        raise KundenkreisError(f"--state: '{state}' is none of {', '.join(states)}.")
    wanted = releases.Filter(states[state], source, table, reason)
    with connect(_migrated_warehouse()) as connection:
        found, count = releases.find(connection, wanted, limit)
    rows = [{**asdict(record), "record_key": redact(record.record_key or "")} for record in found]
    for row in rows:
        del row["payload"], row["release_note"]
    if as_json:
        _print_json({"records": rows, "count": count})
    else:
        print_quarantine(console, rows, count, state)


@quarantine_app.command("show")
def quarantine_show(
    record: Annotated[str, typer.Argument(help="The record's first characters, as listed.")],
    unmasked: Annotated[
        bool, typer.Option("--unmasked", help="Show the values, personal data included.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show a record with its history. Of its values only the form is shown: letters x, digits 9."""
    from kundenkreis.redaction import redact
    from kundenkreis.warehouse import releases
    from kundenkreis.warehouse.connection import connect

    with connect(_migrated_warehouse()) as connection:
        found = releases.find_one(connection, record)
        history = releases.releases_of(connection, found.record_hash)
    row = asdict(found)
    if not unmasked:
        row["payload"] = releases.shape_of(row["payload"])
        row["record_key"] = redact(row["record_key"] or "")
        history = [{**one, "corrections": releases.shape_of(one["corrections"])} for one in history]
    if as_json:
        _print_json({**row, "releases": history})
    else:
        print_record(console, row, history)


@quarantine_app.command("release")
def quarantine_release(
    records: Annotated[list[str], typer.Argument(help="First characters of records, as listed.")],
    note: Annotated[str, typer.Option(help="Why the record is right, or what was put right.")],
    corrections: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Use this value; a field within another by its path (billing.country=DE), of a "
            "file's row the column.",
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", help="Who decides; by default the login name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let records come back in the next night, as they were kept or corrected.

    Each is checked at once by the rules of its source. All are released, or none.
    """
    from kundenkreis.quarantine_release import parse_corrections, release
    from kundenkreis.settings import load_settings
    from kundenkreis.warehouse import releases
    from kundenkreis.warehouse.connection import connect

    if not note.strip():
        raise KundenkreisError("--note: say why; it is kept with the release.")
    values, person, settings = parse_corrections(corrections or []), _person(by), load_settings()
    if values and len(set(records)) > 1:
        raise KundenkreisError("--set corrects one record at a time; release them one by one.")
    with connect(_migrated_warehouse()) as connection:
        found = [releases.find_one(connection, record) for record in dict.fromkeys(records)]
        for one in found:
            release(connection, one, values, settings, person, note.strip())
    if as_json:
        _print_json({"released": [one.record_hash for one in found]})
    else:
        names = ", ".join(one.record_hash[:12] for one in found)
        console.print(f"Released: {names}. Back in the next night.", highlight=False)


def _migrated_warehouse() -> str:
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    return dsn


@app.command()
def up(port: Annotated[int, typer.Option(help="Port of Airflow's UI.")] = 8080) -> None:
    """Start Airflow itself, with its UI, over the warehouse; Ctrl-C stops it."""
    from kundenkreis import airflow_server

    _start_warehouse_if_embedded()
    _use_sandbox_if_nothing_else(until_yesterday=True)
    raise typer.Exit(airflow_server.serve(console, port))


@warehouse_app.command("start")
def warehouse_start() -> None:
    """Start the embedded PostgreSQL and create what is missing in it."""
    from kundenkreis.warehouse import embedded
    from kundenkreis.warehouse.schema import ensure_schemas

    server = embedded.start()
    ensure_schemas(server.dsn(), again=True)
    console.print(f"PostgreSQL runs on 127.0.0.1:{server.port}, database warehouse.")


@warehouse_app.command("stop")
def warehouse_stop() -> None:
    """Stop the embedded PostgreSQL; its data stay."""
    from kundenkreis.warehouse import embedded

    console.print("Stopped." if embedded.stop() else "It was not running.")


@warehouse_app.command("url")
def warehouse_url() -> None:
    """Print the warehouse's URL, password included, for a BI tool or psql."""
    from kundenkreis.warehouse.connection import warehouse_dsn

    typer.echo(warehouse_dsn())


@warehouse_app.command("migrate")
def warehouse_migrate() -> None:
    """Create the schemas and tables that are missing. Safe at any time."""
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    ensure_schemas(warehouse_dsn(), again=True)
    console.print("The warehouse has everything it needs.")


@warehouse_app.command("roles")
def warehouse_roles(as_json: AsJson = False) -> None:
    """Create the roles for tasks, readers and personal data, with their rights. Safe at any time.

    From then on each task works under its own role.
    """
    from kundenkreis.warehouse import READER, SEES_PERSONAL_DATA, roles
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    granted = roles.create(dsn)
    if as_json:
        _print_json({"roles": roles.ROLES, **asdict(granted)})
        return
    for role, meaning in roles.ROLES.items():
        console.print(f"{role:24} {meaning}", highlight=False)
    for statement in granted.missing:
        console.print(
            f"This login may not run: {statement}; publishing then does not wait for long "
            "transactions of other users. Have an administrator run it.",
            soft_wrap=True,
        )
    console.print(
        "For a BI tool: create user bi password '...' in role "
        f"{READER}; where it may show personal data, in role {SEES_PERSONAL_DATA}.",
        soft_wrap=True,
        highlight=False,
    )


@warehouse_app.command(
    "psql", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def warehouse_psql(context: typer.Context) -> None:
    """Open psql on the warehouse; arguments go to psql."""
    from kundenkreis.warehouse import embedded
    from kundenkreis.warehouse.connection import warehouse_dsn

    program = embedded.client_program("psql")
    # By the environment, so that the password shows in no process list.
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(warehouse_dsn())
    environment = {
        **os.environ,
        "PGHOST": str(parts.get("host")),
        "PGPORT": str(parts.get("port")),
        "PGUSER": str(parts.get("user")),
        "PGPASSWORD": str(parts.get("password")),
        "PGDATABASE": str(parts.get("dbname")),
    }
    command = [str(program), *context.args]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603


@sandbox_app.command("start")
def sandbox_start(
    customers: Annotated[int, typer.Option(help="People the sandbox knows.")] = 5000,
    seed: Annotated[int, typer.Option(help="Another seed makes another shop.")] = 7,
) -> None:
    """Start the sandbox, or find it running."""
    from kundenkreis import sandbox_control

    state = sandbox_control.start(customers=customers, seed=seed)
    console.print(
        f"The sandbox runs on port {state.port}, up to and including {state.until}. "
        f"Its connections: {state.connections_file}"
    )


@sandbox_app.command("advance")
def sandbox_advance(days: Annotated[int, typer.Argument(min=1)] = 1) -> None:
    """Let days pass in the sandbox, so that the next night has changes."""
    from kundenkreis import sandbox_control

    console.print(f"It is the end of {sandbox_control.advance(days).until} in the sandbox.")


@sandbox_app.command("stop")
def sandbox_stop() -> None:
    """Stop the sandbox; its state stays."""
    from kundenkreis import sandbox_control

    console.print("Stopped." if sandbox_control.stop() else "It was not running.")


def _run_nights(days: list[date], as_json: bool) -> None:
    """One night after another, up to the first that fails.

    Each is a process of its own: Airflow takes its metadata database once.
    """
    reports = []
    for day in days:
        command = [sys.executable, "-m", "kundenkreis", "run", "--as-of", str(day)]
        completed = subprocess.run(  # noqa: S603 (our own program)
            [*command, *(["--json"] if as_json else [])],
            stdout=subprocess.PIPE if as_json else None,
            text=True,
            check=False,
        )
        if completed.stdout:
            reports.append(json.loads(completed.stdout))
        if completed.returncode:
            errors.print(f"Go on with --as-of {day}..{days[-1]}.", highlight=False)
            break
    if as_json:
        _print_json(reports)
    if completed.returncode:
        raise typer.Exit(completed.returncode)


def _run_night(as_of: date | None, as_json: bool) -> None:
    from kundenkreis import status as statuses
    from kundenkreis.local_run import run_night
    from kundenkreis.settings import load_settings
    from kundenkreis.warehouse.connection import warehouse_dsn
    from kundenkreis.warehouse.schema import ensure_schemas

    # A mistake in the config and an unreachable warehouse show before anything starts.
    load_settings()
    dsn = warehouse_dsn()
    ensure_schemas(dsn)
    watch = NightWatch(detached_console(2 if as_json else 1))
    try:
        outcome = run_night(as_of, watch)
    finally:
        watch.close()
    report = statuses.status(dsn)
    if as_json:
        _print_json({"state": "success" if outcome.succeeded else "failed", **report})
    elif report["run_id"] is not None:
        print_night(console, report)
    if not outcome.succeeded:
        for task_id, message in outcome.failed.items():
            errors.print(f"[bold red]{task_id} failed[/]: ", end="")
            errors.print(message, markup=False, highlight=False, soft_wrap=True)
        errors.print(
            f"The log of the whole run: {outcome.log}. What was published before stays; the next "
            "run continues where this one stopped.",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


def _start_warehouse_if_embedded() -> None:
    if os.environ.get("AIRFLOW_CONN_WAREHOUSE"):
        return
    from kundenkreis.warehouse import embedded

    embedded.start()


def _use_sandbox_if_nothing_else(until_yesterday: bool = False) -> None:
    """Take the running sandbox's connections where the environment names none of its own."""
    from kundenkreis import sandbox_control
    from kundenkreis.connections import environment_name
    from kundenkreis.settings import load_settings

    settings = load_settings()
    systems = [*settings.sources.values(), *settings.destinations.values()]
    wanted = {
        environment_name(system.connection) for system in systems if hasattr(system, "connection")
    }
    if not wanted or any(os.environ.get(name) for name in wanted):
        return
    if until_yesterday:
        state = sandbox_control.start()
        missing = (datetime.now(settings.model.zone).date() - timedelta(days=1) - state.until).days
        if missing > 0:
            state = sandbox_control.advance(missing)
    elif (running := sandbox_control.running()) is not None:
        state = running
    else:
        return
    # Not on the standard output, which may be JSON.
    errors.print(f"No connection is set: the sandbox on port {state.port} is used.")
    os.environ.update({name: state.connections[name] for name in wanted & set(state.connections)})


def _days(text: str | None) -> list[date]:
    """The days of ``--as-of``, in order; none where it is not given.

    Raises:
        KundenkreisError: it is neither a day nor a first and a last one.
    """
    if text is None:
        return []
    first, dots, last = text.partition("..")
    begin, end = _date(first), _date(last if dots else first)
    if end < begin:
        raise KundenkreisError(f"--as-of: {begin} comes after {end}; write the first day first.")
    return [begin + timedelta(days=days) for days in range((end - begin).days + 1)]


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise KundenkreisError(
            f"--as-of: '{text}' is no date; write it as 2026-01-31, or 2026-01-01..2026-01-31."
        ) from None


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
