"""The `kundenkreis` command. Every command has `--json` where its answer is data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, NoReturn

import psycopg
import typer

from kundenkreis import cli_activation, cli_privacy
from kundenkreis.cli_support import (
    AsJson,
    console,
    errors,
    migrated_warehouse,
    person,
    print_json,
    start_warehouse_if_embedded,
    use_sandbox_if_nothing_else,
)
from kundenkreis.errors import KundenkreisError
from kundenkreis.redaction import first_lines
from kundenkreis.terminal import (
    NightWatch,
    detached_console,
    print_findings,
    print_gate_trend,
    print_incidents,
    print_night,
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
airflow_app = typer.Typer(help="What Airflow needs before its first night.")
quarantine_app = typer.Typer(help="Rows that could not be used: look at them, and work them off.")
alerts_app = typer.Typer(help="Who is told what goes wrong: open incidents, and trials.")
app.add_typer(airflow_app, name="airflow")
app.add_typer(quarantine_app, name="quarantine")
app.add_typer(alerts_app, name="alerts")
app.add_typer(warehouse_app, name="warehouse")
app.add_typer(sandbox_app, name="sandbox")
cli_privacy.register(app)

AsOfDays = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="DATE[..DATE]",
        help="The day to compute (2026-01-31), or days one after another (2026-01-01..2026-01-31).",
    ),
]


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
        start_warehouse_if_embedded()
        use_sandbox_if_nothing_else()
        _run_night(days[0] if days else None, as_json)


@app.command()
def demo(
    customers: Annotated[int, typer.Option(help="People the sandbox knows.")] = 5000,
    seed: Annotated[int, typer.Option(help="Another seed makes another shop.")] = 7,
    advance: Annotated[int, typer.Option(help="Days to move the sandbox on first.")] = 0,
) -> None:
    """Start the warehouse and the sandbox, and run a night over them."""
    from kundenkreis import sandbox_control

    start_warehouse_if_embedded()
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
        print_json(report)
    elif report["run_id"] is None:
        console.print("No night has run yet. `kundenkreis run` runs one.")
    else:
        print_night(console, report)


@app.command()
def doctor(
    everything: Annotated[bool, typer.Option("--all", help="Show what is fine as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look for what would make a night fail, with the fix of each. Changes nothing.

    Exit code 1 where something is an error.
    """
    from kundenkreis.doctor import examine

    with suppress(KundenkreisError):  # a mistake in the config is a finding
        use_sandbox_if_nothing_else()
    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_findings(console, findings, everything)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


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
        print_json(rows)
    elif not rows:
        console.print("Every expectation was met in its last 14 runs.")
    else:
        print_gate_trend(console, rows, of_one=expectation is not None)


# plan, approve, reject, deliver, deliveries, explain, segments
cli_activation.add_commands(app)


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
    done = roll_back(dsn_as(dsn, TRANSFORMER), person(by), wait_minutes=wait_minutes())
    if as_json:
        print_json(asdict(done))
    else:
        print_rollback(console, done)


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
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 (no shell)


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
    with connect(migrated_warehouse()) as connection:
        found, count = releases.find(connection, wanted, limit)
    rows = [{**asdict(record), "record_key": redact(record.record_key or "")} for record in found]
    for row in rows:
        del row["payload"], row["release_note"]
    if as_json:
        print_json({"records": rows, "count": count})
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

    with connect(migrated_warehouse()) as connection:
        found = releases.find_one(connection, record)
        history = releases.releases_of(connection, found.record_hash)
    row = asdict(found)
    if not unmasked:
        row["payload"] = releases.shape_of(row["payload"])
        row["record_key"] = redact(row["record_key"] or "")
        history = [{**one, "corrections": releases.shape_of(one["corrections"])} for one in history]
    if as_json:
        print_json({**row, "releases": history})
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
    values, who, settings = parse_corrections(corrections or []), person(by), load_settings()
    if values and len(set(records)) > 1:
        raise KundenkreisError("--set corrects one record at a time; release them one by one.")
    with connect(migrated_warehouse()) as connection:
        found = [releases.find_one(connection, record) for record in dict.fromkeys(records)]
        for one in found:
            release(connection, one, values, settings, who, note.strip())
    if as_json:
        print_json({"released": [one.record_hash for one in found]})
    else:
        names = ", ".join(one.record_hash[:12] for one in found)
        console.print(f"Released: {names}. Back in the next night.", highlight=False)


