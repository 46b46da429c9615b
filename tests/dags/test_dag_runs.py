"""Real DAG runs against a real warehouse and broker: what they report, and what makes them fail.

Airflow can't be imported into the tests' own process (it reads its configuration once and makes a home), and it
takes its time to load: one process of its own does all runs and says how each ended.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from tests.eventhubs.server import EventHubsServer
from tests.factories import advertiser, budget, click, flags_of, stored

from spendgate.clock import format_instant, utc_now
from spendgate.local import airflow as airflow_service
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.start import start_services
from spendgate.streams.publish_file import publish_lines
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import RunLog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NOBODY = "127.0.0.1:1"
WAREHOUSE_NOWHERE = f"postgresql+psycopg://me:hush@{NOBODY}/ads"
KAFKA_NOWHERE = json.dumps({"conn_type": "kafka", "extra": {"bootstrap.servers": NOBODY}})

RUNS = """
from spendgate.collector import collect_seldom
collect_seldom()
import json, os, sys
from coverage import Coverage
from spendgate.clock import parse_instant
from spendgate.errors import SpendGateError
from spendgate.settings import load_settings
from spendgate import airflow_adapter as adapter

def end_of(action):
    try:
        return {"reports": action()}
    except Exception as error:
        return {"error": type(error).__name__, "sentence": str(error), "ours": isinstance(error, SpendGateError)}

def trigger(dag_id, conf):
    # As a person does, with what they typed.
    from airflow.dag_processing.dagbag import BundleDagBag
    folder = adapter.ROOT / "dags"
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")
    dag = bag.dags[dag_id]
    adapter.make_headless(dag)
    adapter._FAILURES.clear()
    adapter._REPORTS.clear()
    state = str(dag.test(logical_date=None, run_conf=conf).state)
    return {"state": state, "failures": [str(error) for error in adapter._FAILURES], **adapter._REPORTS}

def marked(error):
    with adapter.failing_permanently():
        raise error

tracer = Coverage.current()
ends = {}
before = dict(os.environ)
for scenario in json.loads(sys.stdin.read()):
    os.environ.update(scenario["environment"])
    load_settings.cache_clear()
    alike = tracer and scenario.get("alike")
    if alike:
        tracer.stop()
    if "conf" in scenario:
        ends[scenario["name"]] = end_of(
            lambda: trigger(scenario.get("dag", "build_spend"), scenario["conf"])
        )
    else:
        as_of = scenario.get("as_of")
        announced = []
        end = end_of(lambda: adapter.run_headless(as_of and parse_instant(as_of), announced.append))
        ends[scenario["name"]] = {**end, "announced": announced}
    if alike:
        tracer.start()
    os.environ.clear()
    os.environ.update(before)
ends["marks"] = [
    end_of(lambda: marked(error))["error"]
    for error in (adapter.PermanentError("no"), adapter.ConfigurationError("no"),
                  __import__("spendgate.errors").errors.TransientError("later"), ValueError("a bug"))
]
print("ENDS " + json.dumps(ends))
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, lend_metadata: Callable[[Path], Path]) -> Iterator[Settings]:
    made = Settings(home=lend_metadata(tmp_path_factory.mktemp("dag-runs")), topic_partitions=1)
    try:
        start_services(made, airflow=False)
        yield made
    finally:
        services.down(made, lambda _: None)


NOW = utc_now()
HOUR_AGO = NOW - timedelta(hours=1)
BEFORE_THE_BUDGET = format_instant(NOW - timedelta(days=3))


@pytest.fixture(scope="module")
def other(settings: Settings) -> str:
    """A second warehouse on the same server, migrated and empty, as SQLAlchemy's URL."""
    url = services.warehouse_url(settings)
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE elsewhere"))
    engine.dispose()
    warehouse = Warehouse(url.set(database="elsewhere"))
    schema.migrate(warehouse)
    warehouse.close()
    return url.set(database="elsewhere").render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def hubs() -> Iterator[EventHubsServer]:
    """Event Hubs, with two clicks on a hub."""
    with EventHubsServer({"hub-clicks": 1, "hub-flags": 1}) as server:
        server.put("hub-clicks", [click(4, HOUR_AGO, "1"), click(5, HOUR_AGO, "1")])
        yield server


