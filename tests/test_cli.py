"""The command line as a person meets it: help, results on stdout, and one sentence when something is wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from spendgate.local import airflow, broker, postgres, services
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import ROOT
from spendgate.start import start_services
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import RejectedEvent, StreamGap
from tests.command_line import CommandLine
from tests.factories import DAY, NOW, Bench, advertiser, budget, click, stored

COMMANDS = (
    "demo", "test", "up", "down", "status", "migrate", "env", "init", "publish", "run", "query", "bench", "gaps list",
    "gaps accept", "rejected list", "rejected show", "rejected replay", "api", "reconcile", "purge", "users add",
    "users list", "users disable", "users set-password", "keys add", "keys list", "keys revoke", "discrepancies list",
    "discrepancies accept", "batches list", "batches show", "batches release", "batches discard",
)  # fmt: skip
# Airflow isn't imported for it; a machine with other things to do takes its time all the same.
VERSION_SECONDS = 10.0
IMPATIENT = {"SPENDGATE_STREAM_TIMEOUT": "3"}


def sentence(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line on stderr of a command that failed."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0][0].strip()
    assert lines[0].endswith((".", "(see --help)")), lines[0]
    assert "Unexpected" not in lines[0], lines[0]
    return lines[0]


def last_line(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The sentence of a command that failed after it told how far it got."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "Unexpected" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[CommandLine]:
    """A home in which nothing was ever started."""
    command_line = CommandLine(tmp_path / "bare home", IMPATIENT)
    yield command_line
    services.down(command_line.settings(), lambda _: None)


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """A home with warehouse and broker up, which the tests share."""
    command_line = CommandLine(tmp_path_factory.mktemp("cli") / "a home", IMPATIENT)
    try:
        start_services(command_line.settings(), airflow=False)
        yield command_line
    finally:
        services.down(command_line.settings(), lambda _: None)


def repair(cli: CommandLine) -> None:
    start_services(cli.settings(), airflow=False)


def kill(cli: CommandLine, service: str) -> None:
    record = Supervisor(cli.home).record(service)
    assert record
    os.kill(record.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Supervisor(cli.home).record(service):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"\n".join((advertiser(), budget(1), click(1), b"", click(2))))
    return path


# --- Help and versions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(bare: CommandLine, command: str) -> None:
    done = bare(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Example: ./spendgate {command}" in done.stdout


def test_help_names_every_command_and_so_does_no_argument_at_all(bare: CommandLine) -> None:
    told, asked = bare(), bare.process("--help")
    assert (told.returncode, told.stdout, told.stderr) == (0, asked.stdout, "")
    assert set(re.findall(r"^  (\w+) ", asked.stdout.partition("Commands:")[2], re.MULTILINE)) == {
        command.split()[0] for command in COMMANDS
    }


def test_the_version_is_told_at_once_and_makes_no_home(bare: CommandLine) -> None:
    began = time.monotonic()
    done = bare.process("--version")
    assert time.monotonic() - began < VERSION_SECONDS
    assert re.fullmatch(r"SpendGate \d+\.\d+\.\d+ \(Airflow 3\.\d+\.\d+\)\n", done.stdout)
    assert not bare.home.exists()


# --- Typed wrongly ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ("nope", 2, "No such command 'nope'"),
        ("run --nope", 2, "No such option: --nope"),
        ("query", 2, "Missing argument 'SQL'"),
        ("gaps", 2, "Missing command"),
        ("gaps accept x --by me", 2, "Invalid value for 'ID'"),
        ("gaps accept 1", 2, "Missing option '--by'"),
        ("rejected", 2, "Missing command"),
        ("rejected show x", 2, "Invalid value for 'ID'"),
        ("rejected list --limit 0", 2, "Invalid value for '--limit'"),
        ("rejected list --reason late", 1, "There is no reason 'late'; there are not_json, "),
        ("rejected replay --reason late", 1, "There is no reason 'late'; there are not_json, "),
        ("rejected list --since yesterday", 1, "'yesterday' is not a time; write it like 2026-11-21T18:00:00Z"),
        ("rejected replay --until 2026-11-21T18:00:00", 1, "has no offset"),
        ("bench nope", 1, "There is no benchmark 'nope'; there are api, freshness, gate, ingest, spend"),
        ("query SELECT --format nope", 1, "--format is table, csv or json, not 'nope'"),
        ("run --as-of tomorrow", 1, "'tomorrow' is not a time; write it like 2026-11-21T18:00:00Z"),
        ("run --as-of 2026-11-21T18:00:00", 1, "has no offset"),
    ],
)
def test_what_is_typed_wrongly_is_one_sentence(bare: CommandLine, arguments: str, status: int, said: str) -> None:
    assert said in sentence(bare(*arguments.split()), status)


def test_debug_shows_the_traceback_and_the_sentence(bare: CommandLine) -> None:
    done = bare.process("query", "SELECT 1", "--debug")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1] == "The laptop's warehouse was never started here: run ./spendgate up."


@pytest.mark.parametrize(
    ("variable", "value"), [("SPENDGATE_BATCH_SIZE", "lots"), ("SPENDGATE_STREAMS", ","), ("SPENDGATE_UI_PORT", "-1")]
)
def test_a_wrong_setting_is_named(bare: CommandLine, variable: str, value: str) -> None:
    assert sentence(bare("status", **{variable: value})).startswith(f"Set {variable} to a right value: ")


def test_a_warehouse_url_that_is_none_is_named(bare: CommandLine) -> None:
    assert "SPENDGATE_WAREHOUSE_URL" in sentence(bare("migrate", SPENDGATE_WAREHOUSE_URL="no url"))


# --- Before up, and without a service --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["publish", "-"], ["query", "SELECT 1"], ["migrate"], ["gaps", "list"], ["rejected", "list"]],
    ids=lambda a: a[0],
)
def test_before_the_first_up_the_sentence_says_what_to_run(bare: CommandLine, arguments: list[str]) -> None:
    done = bare(*arguments, stdin=b'{"event_type": "click", "advertiser_id": 1}')
    if arguments[0] == "publish":
        assert "run ./spendgate up" in last_line(done)
    else:
        assert "never started here: run ./spendgate up." in sentence(done)


def test_status_of_a_home_that_was_never_up_is_red_and_says_what_to_run(bare: CommandLine) -> None:
    done = bare("status")
    assert (done.returncode, done.stderr) == (1, "")
    assert "run ./spendgate up" in done.stdout


def test_down_of_a_home_that_was_never_up_is_no_error(bare: CommandLine) -> None:
    done = bare("down")
    assert (done.returncode, done.stdout) == (0, "")


def test_without_the_broker_run_and_publish_say_so_in_one_sentence(cli: CommandLine, events: Path) -> None:
    kill(cli, broker.NAME)
    try:
        address = broker.address(Supervisor(cli.home)) or ""
        assert address in sentence(cli("run"))
        assert address in last_line(cli("publish", str(events)))
    finally:
        repair(cli)


def test_without_the_warehouse_run_query_and_migrate_say_so_in_one_sentence(cli: CommandLine) -> None:
    kill(cli, postgres.NAME)
    try:
        for arguments in (["run"], ["query", "SELECT 1"], ["migrate"]):
            assert "can't be reached or went away; start it (./spendgate up)" in sentence(cli(*arguments))
    finally:
        repair(cli)


def test_a_stream_that_the_broker_does_not_have_is_named(cli: CommandLine, events: Path) -> None:
    assert "nope" in last_line(cli("publish", str(events), "--stream", "nope"))
    assert "nope" in sentence(cli("run", SPENDGATE_STREAMS="ad-clicks,nope"))


def test_a_warehouse_without_tables_says_migrate(cli: CommandLine) -> None:
    url = services.warehouse_url(cli.settings()).set(database="postgres").render_as_string(hide_password=False)
    assert "./spendgate migrate" in sentence(cli("run", SPENDGATE_WAREHOUSE_URL=url))


def test_a_password_in_a_url_is_never_shown(cli: CommandLine) -> None:
    url = services.warehouse_url(cli.settings()).set(password="hush-hush").render_as_string(hide_password=False)
    done = cli("query", "SELECT 1", "--debug", SPENDGATE_WAREHOUSE_URL=url)
    assert done.returncode == 1
    assert "hush-hush" not in done.stdout + done.stderr


# --- Ports and locks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["SPENDGATE_WAREHOUSE_PORT", "SPENDGATE_BROKER_PORT"])
def test_a_port_in_use_is_named_with_its_setting(bare: CommandLine, variable: str) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        port = server.getsockname()[1]
        done = bare("up", "--no-airflow", **{variable: str(port)})
    said = last_line(done)
    assert said == f"Port {port} is in use: set {variable} to a free port, or to 0 to pick one."


@pytest.mark.slow
def test_a_ui_port_in_use_is_named_with_its_setting(cli: CommandLine, lend_metadata: Callable[[Path], Path]) -> None:
    lend_metadata(cli.home)
    with socket.create_server((LOCALHOST, 0)) as server:
        port = server.getsockname()[1]
        done = cli("up", SPENDGATE_UI_PORT=str(port))
    assert last_line(done) == f"Port {port} is in use: set SPENDGATE_UI_PORT to a free port, or to 0 to pick one."
    assert not any(Supervisor(cli.home).record(name) for name in airflow.COMPONENTS)


HOLDER = """
import sys, time
from filelock import FileLock
locks = [FileLock(path) for path in sys.argv[1:]]
for lock in locks:
    lock.acquire()