@alerts_app.command("list")
def alerts_list(as_json: AsJson = False) -> None:
    """List the incidents that are open, with what to do."""
    from kundenkreis.alerts.incidents import open_incidents
    from kundenkreis.warehouse.connection import connect

    with connect(migrated_warehouse()) as connection:
        incidents = open_incidents(connection)
    if as_json:
        print_json(incidents)
    else:
        print_incidents(console, incidents)


@alerts_app.command("test")
def alerts_test(
    channel: Annotated[str, typer.Argument(help="Its name in alerts.yml.")],
) -> None:
    """Send a message to a channel, as an incident would be told."""
    from kundenkreis.alerts.channels import Message
    from kundenkreis.settings import load_settings

    settings = load_settings()
    if channel not in settings.alerts.channels:
        known = ", ".join(settings.alerts.channels) or "none"
        raise KundenkreisError(
            f"{settings.folder / 'alerts.yml'} has no channel '{channel}'. It has: {known}."
        )
    message = Message(
        "test",
        "opened",
        f"Test of channel {channel}",
        "This is how Kundenkreis tells that something needs you.\n\nNext: nothing; it was a test.",
    )
    _send_alert()(settings.alerts.channels[channel], message)
    console.print(f"Channel '{channel}' took the message.", highlight=False)


@alerts_app.command("send")
def alerts_send(as_json: AsJson = False) -> None:
    """Send the messages that a channel did not take before."""
    from kundenkreis.alerts.sending import send_pending
    from kundenkreis.settings import load_settings
    from kundenkreis.warehouse.connection import connect

    settings = load_settings()
    with connect(migrated_warehouse()) as connection:
        counts = send_pending(connection, settings.alerts, _send_alert(), errors.print)
    if as_json:
        print_json(counts)
    else:
        console.print(f"{counts['sent']} sent, {counts['failed']} not taken.", highlight=False)
    if counts["failed"]:
        raise typer.Exit(1)


def _send_alert() -> Any:
    """Sends by Airflow's notifiers, which need Airflow's settings but nothing of it running."""
    from kundenkreis.airflow_home import airflow_environment

    os.environ.update(airflow_environment("sqlite://"))
    from kundenkreis.operators import alerts

    return alerts.send_and_explain


@app.command()
def up(port: Annotated[int, typer.Option(help="Port of Airflow's UI.")] = 8080) -> None:
    """Start Airflow itself, with its UI, over the warehouse; Ctrl-C stops it."""
    from kundenkreis import airflow_server

    start_warehouse_if_embedded()
    use_sandbox_if_nothing_else(until_yesterday=True)
    raise typer.Exit(airflow_server.serve(console, port))


@airflow_app.command("init")
def airflow_init() -> None:
    """Create what is missing in Airflow's database: tables, pools, the first login.

    Safe at any time. The login is added where Airflow keeps logins in its database and
    KUNDENKREIS_ADMIN_PASSWORD is set.
    """
    from kundenkreis import airflow_init, airflow_server
    from kundenkreis.pools import needed_pools
    from kundenkreis.settings import load_settings

    environment = {**airflow_server.environment(), **os.environ}
    airflow_init.initialise(needed_pools(load_settings()), environment, console.print)


@airflow_app.command("pools")
def airflow_pools(as_json: AsJson = False) -> None:
    """Check that Airflow has a pool for each vendor account; exit code 1 where one is missing."""
    from kundenkreis import airflow_init, airflow_server
    from kundenkreis.pools import needed_pools
    from kundenkreis.settings import load_settings

    states = airflow_init.pool_states(
        needed_pools(load_settings()), {**airflow_server.environment(), **os.environ}
    )
    if as_json:
        print_json([asdict(state) for state in states])
    else:
        for state in states:
            found = "is missing" if state.slots is None else f"slots: {state.slots}"
            console.print(f"{state.name:32} {found}", highlight=False)
    if any(state.slots is None for state in states):
        raise KundenkreisError(
            "Tasks of a missing pool are never started. `kundenkreis airflow init` creates it."
        )


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
        print_json({"roles": roles.ROLES, **asdict(granted)})
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
    completed = subprocess.run(command, env=environment, check=False)  # noqa: S603 (no shell)
    raise typer.Exit(completed.returncode)


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
        print_json(reports)
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
        print_json({"state": "success" if outcome.succeeded else "failed", **report})
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