def scenarios(settings: Settings, other: str, hubs: EventHubsServer, alarms: str) -> list[dict[str, Any]]:
    """What is run, in this order, all over the same topics; without a tracer what runs the lines of one before."""
    kafka = services.kafka_properties(settings)["bootstrap.servers"]
    connection = other.replace("postgresql+psycopg", "postgres")
    return [
        {"name": "first", "environment": {}, "as_of": format_instant(HOUR_AGO)},
        {"name": "nothing new", "alike": True, "environment": {}, "as_of": format_instant(HOUR_AGO)},
        {"name": "as of", "alike": True, "environment": {}, "as_of": BEFORE_THE_BUDGET},
        {"name": "conf as of", "environment": {}, "conf": {"as_of": "2026-11-21T18:00:00+02:00"}},
        {"name": "as of no time", "environment": {}, "conf": {"as_of": "tomorrow"}},
        {"name": "as of without offset", "alike": True, "environment": {}, "conf": {"as_of": "2026-11-21T18:00:00"}},
        *replays(),
        {"name": "purge", "dag": "purge_history", "environment": {}, "conf": {}},
        {"name": "reconcile", "dag": "reconcile_spend", "environment": {}, "conf": {}},
        {"name": "reconcile no day", "dag": "reconcile_spend", "environment": {}, "conf": {"from": "2026-13-01"}},
        {"name": "broker away", "environment": {"SPENDGATE_KAFKA_BOOTSTRAP": NOBODY, "SPENDGATE_STREAM_TIMEOUT": "2"}},
        {"name": "warehouse away", "environment": {"SPENDGATE_WAREHOUSE_URL": WAREHOUSE_NOWHERE}},
        {
            "name": "no such stream",
            "environment": {"SPENDGATE_STREAMS": "ad-clicks,nope", "SPENDGATE_ALARM_WEBHOOK": alarms},
        },
        {"name": "wrong setting", "environment": {"SPENDGATE_BATCH_SIZE": "lots"}},
        {
            "name": "connections",
            "as_of": format_instant(HOUR_AGO),
            "environment": {
                "SPENDGATE_WAREHOUSE_URL": WAREHOUSE_NOWHERE,
                "SPENDGATE_KAFKA_BOOTSTRAP": NOBODY,
                "AIRFLOW_CONN_SPENDGATE_WAREHOUSE": connection,
                "AIRFLOW_CONN_SPENDGATE_KAFKA": json.dumps(
                    {"conn_type": "kafka", "extra": {"bootstrap.servers": kafka}}
                ),
            },
        },
        {
            "name": "kafka connection to nowhere",
            "alike": True,
            "environment": {"AIRFLOW_CONN_SPENDGATE_KAFKA": KAFKA_NOWHERE, "SPENDGATE_STREAM_TIMEOUT": "2"},
        },
        {
            "name": "kafka connection without servers",
            "alike": True,
            "environment": {"AIRFLOW_CONN_SPENDGATE_KAFKA": json.dumps({"conn_type": "kafka", "extra": {}})},
        },
        {
            "name": "warehouse connection of another type",
            "environment": {"AIRFLOW_CONN_SPENDGATE_WAREHOUSE": "mysql://me:hush@127.0.0.1:1/ads"},
        },
        {
            "name": "hub connection",
            "as_of": format_instant(HOUR_AGO),
            "environment": hub_environment({"password": hubs.connection_string}),
        },
        {"name": "hub connection to nowhere", "environment": hub_environment({"extra": {"transport": "amqp"}})},
        {
            "name": "hub connection with a wrong option",
            "environment": hub_environment({"password": hubs.connection_string, "extra": {"transprt": "hush"}}),
        },
    ]


def hub_environment(connection: dict[str, Any]) -> dict[str, str]:
    """Clicks come from a hub and flags go to one, both reached by Airflow's connection."""
    return {
        "SPENDGATE_STREAMS": "eventhub:hub-clicks",
        "SPENDGATE_FLAG_TOPIC": "eventhub:hub-flags",
        "SPENDGATE_EVENTHUB_CONNECTION": "a setting that the connection goes before",
        "AIRFLOW_CONN_SPENDGATE_EVENTHUB": json.dumps({"conn_type": "generic", **connection}),
    }


def replays() -> list[dict[str, Any]]:
    """What a person triggers to have rejected events replayed, in this order."""
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "replay dry": ("60", {}),
        "replay nothing": ("31", {"dry_run": False}),
        "replay for no reason": ("60", {"dry_run": False, "reason": "late"}),
        "replay since no time": ("60", {"dry_run": False, "since": "2026-11-21T18:00:00"}),
        "replay": ("60", {"dry_run": False, "reason": "too_late", "stream": "ad-clicks"}),
    }
    runs = [
        {"name": name, "dag": "replay_rejected", "environment": {"SPENDGATE_LATENESS_DAYS": days}, "conf": conf}
        for name, (days, conf) in asked.items()
    ]
    return [*runs, {"name": "build after replay", "environment": {}, "conf": {}}]


