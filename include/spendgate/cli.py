"""The command line: thin commands over the library, and one place where an error becomes one sentence."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from spendgate.errors import ConfigurationError, SpendGateError

if TYPE_CHECKING:
    from spendgate.api.accounts import Accounts

app = typer.Typer(
    help="SpendGate: click and budget events in, spend windows and can_serve flags out.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> NoReturn:
    """Run a command; an error is one sentence on stderr and exit status 1, with --debug its traceback too."""
    arguments = sys.argv[1:] or ["--help"]
    debug = "--debug" in arguments and arguments[:1] != ["test"]
    if debug:
        arguments = [argument for argument in arguments if argument != "--debug"]
        os.environ["SPENDGATE_DEBUG"] = "1"
    try:
        status = app(arguments, prog_name="./spendgate", standalone_mode=False)
    except SpendGateError as error:
        status = _fail(str(error), debug)
    except TyperException as error:  # Typer's own: it no longer raises those of the package click
        status = _fail(f"{error.format_message()} (see --help)", debug, 2)
    except (typer.Abort, KeyboardInterrupt):
        status = _fail("Stopped.", debug, 130)
    except BrokenPipeError:
        sys.stderr.close()
        status = 1
    except OSError as error:
        status = _fail(
            f"{error.strerror or error}: {error.filename or ''} - make room or mend that, then run again.", debug
        )
    except Exception as error:  # the last stop of anything we didn't foresee: still one sentence
        status = _fail(f"Unexpected {type(error).__name__}: {error} - run again with --debug and report it.", debug)
    sys.exit(status if isinstance(status, int) else 0)


def _fail(sentence: str, debug: bool, status: int = 1) -> int:
    if debug:
        traceback.print_exc()
    print(" ".join(sentence.split()), file=sys.stderr)
    return status


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"SpendGate 0.1.0 (Airflow {version('apache-airflow')})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions.")
    ] = False,
) -> None:
    """SpendGate: click and budget events in, spend windows and can_serve flags out.

    Every command takes --debug, which shows an error's traceback.
    """


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop everything at the end.")] = False,
    clicks: Annotated[int, typer.Option(min=1, help="Clicks in the sample day.")] = 200_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same day.")] = 7,
) -> None:
    """Run the whole job on a day of sample events and show spend and flags.

    Starts the local services, publishes a day of sample events to the broker, runs both DAGs in Airflow, prints
    what came out and leaves the UI up.

    Example: ./spendgate demo --once --clicks 50000
    """
    from spendgate.demo import run_demo
    from spendgate.settings import load_settings

    run_demo(load_settings(), once=once, clicks=clicks, seed=seed)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["--help"]}
)
def test(context: typer.Context) -> None:
    """Run lint, types, import rules, SQL rules and all tests; arguments go to pytest (and skip the rest).

    Example: ./spendgate test tests/test_events.py -k money
    """
    from spendgate.suite import run_suite

    raise typer.Exit(run_suite(context.args))


@app.command()
def up(
    airflow: Annotated[bool, typer.Option(help="Start Airflow too.")] = True,
    schedule: Annotated[
        bool, typer.Option(help="Unpause the DAGs: events are followed within seconds, and read hourly.")
    ] = True,
) -> None:
    """Start the local warehouse, broker and Airflow, and bring the schema up to date.

    With --no-schedule DAGs stay as they are; new ones are paused until you unpause them in the UI.

    Example: ./spendgate up --no-airflow
    """
    from spendgate.settings import load_settings
    from spendgate.start import start_services

    start_services(load_settings(), airflow=airflow, schedule=schedule)


@app.command()
def down() -> None:
    """Stop every local service; data stays.

    Example: ./spendgate down
    """
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import tell

    services.down(load_settings(), tell)
    tell("Everything is stopped.")


@app.command()
def status() -> None:
    """Say what is healthy and where, how fresh the data is, and whether the numbers agree.

    Exit status 1 when anything isn't well.

    Example: ./spendgate status
    """
    from spendgate.settings import load_settings
    from spendgate.status import show_status

    raise typer.Exit(0 if show_status(load_settings()) else 1)


@app.command()
def migrate(
    to: Annotated[
        str, typer.Option(metavar="REVISION", help="Go up or back to this revision; the newest unless told.")
    ] = "head",
) -> None:
    """Bring the warehouse to the newest schema.

    Going back removes what later revisions added; the version that goes with the older one makes its views by its own
    migrate.

    Example: ./spendgate migrate
    """
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import say
    from spendgate.warehouse import schema
    from spendgate.warehouse.engine import Warehouse
    from spendgate.warehouse.row_versioning import turn_on_row_versioning

    warehouse = Warehouse(services.warehouse_url(load_settings()))
    if advice := turn_on_row_versioning(warehouse):
        say(advice)
    before, now = schema.migrate(warehouse, to)
    say(f"The warehouse is at revision {now}" + (" already." if before == now else f" (was {before})."))


@app.command()
def env(
    file: Annotated[Path | None, typer.Option(help="Where to; .env beside docker-compose.yaml unless told.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file, and so forget its secrets.")] = False,
) -> None:
    """Write a .env with fresh secrets for docker-compose.yaml; only its owner may read it.

    Example: ./spendgate env
    """
    from spendgate.secrets_file import SECRETS, write_secrets
    from spendgate.settings import ROOT

    path = (file or ROOT / ".env").absolute()
    write_secrets(path, force=force)
    typer.echo(f"Wrote {path}: {len(SECRETS)} secrets. Keep it, and start production with docker-compose up -d.")


@app.command()
def init(
    airflow: Annotated[
        bool, typer.Option("--airflow", help="Airflow's metadata, connections and user admin too.")
    ] = False,
) -> None:
    """Make what production needs: database, logins, schema, users, topics. What is there already stays.

    Example: ./spendgate init --airflow
    """
    from spendgate.provision import provision
    from spendgate.settings import load_settings
    from spendgate.show import tell

    provision(load_settings(), airflow=airflow, report=tell)
    tell("Everything is ready.")


@app.command()
def publish(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines, one event each; - for standard input.")],
    stream: Annotated[
        str | None, typer.Option(help="Send every non-empty line to this stream byte for byte, valid or not.")
    ] = None,
) -> None:
    """Send events to their streams by event_type, keyed by advertiser.

    A line that can't be routed stops it with its line number before anything is sent.

    Example: ./spendgate publish events.jsonl
    """
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import counted, progress, say
    from spendgate.streams.publish_file import publish_file

    settings = load_settings()
    source = sys.stdin.buffer if file == "-" else Path(file)
    with progress("publishing") as tick:
        sent = publish_file(source, services.endpoints(settings), stream=stream, progress=tick)
    say(f"Sent: {counted(sent)}")


@app.command()
def run(
    as_of: Annotated[
        str | None, typer.Option(metavar="TIME", help="Decide flags at this instant; now unless told.")
    ] = None,
) -> None:
    """Run the ingest DAG, then the build DAG, in this process.

    Example: ./spendgate run --as-of 2026-11-21T18:00:00Z
    """
    from spendgate.clock import parse_instant
    from spendgate.run import run_once
    from spendgate.settings import load_settings

    run_once(load_settings(), parse_instant(as_of) if as_of else None)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="The warehouse's own SQL, or T-SQL.")],
    output: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Run a read-only query on the warehouse.

    Example: ./spendgate query "SELECT TOP 5 * FROM ads.CurrentServing ORDER BY spent_today DESC"
    """
    from spendgate.local import services
    from spendgate.query import run_query
    from spendgate.settings import load_settings
    from spendgate.show import Format, show_rows
    from spendgate.warehouse.engine import Warehouse

    if output not in list(Format):
        raise ConfigurationError(f"--format is table, csv or json, not {output!r}.")
    columns, rows = run_query(Warehouse(services.warehouse_url(load_settings())), sql)
    show_rows(columns, [list(row) for row in rows], Format(output))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="api, freshness, gate, ingest or spend.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    clicks: Annotated[int, typer.Option(min=1000, help="Clicks (spend: a day).")] = 1_000_000,
    days: Annotated[int, typer.Option(min=1, help="Days of history (spend only).")] = 30,
    tries: Annotated[int, typer.Option(min=1, help="Clicks that are waited for (freshness only).")] = 20,
    stream: Annotated[str, typer.Option(help="kafka, eventhub or files: what is read (ingest only).")] = "kafka",
    warehouse: Annotated[
        str | None, typer.Option(help="URL of an empty database, which is emptied again (ingest only).")
    ] = None,
    flags: Annotated[int, typer.Option(min=10, help="Flags in the table (api only).")] = 100_000,
    soak: Annotated[
        int, typer.Option(min=0, help="50 clients for so many seconds while builds run, instead (api only).")
    ] = 0,
    unzipped: Annotated[bool, typer.Option(help="These clients take lists as they are, not gzipped.")] = False,
) -> None:
    """Measure against limits of the same run, on services of its own in a temporary home.

    Example: ./spendgate bench ingest --stream files --json
    """
    from spendgate.bench import run_benchmark

    sizes = {"clicks": clicks, "days": days, "tries": tries, "flags": flags, "soak": soak}
    run_benchmark(name, **sizes, as_json=as_json, stream=stream, warehouse=warehouse, unzipped=unzipped)


