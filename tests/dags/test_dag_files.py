"""The house rules for DAG files: each message says what to do in the file that breaks one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spendgate.local import airflow as airflow_service
from spendgate.settings import ROOT, Settings

FILES = sorted((ROOT / "dags").glob("*.py"))
NAMES = [path.stem for path in FILES]
SECTIONS = ("Purpose", "Reads", "Writes", "Schedule", "If it fails")
MAX_LINES = 100

# Loads the DAG files twice: as Airflow does, and, Airflow and the library being loaded, with everything forbidden
# that a file which is parsed every few seconds must neither pay for nor depend on.
DESCRIBE = """
import datetime, importlib.util, json, os, socket, sqlite3, subprocess, sys, time
from pathlib import Path

from airflow.dag_processing.dagbag import BundleDagBag
from airflow.sdk import BaseHook, Variable

import psycopg
import spendgate.airflow_adapter as adapter

folder = Path(sys.argv[1])
bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name="dags-folder")

tried = []

def forbid(owner, name):
    what = f"{getattr(owner, '__name__', owner)}.{name}"
    def refuse(*arguments, **named):
        tried.append(what)
        raise RuntimeError(f"parsing called {what}")
    setattr(owner, name, refuse)

class NoClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        tried.append("datetime.now")
        raise RuntimeError("parsing asked for the time")
    utcnow = today = now

def guarded(original):
    # Of the environment our part only: Airflow's operators look their own options up.
    def ask(self, key, *default):
        if str(key).startswith(("SPENDGATE_", "AIRFLOW_CONN_", "AIRFLOW_VAR_")):
            tried.append(f"environ[{key}]")
            raise RuntimeError(f"parsing read {key}")
        return original(self, key, *default)
    return ask

# `get` and `getenv` end in `__getitem__`; a variable that isn't there is asked for all the same.
type(os.environ).__getitem__ = guarded(type(os.environ).__getitem__)
for owner, name in (
    (socket, "socket"), (socket, "create_connection"), (socket, "getaddrinfo"), (psycopg, "connect"),
    (sqlite3, "connect"), (subprocess, "Popen"), (time, "time"), (time, "sleep"), (adapter, "load_settings"),
    (adapter, "Warehouse"), (BaseHook, "get_connection"), (Variable, "get"),
):
    forbid(owner, name)
datetime.datetime = NoClock