print("held", flush=True)
time.sleep(100)
"""


def hold_locks(cli: CommandLine) -> subprocess.Popen[bytes]:
    paths = [cli.home / "run.lock", cli.home / "run" / "services.lock"]
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, *map(str, paths)], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_run_waits_for_another_and_then_says_that_it_is_under_way(cli: CommandLine) -> None:
    with hold_locks(cli) as holder:
        done = cli.process("run", SPENDGATE_LOCK_TIMEOUT="0.5")
        holder.kill()
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Another run is under way; waiting for it to end.",
        "Another run is still under way after 0 s; wait for it and run again.",
    ]


def test_locks_that_a_killed_process_left_behind_block_nobody(cli: CommandLine) -> None:
    with hold_locks(cli) as holder:
        holder.kill()
    assert (cli.home / "run.lock").exists()
    up = cli("up", "--no-airflow")
    assert (up.returncode, up.stderr) == (0, "")
    # The lock is behind it: it got as far as the stream that isn't there.
    assert "nope" in sentence(cli("run", SPENDGATE_STREAMS="nope"))


# --- Publish ---------------------------------------------------------------------------------------------------


def test_publish_counts_what_it_sent_by_stream(cli: CommandLine, events: Path) -> None:
    done = cli("publish", str(events))
    assert (done.returncode, done.stdout) == (0, "Sent: ad-reference 1, ad-budgets 1, ad-clicks 2\n")


def test_publish_reads_standard_input(cli: CommandLine) -> None:
    done = cli("publish", "-", "--stream", "ad-clicks", stdin=b"anything\n\nat all")
    assert (done.returncode, done.stdout) == (0, "Sent: ad-clicks 2\n")


def test_a_line_that_can_not_be_routed_is_named_by_its_number(cli: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(click(1) + b'\n{"event_type": "view", "advertiser_id": 1}\n')
    said = last_line(cli("publish", str(path)))
    assert said.startswith(f"Nothing was sent, since line 2 of {path} can't be")
    assert "'view'" in said


def test_a_file_that_is_not_there_is_named(cli: CommandLine, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        assert str(path) in last_line(cli("publish", str(path)))


# --- Query -----------------------------------------------------------------------------------------------------

ROWS = "SELECT 1 AS id, CAST('12.5000' AS DECIMAL(19,4)) AS spent, NULL AS budget, 'a, \"b\"' AS name"


def test_query_writes_a_table_for_people_and_csv_and_json_for_programs(cli: CommandLine) -> None:
    table, as_csv, as_json = (cli("query", ROWS, "--format", style) for style in ("table", "csv", "json"))
    assert {done.returncode for done in (table, as_csv, as_json)} == {0}
    assert "12.5000" in table.stdout
    assert "spent" in table.stdout
    assert list(csv.reader(io.StringIO(as_csv.stdout))) == [
        ["id", "spent", "budget", "name"],
        ["1", "12.5000", "", 'a, "b"'],
    ]
    assert json.loads(as_json.stdout) == [{"id": 1, "spent": "12.5000", "budget": None, "name": 'a, "b"'}]


def test_the_example_of_query_is_t_sql_and_works(cli: CommandLine) -> None:
    done = cli("query", "SELECT TOP 5 * FROM ads.CurrentServing ORDER BY spent_today DESC", "--format", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


@pytest.mark.parametrize(
    "sql", ["DELETE FROM etl.Batch", "SELECT 1; DROP TABLE etl.Batch", "SELECT * INTO x FROM etl.Batch", ""]
)
def test_query_refuses_to_write(cli: CommandLine, sql: str) -> None:
    assert "query reads only" in sentence(cli("query", sql))


def test_a_query_that_the_warehouse_does_not_understand_is_one_sentence(cli: CommandLine) -> None:
    assert "nowhere" in sentence(cli("query", "SELECT * FROM ads.nowhere"))


def test_a_reader_that_stops_early_is_no_traceback(cli: CommandLine) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with closing(os.fdopen(write_end, "wb")) as stdout:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "spendgate", "query", ROWS],
            env={**os.environ, "SPENDGATE_HOME": str(cli.home), "PYTHONPATH": str(ROOT / "include")},
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert (done.returncode != 0, done.stderr) == (True, b"")


# --- The rest --------------------------------------------------------------------------------------------------


def test_gaps_are_listed_and_an_unknown_one_can_not_be_accepted(cli: CommandLine) -> None:
    listed = cli("gaps", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "accepted_by" in listed.stdout
    assert listed.stdout.endswith("0 of 0 gaps wait for a person to accept the loss.\n")
    assert "No open gap has the id 4711" in sentence(cli("gaps", "accept", "4711", "--by", "maria"))
    assert "Say who accepts the loss" in sentence(cli("gaps", "accept", "4711", "--by", ""))


def test_a_gap_is_accepted_by_name_and_stays_in_the_list(cli: CommandLine) -> None:
    warehouse = Warehouse(services.warehouse_url(cli.settings()))
    place = {"stream": "ad-clicks", "partition_id": "0", "epoch": 1, "from_position": "3", "to_position": "7"}
    with warehouse.transaction() as transaction:
        transaction.run(insert(StreamGap).values(**place, created_at=NOW, updated_at=NOW))
        [gap_id] = transaction.run(select(StreamGap.c.id)).scalars()
    warehouse.close()
    assert cli("gaps", "list").stdout.endswith("1 of 1 gaps waits for a person to accept the loss.\n")
    accepted = cli("gaps", "accept", str(gap_id), "--by", "maria")
    assert (accepted.returncode, accepted.stdout) == (0, f"Gap {gap_id} is accepted by maria.\n")
    assert "No open gap" in sentence(cli("gaps", "accept", str(gap_id), "--by", "joe"))
    listed = cli("gaps", "list").stdout
    assert "maria" in listed
    assert listed.endswith("0 of 1 gaps wait for a person to accept the loss.\n")


# --- Rejected events -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rejecting(cli: CommandLine) -> list[int]:
    """Ids of a click that was too late for one day, and of bytes that are no event, in the shared home."""
    warehouse = Warehouse(services.warehouse_url(cli.settings()))
    Bench(warehouse, lateness=DAY).build(click(1, NOW - 5 * DAY), b"\xff?")
    ids = [row.id for row in stored(warehouse, RejectedEvent)]
    warehouse.close()
    return ids


def test_rejected_events_are_listed_and_shown(cli: CommandLine, rejecting: list[int]) -> None:
    listed = cli("rejected", "list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.endswith("Rejected, by reason: not_json 1, too_late 1.\n")
    assert cli("rejected", "list", "--reason", "wrong_type").stdout == "No rejected event matches.\n"
    late, no_json = rejecting
    assert click(1, NOW - 5 * DAY).decode() in cli("rejected", "show", str(late)).stdout
    assert "base64" in cli("rejected", "show", str(no_json)).stdout
    assert "No rejected event has the id 4711" in sentence(cli("rejected", "show", "4711"))


def test_a_replay_says_what_it_did_and_that_the_next_build_merges_it(cli: CommandLine, rejecting: list[int]) -> None:
    late, _ = rejecting
    dry = cli("rejected", "replay", "--dry-run")
    assert (dry.returncode, dry.stdout) == (
        0,
        "Looked at 2 rejected events: 1 would be staged again; 1 would stay rejected: not_json 1. "
        "Nothing was written.\n",
    )
    strict = cli("rejected", "replay", "--id", str(late), SPENDGATE_LATENESS_DAYS="1")
    assert strict.stdout == "Looked at 1 rejected event: none is an event now; 1 stay rejected: too_late 1.\n"
    wet = cli("rejected", "replay")
    assert wet.stdout == (
        "Looked at 2 rejected events: 1 are staged again; 1 stay rejected: not_json 1. The next build "
        "(./spendgate run) merges them; they leave the table if they don't clash with what is stored.\n"
    )
    again = last_line(cli("rejected", "replay", "--reason", "too_late"))
    assert again == "No rejected event matches that isn't staged again already; see ./spendgate rejected list."
    assert cli("rejected", "list").stdout.splitlines()[-1].startswith("1 of them are staged again")
    warehouse = Warehouse(services.warehouse_url(cli.settings()))
    assert Bench(warehouse).merge().replayed == 1
    warehouse.close()
    assert cli("rejected", "list").stdout.endswith("Rejected, by reason: not_json 1.\n")


def test_migrate_says_that_the_schema_is_already_the_newest(cli: CommandLine) -> None:
    done = cli("migrate")
    assert done.returncode == 0
    assert re.fullmatch(r"The warehouse is at revision \w+ already\.\n", done.stdout)


def test_status_names_every_service_and_where_it_is(cli: CommandLine) -> None:
    done = cli("status")
    found = [state for state in services.states(cli.settings()) if state.name in ("postgres", "broker")]
    assert done.returncode == (0 if all(state.healthy for state in found) else 1)
    assert "Airflow isn't started here" in done.stdout
    for state in found:
        assert state.name in done.stdout
        assert state.address in done.stdout


def test_up_again_changes_nothing_and_down_and_up_keeps_the_data(bare: CommandLine) -> None:
    assert bare.process("up", "--no-airflow").returncode == 0
    revision = bare("query", "SELECT COUNT(*) AS hours FROM ads.TimeHierarchy", "--format", "csv")
    assert revision.returncode == 0
    assert bare.process("down").stdout == ""
    assert Supervisor(bare.home).processes() == []
    assert bare("up", "--no-airflow").returncode == 0
    again = bare("query", "SELECT COUNT(*) AS hours FROM ads.TimeHierarchy", "--format", "csv")
    assert again.stdout == revision.stdout