@app.command()
def api() -> None:
    """Serve the budget API alone, without Airflow, on SPENDGATE_API_HOST and SPENDGATE_API_PORT.

    In Airflow the same API is mounted under /budget. Its description is at /budget/v1/docs.

    Example: ./spendgate api
    """
    from spendgate.api.serve import serve
    from spendgate.settings import load_settings
    from spendgate.show import say

    serve(load_settings(), say)


users = typer.Typer(help="People who may log in to the API.")
app.add_typer(users, name="users")
keys = typer.Typer(help="Keys of programs that call the API.")
app.add_typer(keys, name="keys")

_Advertiser = Annotated[int | None, typer.Option("--advertiser", metavar="ID", help="Sees this advertiser only.")]
_Staff = Annotated[bool, typer.Option("--staff", help="Sees all advertisers.")]


def _accounts() -> Accounts:
    from spendgate.api.accounts import Accounts
    from spendgate.clock import utc_now
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    return Accounts(Warehouse(services.warehouse_url(load_settings())), utc_now)


def _ask_password() -> str:
    """The password, typed twice on a terminal, else the first line of standard input: never an argument."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")


@users.command("add")
def add_user(
    username: Annotated[str, typer.Argument(help="Name to log in with.")],
    email: Annotated[str, typer.Option(help="E-mail address; one may log in with it too.")],
    first_name: Annotated[str, typer.Option(help="First name.")] = "",
    last_name: Annotated[str, typer.Option(help="Last name.")] = "",
    advertiser: _Advertiser = None,
    staff: _Staff = False,
) -> None:
    """Add a user; the password is asked for, or read from standard input.

    Example: ./spendgate users add maria --email maria@example.com --advertiser 1307
    """
    from spendgate.api.accounts import NewUser

    user = NewUser(username, email, first_name, last_name, advertiser, staff)
    typer.echo(f"User {_accounts().add_user(user, _ask_password())} is added: {username.strip().lower()}.")


@users.command("list")
def list_users() -> None:
    """List the users.

    Example: ./spendgate users list
    """
    from spendgate.show import show_rows

    columns, rows = _accounts().users()
    show_rows(columns, [list(row) for row in rows])


@users.command("disable")
def disable_user(username: Annotated[str, typer.Argument(help="The user's name.")]) -> None:
    """Refuse a user from now on, also with tokens that are out.

    Example: ./spendgate users disable maria
    """
    _accounts().disable_user(username)
    typer.echo(f"User {username} is disabled; set-password enables it again.")


@users.command("set-password")
def set_password(username: Annotated[str, typer.Argument(help="The user's name.")]) -> None:
    """Give a user another password, enable it, and end its log-ins.

    Example: ./spendgate users set-password maria
    """
    _accounts().set_password(username, _ask_password())
    typer.echo(f"User {username} has another password; its log-ins are ended.")


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="flags, budgets, spend or catalog; may be repeated; flags unless told.")
    ] = None,
    advertiser: _Advertiser = None,
    staff: _Staff = False,
    days: Annotated[
        float | None, typer.Option(min=0.001, help="It expires after so many days; never unless told.")
    ] = None,
) -> None:
    """Make a key and print it: it is shown this once.

    Example: ./spendgate keys add "ad server" --staff --scope flags --days 365
    """
    from spendgate.api.identity import Scope

    wanted = scope or ["flags"]
    if extra := sorted(set(wanted) - set(Scope)):
        raise ConfigurationError(f"--scope is one of {', '.join(Scope)}, not {', '.join(extra)}.")
    made = [Scope(one) for one in wanted]
    typer.echo(_accounts().add_key(name, made, advertiser_id=advertiser, is_staff=staff, days=days))


@keys.command("list")
def list_keys() -> None:
    """List the keys, without what is secret of them.

    Example: ./spendgate keys list
    """
    from spendgate.show import show_rows

    columns, rows = _accounts().keys()
    show_rows(columns, [list(row) for row in rows])


@keys.command("revoke")
def revoke_key(prefix: Annotated[str, typer.Argument(help="The key's prefix, from `keys list`.")]) -> None:
    """Refuse a key from now on.

    Example: ./spendgate keys revoke sg_1a2b3c4d
    """
    _accounts().revoke_key(prefix)
    typer.echo(f"Key {prefix} is revoked.")


@app.command()
def reconcile(
    first: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="First day (UTC); three days in all unless told.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day; today unless told.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    by: Annotated[str | None, typer.Option(help="Who repairs; needed with --repair.")] = None,
) -> None:
    """Prove that what came in is what is in the tables and on the topic; say what isn't.

    Repaired is what staging can witness (lost or changed events), windows, flags and messages; a position that was
    moved is left to a person.

    Example: ./spendgate reconcile --from 2026-11-21 --repair --by maria
    """
    from spendgate.reconciled import run_reconciliation
    from spendgate.settings import load_settings

    run_reconciliation(load_settings(), first, last, repair=repair, by=by)


@app.command()
def purge() -> None:
    """Remove what the settings SPENDGATE_*_KEEP_DAYS no longer keep; say what was removed.

    Example: ./spendgate purge
    """
    from spendgate.reconciled import run_purge
    from spendgate.settings import load_settings

    run_purge(load_settings())


discrepancies = typer.Typer(help="Differences between what came in and what is in the tables.")
app.add_typer(discrepancies, name="discrepancies")


@discrepancies.command("list")
def list_discrepancies(
    everything: Annotated[bool, typer.Option("--all", help="Those that are closed, too.")] = False,
) -> None:
    """List the differences that are open.

    Example: ./spendgate discrepancies list
    """
    from spendgate.differences import stored_differences
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import say, show_rows
    from spendgate.warehouse.engine import Warehouse

    warehouse = Warehouse(services.warehouse_url(load_settings()))
    columns, rows = stored_differences(warehouse, closed=everything)
    show_rows(columns, [list(row) for row in rows])
    say(f"{sum(row.closed_at is None for row in rows)} differences are open.")


@discrepancies.command("accept")
def accept_discrepancy(
    number: Annotated[int, typer.Argument(metavar="ID", help="The difference's id, from `discrepancies list`.")],
    by: Annotated[str, typer.Option(help="Who accepts it.")],
) -> None:
    """Accept a difference as it is: it fails no reconciliation any more, as long as it looks the same.

    Example: ./spendgate discrepancies accept 3 --by maria
    """
    from spendgate.clock import utc_now
    from spendgate.differences import accept_difference
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import say
    from spendgate.warehouse.engine import Warehouse

    accept_difference(Warehouse(services.warehouse_url(load_settings())), number, by, utc_now())
    say(f"Difference {number} is accepted by {by}.")


gaps = typer.Typer(help="Events that retention removed before they were read.")
app.add_typer(gaps, name="gaps")


@gaps.command("list")
def list_gaps() -> None:
    """List the gaps, accepted or not.

    Example: ./spendgate gaps list
    """
    from spendgate.gaps import stored_gaps
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import say, show_rows
    from spendgate.warehouse.engine import Warehouse

    columns, rows = stored_gaps(Warehouse(services.warehouse_url(load_settings())))
    show_rows(columns, [list(row) for row in rows])
    still_open = sum(row.accepted_at is None for row in rows)
    say(f"{still_open} of {len(rows)} gaps {'waits' if still_open == 1 else 'wait'} for a person to accept the loss.")


@gaps.command("accept")
def accept(
    gap_id: Annotated[int, typer.Argument(metavar="ID", help="The gap's id, from `gaps list`.")],
    by: Annotated[str, typer.Option(help="Who accepts the loss.")],
) -> None:
    """Accept that the events of a gap are lost; the next run goes on behind it.

    Example: ./spendgate gaps accept 3 --by maria
    """
    from spendgate.clock import utc_now
    from spendgate.gaps import accept_gap
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.show import say
    from spendgate.warehouse.engine import Warehouse

    accept_gap(Warehouse(services.warehouse_url(load_settings())), gap_id, by, utc_now())
    say(f"Gap {gap_id} is accepted by {by}.")


batches = typer.Typer(help="Batches that the gate holds, and deciding on them.")
app.add_typer(batches, name="batches")

_BatchId = Annotated[int, typer.Argument(metavar="ID", help="The batch's number, from `batches list`.")]
_By = Annotated[str, typer.Option("--by", help="Who decides.")]
_Why = Annotated[str, typer.Option("--reason", help="Why, for who asks in a year.")]


@batches.command("list")
def list_batches(
    state: Annotated[
        str | None, typer.Option(help="staged, passed, held, released, merged or discarded; held unless told.")
    ] = None,
    warned: Annotated[bool, typer.Option("--warned", help="Those that the gate warned of.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show at most so many.")] = 20,
) -> None:
    """List batches that are held, newest first, each with the sentence that says why.

    Example: ./spendgate batches list --state discarded
    """
    from spendgate.batches import show_list
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    show_list(Warehouse(services.warehouse_url(load_settings())), state, limit, warned=warned)


@batches.command("show")
def show_batch(batch_id: _BatchId) -> None:
    """Show what was measured of a batch, which expectations it doesn't meet, and what was decided.

    Example: ./spendgate batches show 17
    """
    from spendgate.batches import show_batch
    from spendgate.local import services
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    show_batch(Warehouse(services.warehouse_url(load_settings())), batch_id)


@batches.command("release")
def release_batch(batch_id: _BatchId, by: _By, reason: _Why) -> None:
    """Let a held batch be merged by the next build.

    Example: ./spendgate batches release 17 --by maria --reason "the sale began"
    """
    _decide("release", batch_id, by, reason)


@batches.command("discard")
def discard_batch(batch_id: _BatchId, by: _By, reason: _Why) -> None:
    """Let a held batch never have come; its messages are kept.

    Example: ./spendgate batches discard 17 --by maria --reason "amounts are in cents, will be sent again"
    """
    _decide("discard", batch_id, by, reason)


def _decide(decision: str, batch_id: int, by: str, reason: str) -> None:
    from spendgate.batches import decide
    from spendgate.clock import utc_now
    from spendgate.local import services
    from spendgate.quality.decisions import Decision
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    settings = load_settings()
    warehouse = Warehouse(services.warehouse_url(settings), lock_timeout=settings.lock_timeout)
    decide(warehouse, batch_id, Decision(decision), by, reason, utc_now())


rejected = typer.Typer(help="Events that were rejected, and why; trying them again.")
app.add_typer(rejected, name="rejected")

_Reason = Annotated[str | None, typer.Option("--reason", help="Only those with this reason.")]
_Stream = Annotated[str | None, typer.Option("--stream", help="Only those of this stream.")]
_Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only those enqueued at this instant or later.")
]
_Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only those enqueued before this instant.")]


@rejected.command("list")
def list_rejected(
    reason: _Reason = None,
    stream: _Stream = None,
    since: _Since = None,
    until: _Until = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Show at most so many.")] = 20,
) -> None:
    """List rejected events, newest first, and count them by reason.

    Example: ./spendgate rejected list --reason too_late --since 2026-11-21T00:00:00Z
    """
    from spendgate.local import services
    from spendgate.rejected import show_list
    from spendgate.replay import RejectedFilter
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    which = RejectedFilter.typed(reason, stream, since, until)
    show_list(Warehouse(services.warehouse_url(load_settings())), which, limit)


@rejected.command("show")
def show_rejected(
    event_id: Annotated[int, typer.Argument(metavar="ID", help="The event's id, from `rejected list`.")],
) -> None:
    """Show all there is about one rejected event, its bytes included.

    Example: ./spendgate rejected show 17
    """
    from spendgate.local import services
    from spendgate.rejected import show_event
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    show_event(Warehouse(services.warehouse_url(load_settings())), event_id)


@rejected.command("replay")
def replay_rejected(
    reason: _Reason = None,
    stream: _Stream = None,
    since: _Since = None,
    until: _Until = None,
    ids: Annotated[list[int] | None, typer.Option("--id", help="Only the one with this id; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
) -> None:
    """Decode rejected events again and stage those that are events now; the next build merges them.

    An event is judged by when it was enqueued and the lateness limit of now; one that was in the future is an
    event once its time has come. Rows leave the table only by being accepted.

    Example: ./spendgate rejected replay --reason too_late --stream ad-clicks --dry-run
    """
    from spendgate.local import services
    from spendgate.rejected import replay
    from spendgate.replay import RejectedFilter
    from spendgate.settings import load_settings
    from spendgate.warehouse.engine import Warehouse

    which = RejectedFilter.typed(reason, stream, since, until, ids or ())
    settings = load_settings()
    warehouse = Warehouse(services.warehouse_url(settings), lock_timeout=settings.lock_timeout)
    replay(settings, warehouse, which, dry_run=dry_run)