errors = {}
for path in map(Path, sys.argv[2:]):
    spec = importlib.util.spec_from_file_location("parsed_" + path.stem, path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:
        errors[path.stem] = f"{type(error).__name__}: {error}"

def schedule(dag):
    timetable = dag.timetable
    inner = getattr(timetable, "timetable", None)
    return {
        "kind": type(timetable).__name__,
        "timed_by": type(inner).__name__ if inner else None,
        "cron": getattr(inner or timetable, "expression", None),
        "assets": [asset.name for asset in getattr(getattr(timetable, "asset_condition", None), "objects", ())],
    }

def listed(callbacks):
    # A mapped task keeps them as they were given.
    return callbacks if isinstance(callbacks, list) else [callbacks]

dags = {
    dag.dag_id: {
        "file": Path(dag.fileloc).stem,
        "doc": dag.doc_md,
        "max_active_runs": dag.max_active_runs,
        "catchup": dag.catchup,
        "params": dag.params.dump(),
        "late_after": [alert.interval.total_seconds() for alert in dag.deadline or []],
        "schedule": schedule(dag),
        "tasks": {
            task.task_id: {
                "retries": task.retries,
                "backoff": float(task.retry_exponential_backoff),
                "delay": task.retry_delay.total_seconds(),
                "longest_delay": task.max_retry_delay and task.max_retry_delay.total_seconds(),
                "failure": [callback.__name__ for callback in listed(task.on_failure_callback)],
                "inlets": [asset.uri for asset in task.inlets],
                "outlets": [asset.uri for asset in task.outlets],
            }
            for task in dag.tasks
        },
    }
    for dag in bag.dags.values()
}
print(json.dumps({"import_errors": bag.import_errors, "errors": errors, "tried": tried, "dags": dags}))
"""


def describe(home: Path, folder: Path, files: list[Path]) -> dict[str, Any]:
    """What a process of its own, with an Airflow of its own, finds in the files."""
    environment = airflow_service.environment(Settings(home=home), headless=True)
    environment["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
    done = subprocess.run(
        [sys.executable, "-P", "-c", DESCRIBE, str(folder), *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return describe(tmp_path_factory.mktemp("home"), ROOT / "dags", FILES)


def test_every_file_loads_as_airflow_loads_it(described: dict[str, Any]) -> None:
    assert described["import_errors"] == {}


def test_a_file_is_named_after_its_one_dag(described: dict[str, Any]) -> None:
    assert {dag_id: dag["file"] for dag_id, dag in described["dags"].items()} == {name: name for name in NAMES}


def test_parsing_touches_no_network_database_clock_or_environment(described: dict[str, Any]) -> None:
    assert (described["tried"], described["errors"]) == ([], {}), "move it into a task"


BROKEN = """
import {module}
from airflow.sdk import dag

@dag(schedule=None)
def {name}():
    pass

{call}
{name}()
"""


@pytest.mark.slow
def test_the_parse_check_itself_notices_each_of_them(tmp_path: Path) -> None:
    calls = {
        "reads_clock": ("datetime", "datetime.datetime.now()"),
        "reads_setting": ("os", "os.environ.get('SPENDGATE_STREAMS')"),
        "reads_variable": ("os", "os.getenv('AIRFLOW_VAR_DAYS')"),
        "opens_socket": ("socket", "socket.create_connection(('127.0.0.1', 1))"),
        "loads_settings": ("spendgate.airflow_adapter", "spendgate.airflow_adapter.load_settings()"),
    }
    files = []
    for name, (module, call) in calls.items():
        files.append(tmp_path / f"{name}.py")
        files[-1].write_text(BROKEN.format(module=module, name=name, call=call))
    found = describe(tmp_path / "home", tmp_path / "no dags", files)
    assert set(found["errors"]) == set(calls)


@pytest.mark.parametrize("name", NAMES)
def test_triage_notes_travel_with_the_dag(described: dict[str, Any], name: str) -> None:
    doc = described["dags"][name]["doc"] or ""
    missing = [section for section in SECTIONS if f"**{section}.**" not in doc]
    assert not missing, f"dags/{name}.py: add {missing} to the docstring and pass doc_md=__doc__"


@pytest.mark.parametrize("name", NAMES)
def test_one_run_at_a_time_and_no_catching_up(described: dict[str, Any], name: str) -> None:
    dag = described["dags"][name]
    assert (dag["max_active_runs"], dag["catchup"]) == (1, False), "what a run reads doesn't depend on its interval"


@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_tried_again_with_growing_and_bounded_delays(described: dict[str, Any], name: str) -> None:
    tasks = described["dags"][name]["tasks"]
    assert tasks
    for task_id, task in tasks.items():
        assert task["retries"] >= 1, f"{task_id}: pass default_args=RETRIES"
        assert task["backoff"] > 1, f"{task_id}: retry_exponential_backoff is the factor, 2.0 say"
        assert 0 < task["delay"] < task["longest_delay"], f"{task_id}: bound the delays"


@pytest.mark.parametrize("name", NAMES)
def test_a_task_that_fails_for_good_raises_an_alarm(described: dict[str, Any], name: str) -> None:
    for task_id, task in described["dags"][name]["tasks"].items():
        assert task["failure"] == ["alarm_failure"], f"{task_id}: pass default_args=RETRIES"


@pytest.mark.parametrize("name", ["ingest_events", "build_spend"])
def test_an_hourly_run_that_isnt_done_before_the_next_one_raises_an_alarm(described: dict[str, Any], name: str) -> None:
    (seconds,) = described["dags"][name]["late_after"]
    assert 0 < seconds < 3600


def test_lineage_leads_from_stream_to_topic(described: dict[str, Any]) -> None:
    """By datasets that the providers of their schemes turn into OpenLineage's."""
    warehouse = "mssql://spendgate:1433/warehouse"
    leads = {
        "read_slice": ("kafka://spendgate/events", f"{warehouse}/staging/StagedClick"),
        "merge_events": (f"{warehouse}/staging/StagedClick", f"{warehouse}/ads/ClickEvent"),
        "rebuild_windows": (f"{warehouse}/ads/ClickEvent", f"{warehouse}/ads/SpendSummary"),
        "decide_flags": (f"{warehouse}/ads/SpendSummary", f"{warehouse}/ads/ServingFlag"),
        "publish_flags": (f"{warehouse}/ads/ServingFlag", "kafka://spendgate/can-serve"),
        "follow_news": ("kafka://spendgate/events", "kafka://spendgate/can-serve"),
    }
    tasks = {name: task for dag in described["dags"].values() for name, task in dag["tasks"].items()}
    for name, (source, target) in leads.items():
        assert source in tasks[name]["inlets"], name
        assert target in tasks[name]["outlets"], name


@pytest.mark.parametrize(("name", "cron"), [("reconcile_spend", "20 3 * * *"), ("purge_history", "40 4 * * *")])
def test_the_books_are_kept_daily(described: dict[str, Any], name: str, cron: str) -> None:
    schedule = described["dags"][name]["schedule"]
    assert (schedule["kind"], schedule["cron"]) == ("CronTriggerTimetable", cron)


def test_events_are_ingested_hourly_each_run_with_its_interval(described: dict[str, Any]) -> None:
    schedule = described["dags"]["ingest_events"]["schedule"]
    assert (schedule["kind"], schedule["cron"]) == ("CronDataIntervalTimetable", "0 * * * *")


def test_spend_is_built_when_events_were_staged_and_hourly_so_that_a_new_day_opens_the_gate(
    described: dict[str, Any],
) -> None:
    assert described["dags"]["build_spend"]["schedule"] == {
        "kind": "AssetOrTimeSchedule",
        "timed_by": "CronTriggerTimetable",
        "cron": "0 * * * *",
        "assets": ["spendgate-staged-events"],
    }


def test_a_person_who_triggers_a_build_may_say_as_of_when(described: dict[str, Any]) -> None:
    assert described["dags"]["build_spend"]["params"] == {"as_of": None}


def test_rejected_events_are_replayed_only_by_a_person_who_may_say_which_and_dry_at_first(
    described: dict[str, Any],
) -> None:
    dag = described["dags"]["replay_rejected"]
    assert dag["schedule"] == {"kind": "NullTimetable", "timed_by": None, "cron": None, "assets": []}
    assert dag["params"] == {"reason": None, "stream": None, "since": None, "until": None, "dry_run": True}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_holds_wiring_only(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines: move the logic to include/spendgate"