@pytest.fixture(scope="module")
def ends(
    settings: Settings,
    other: str,
    hubs: EventHubsServer,
    webhook: tuple[str, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """How each run ended, by its scenario's name."""
    bodies = [
        advertiser(NOW - timedelta(days=5)),
        budget(1, NOW - timedelta(days=1), "5"),
        click(1, HOUR_AGO, "2"),
        click(2, HOUR_AGO, "3"),
        click(2, HOUR_AGO, "3"),
        click(3, NOW - timedelta(days=50)),
        b"not json",
    ]
    publish_lines(bodies, services.endpoints(settings), stream="ad-clicks")
    airflow_service.migrate_metadata(settings, headless=True)
    environment = airflow_service.environment(settings, headless=True)
    environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
    log = tmp_path_factory.mktemp("log") / "runs.log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-P", "-c", RUNS],
            input=json.dumps(scenarios(settings, other, hubs, webhook[0])),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
    lines = log.read_text().splitlines()
    assert done.returncode == 0, "\n".join(lines[-40:])
    (told,) = (line for line in lines if line.startswith("ENDS "))
    return dict(json.loads(told.removeprefix("ENDS ")))


def test_both_dags_succeed_and_every_step_reports_its_numbers(ends: dict[str, Any]) -> None:
    first = ends["first"]
    assert first["announced"] == ["ingest_events", "build_spend"]
    reports = first["reports"]
    assert reports["list_slices"] == {"slices": 3}
    intake = reports["ingest_events"]
    assert (intake["partitions"], intake["events"], intake["rejected"]) == (3, 7, {"not_json": 1, "too_late": 1})
    merged = reports["merge_events"]
    assert (merged["inserted"], merged["duplicates"]) == (4, 1)
    assert reports["rebuild_windows"]["windows_built"] > 0
    assert reports["decide_flags"]["flipped"] == 1
    assert reports["publish_flags"] == {"messages": 1}
    assert reports["check_spend"]["days"] == reports["rebuild_windows"]["days"]


def test_a_pass_with_nothing_new_succeeds_and_changes_nothing(ends: dict[str, Any]) -> None:
    reports = ends["nothing new"]["reports"]
    assert reports["ingest_events"]["events"] == 0
    assert "announce_staged" not in reports
    assert reports["rebuild_windows"]["days"] == 0
    assert (reports["decide_flags"]["flipped"], reports["publish_flags"]["messages"]) == (0, 0)


def test_flags_are_decided_as_of_the_instant_that_is_asked_for(ends: dict[str, Any]) -> None:
    decided = ends["as of"]["reports"]["decide_flags"]
    assert (decided["as_of"], decided["flipped"]) == (BEFORE_THE_BUDGET, 1)


def test_a_persons_as_of_is_a_parameter_of_the_run(ends: dict[str, Any]) -> None:
    reports = ends["conf as of"]["reports"]
    assert reports["state"] == "success"
    assert reports["decide_flags"]["as_of"] == "2026-11-21T16:00:00.000Z"


@pytest.mark.parametrize("name", ["as of no time", "as of without offset"])
def test_an_as_of_that_is_no_instant_decides_nothing_and_says_what_to_write(ends: dict[str, Any], name: str) -> None:
    end = ends[name]
    said = end.get("sentence") or " ".join(end["reports"]["failures"])
    assert "as_of" in said or "write it like 2026-11-21T18:00:00Z" in said
    assert "decide_flags" not in end.get("reports", {})


def test_a_replay_counts_first_and_stages_when_it_is_told_to(ends: dict[str, Any]) -> None:
    counts = {"looked_at": 2, "accepted": 1, "batches": 0, "rejected": {"not_json": 1}}
    dry = ends["replay dry"]["reports"]
    assert dry == {"state": "success", "failures": [], "replay_rejected": {"dry_run": True, **counts}}
    nothing = ends["replay nothing"]["reports"]
    assert (nothing["state"], nothing["replay_rejected"]["accepted"]) == ("success", 0)
    assert "announce_staged" not in nothing
    staged = ends["replay"]["reports"]
    assert staged["state"] == "success"
    assert staged["replay_rejected"] == {
        "dry_run": False,
        "looked_at": 1,
        "accepted": 1,
        "batches": 1,
        "rejected": {},
    }
    assert staged["announce_staged"] == {"events": 1}
    assert ends["build after replay"]["reports"]["merge_events"]["replayed"] == 1


@pytest.mark.parametrize("name", ["replay for no reason", "replay since no time"])
def test_a_replay_that_is_asked_for_wrongly_stages_nothing_and_says_why(ends: dict[str, Any], name: str) -> None:
    end = ends[name]
    said = end.get("sentence") or " ".join(end["reports"]["failures"])
    assert "late" in said or "has no offset" in said
    assert "replay_rejected" not in end.get("reports", {})


def test_books_are_purged_and_reconciled_and_every_run_is_in_the_log(ends: dict[str, Any], settings: Settings) -> None:
    assert ends["purge"]["reports"]["purge_history"]["batches"] == 0
    reconciled = ends["reconcile"]["reports"]["reconcile_spend"]
    books = reconciled["books"]["ad-clicks"]
    assert (reconciled["differences"], books) == (
        0,
        {"read": 7, "rejected": 2, "merged": 4, "duplicate": 1, "superseded": 0},
    )
    said = ends["reconcile no day"]
    assert "2026-13-01" in (said.get("sentence") or " ".join(said["reports"]["failures"]))
    warehouse = Warehouse(services.warehouse_url(settings))
    runs = sorted(stored(warehouse, RunLog), key=lambda run: run.id)
    warehouse.close()
    by_dag = {dag: [run for run in runs if run.dag == dag] for dag in {run.dag for run in runs}}
    assert {"ingest_events", "build_spend", "replay_rejected", "purge_history", "reconcile_spend"} <= by_dag.keys()
    first = by_dag["ingest_events"][0]
    assert (first.event_count, json.loads(first.rejected)) == (7, {"not_json": 1, "too_late": 1})
    assert {"list_slices", "read_slice", "announce_staged"} <= json.loads(first.seconds).keys()
    built = by_dag["build_spend"][0]
    assert (built.merged_count, built.flip_count, built.message_count, built.error) == (4, 1, 1, None)
    assert built.window_count > 0
    assert built.ended_at >= built.started_at
    away = [run.error for run in by_dag["ingest_events"] if run.error]
    assert away, "the run that found no broker says why it failed"
    assert NOBODY in away[0]


def test_a_transient_failure_fails_the_run_with_its_sentence(ends: dict[str, Any]) -> None:
    assert ends["broker away"]["error"] == "StreamUnavailableError"
    assert NOBODY in ends["broker away"]["sentence"]
    assert ends["broker away"]["announced"] == ["ingest_events"]
    assert ends["warehouse away"]["error"] == "WarehouseUnavailableError"
    assert "hush" not in ends["warehouse away"]["sentence"]


def test_a_permanent_failure_fails_the_run_with_its_sentence(ends: dict[str, Any]) -> None:
    assert ends["no such stream"]["error"] == "StreamUnknownError"
    assert "nope" in ends["no such stream"]["sentence"]
    assert ends["wrong setting"]["error"] == "ConfigurationError"
    assert "SPENDGATE_BATCH_SIZE" in ends["wrong setting"]["sentence"]


def test_a_task_that_fails_for_good_is_told_to_the_webhook(
    ends: dict[str, Any], webhook: tuple[str, list[dict[str, Any]]]
) -> None:
    sentence = ends["no such stream"]["sentence"]
    alarms = [(alarm["kind"], alarm["dag"], alarm["task"], alarm["reason"]) for alarm in webhook[1]]
    assert alarms == [("failed", "ingest_events", "read_slice", sentence)]


def test_only_what_may_go_away_by_itself_is_left_to_airflows_retries(ends: dict[str, Any]) -> None:
    assert ends["marks"] == ["AirflowFailException", "AirflowFailException", "TransientError", "ValueError"]


def test_airflows_connections_go_before_the_settings(ends: dict[str, Any], other: str) -> None:
    assert ends["connections"]["reports"]["ingest_events"]["events"] == 7
    warehouse = Warehouse(other)
    assert [row.flag.reason for row in flags_of(warehouse).values()] == ["exhausted"]
    warehouse.close()
    assert ends["kafka connection to nowhere"]["error"] == "StreamUnavailableError"


def test_hubs_are_read_and_written_by_airflows_connection(ends: dict[str, Any], hubs: EventHubsServer) -> None:
    reports = ends["hub connection"]["reports"]
    assert (reports["ingest_events"]["events"], reports["merge_events"]["inserted"]) == (2, 2)
    assert reports["publish_flags"]["messages"] >= 1
    assert set(hubs.partition("hub-flags").event_keys()) == {"1"}


def test_a_connection_that_can_not_be_used_is_named_with_what_it_lacks(ends: dict[str, Any]) -> None:
    without = ends["kafka connection without servers"]
    assert without["error"] == "ConfigurationError"
    assert "Connection spendgate_kafka has no bootstrap.servers" in without["sentence"]
    other_type = ends["warehouse connection of another type"]
    assert other_type["error"] == "ConfigurationError"
    assert "Connection spendgate_warehouse is of type mysql; make it mssql or postgres" in other_type["sentence"]
    assert "hush" not in other_type["sentence"]
    without = ends["hub connection to nowhere"]
    assert without["error"] == "ConfigurationError"
    assert "Connection spendgate_eventhub has neither a password nor a host" in without["sentence"]
    wrong = ends["hub connection with a wrong option"]
    assert wrong["error"] == "ConfigurationError"
    assert "transprt is none of" in wrong["sentence"]
    assert "hush" not in wrong["sentence"]
