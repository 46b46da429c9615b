"""The one place where SpendGate meets Airflow: connections, failures, run parameters, the headless run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    AssetWatcher,
    BaseHook,
    Connection,
    DagRunState,
    Param,
    get_current_context,
)
from airflow.sdk.definitions.callback import AsyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from sqlalchemy import URL, Engine

from spendgate.alarms import alarm_sentence, send_alarm
from spendgate.bookkeeping import Bookkeeping, asked_days
from spendgate.clock import format_instant, parse_instant, utc_now
from spendgate.errors import ConfigurationError, PermanentError, SpendGateError
from spendgate.events import Reason
from spendgate.local import services
from spendgate.pipeline import Pipeline
from spendgate.quality.decisions import Decision
from spendgate.quality.documents import Documents
from spendgate.reconcile import Days
from spendgate.replay import RejectedFilter
from spendgate.run_log import Step, Tally, log_step
from spendgate.settings import ROOT, Settings, StreamKind, load_settings
from spendgate.streams.endpoints import Endpoints
from spendgate.wake import Lookout, WakeUps
from spendgate.warehouse.address import MSSQL, POSTGRESQL, mssql_options
from spendgate.warehouse.engine import Warehouse

log = logging.getLogger("spendgate")

WAREHOUSE_CONNECTION = "spendgate_warehouse"
KAFKA_CONNECTION = "spendgate_kafka"
EVENTHUB_CONNECTION = "spendgate_eventhub"
FILES_CONNECTION = "spendgate_files"

STAGED_EVENTS = Asset("spendgate-staged-events", uri="spendgate://staging/events")

# Lineage, from stream to topic: what tasks read and write, in the spelling that providers turn into OpenLineage's
# datasets. Nothing is scheduled on these. A file that is parsed can't know the address of a broker or a server:
# `spendgate` stands for it.
EVENTS_READ = Asset("spendgate-events", uri="kafka://spendgate/events")
EVENTS_STAGED = Asset("spendgate-staging", uri="mssql://spendgate:1433/warehouse/staging/StagedClick")
EVENTS_REJECTED = Asset("spendgate-rejected", uri="mssql://spendgate:1433/warehouse/staging/RejectedEvent")
EVENTS_MERGED = Asset("spendgate-clicks", uri="mssql://spendgate:1433/warehouse/ads/ClickEvent")
WINDOWS = Asset("spendgate-windows", uri="mssql://spendgate:1433/warehouse/ads/SpendSummary")
FLAGS = Asset("spendgate-flags", uri="mssql://spendgate:1433/warehouse/ads/ServingFlag")
FLAGS_PUBLISHED = Asset("spendgate-can-serve", uri="kafka://spendgate/can-serve")

# How often the trigger asks whether a wake-up is due.
TICK_SECONDS = 0.2
# A stream or warehouse that can't be looked at is left alone for this long; its next failure is told again.
LOOK_AGAIN_SECONDS = 10.0


class StreamTrigger(BaseEventTrigger):
    """Fires when a stream holds something that isn't read: a wake-up (`spendgate.wake`), and no more than that.

    Looks at every stream of SPENDGATE_STREAMS, each in a thread of its own. It runs in the triggerer, which needs the
    same settings or connections as the tasks. Never ends by itself, and never fails: a stream that can't be looked at
    is tried again, while hourly runs tell what is wrong with it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's triggers have no annotations here

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Class path and arguments, by which the triggerer makes it anew."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event a wake-up; its payload says which partitions hold news, and how far they reach."""
        wake_ups = WakeUps(time.monotonic)
        opened = ExitStack()
        watches: list[asyncio.Task[None]] = []
        try:
            for lookout in await self._open(opened):
                watches.append(asyncio.create_task(self._watch(lookout, wake_ups)))
            while True:
                if due := wake_ups.due():
                    yield _wake_up({f"{stream}/{partition}": reach for (stream, partition), reach in due.items()})
                await asyncio.sleep(TICK_SECONDS)
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.to_thread(opened.close)

    async def _open(self, stack: ExitStack) -> list[Lookout]:
        """A lookout for each stream; waits for settings or connections that are wrong or not there yet."""
        while True:
            try:
                # In a thread: connections are looked up by calls that would block the triggerer's loop.
                return await asyncio.to_thread(_open_lookouts, stack)
            except SpendGateError as error:
                log.warning("Streams can't be watched, only the hourly schedule reads them: %s", error)
                await asyncio.sleep(LOOK_AGAIN_SECONDS)

    async def _watch(self, lookout: Lookout, wake_ups: WakeUps) -> None:
        name = lookout.stream.name
        while True:
            try:
                wake_ups.saw(name, await asyncio.to_thread(lookout.look))
            except SpendGateError as error:
                log.warning("%s can't be watched now, only the hourly schedule reads it: %s", name, error)
                wake_ups.saw(name, {})
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await asyncio.sleep(lookout.seconds)


# Streams of which the triggerer tells that they hold news.
STREAMS = Asset(
    "spendgate-streams",
    uri="spendgate://streams",
    watchers=[AssetWatcher(name="spendgate-stream-watcher", trigger=StreamTrigger())],
)


def alarm_failure(context: Mapping[str, Any]) -> None:
    """A task has failed for good: post an alarm to the webhook, if there is one. Never fails itself."""
    task = context["ti"]
    where = {"dag": str(task.dag_id), "task": str(task.task_id), "run": str(context.get("run_id"))}
    try:
        send_alarm(load_settings().alarm_webhook, "failed", alarm_sentence(context.get("exception")), where)
    except SpendGateError as error:
        log.warning("No alarm was sent: %s", error)


async def alarm_lateness(dag: str, minutes: int) -> None:
    """A run isn't done after so many minutes: the same, called by Airflow's triggerer."""
    sentence = f"It isn't done {minutes} minutes after it was queued: see its tasks in Airflow's UI."
    try:
        settings = load_settings()
        await asyncio.to_thread(send_alarm, settings.alarm_webhook, "late", sentence, {"dag": dag, "task": None})
    except SpendGateError as error:
        log.warning("No alarm was sent: %s", error)


def deadline(dag: str, minutes: int) -> DeadlineAlert:
    """An alarm when a run of a DAG takes longer than that, waiting for its turn included."""
    callback = AsyncCallback(alarm_lateness, kwargs={"dag": dag, "minutes": minutes})
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(minutes=minutes), callback=callback
    )


# Only what may go away by itself is tried again: `failing_permanently` fails the rest at once.
RETRIES: dict[str, Any] = {
    "on_failure_callback": alarm_failure,
    "retries": 4,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
}

AS_OF = Param(
    None,
    type=["null", "string"],
    format="date-time",
    title="Decide as of",
    description="Instant at which flags are decided (RFC 3339 with an offset); empty: now.",
)

RECONCILE: dict[str, Any] = {
    "from": Param(
        None,
        type=["null", "string"],
        format="date",
        title="From day",
        description="First day (UTC) to look at, like 2026-11-21; empty: three days in all.",
    ),
    "to": Param(None, type=["null", "string"], format="date", title="To day", description="Last day; empty: today."),
    "repair": Param(
        False,
        type="boolean",
        title="Repair",
        description="Mend what can be mended: merge lost events again, rebuild days, decide flags, send messages.",
    ),
}

REPLAY: dict[str, Any] = {
    "reason": Param(
        None,
        type=["null", "string"],
        enum=[None, *map(str, Reason)],
        title="Reason",
        description="Only events that were rejected for this reason; empty: for any.",
    ),
    "stream": Param(
        None, type=["null", "string"], title="Stream", description="Only events of this stream; empty: of all."
    ),
    "since": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Enqueued since",
        description="Only events enqueued at this instant (RFC 3339 with an offset) or later; empty: no limit.",
    ),
    "until": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Enqueued until",
        description="Only events enqueued before this instant; empty: no limit.",
    ),
    "dry_run": Param(
        True, type="boolean", title="Dry run", description="Only count what would be staged; nothing is written."
    ),
}

REVIEW: dict[str, Any] = {
    "batch_id": Param(None, type=["null", "integer"], minimum=1, title="Batch", description="Number of a held batch."),
    "decision": Param(
        None,
        type=["null", "string"],
        enum=[None, *map(str, Decision)],
        title="Decision",
        description="release: the next build merges it; discard: it never came.",
    ),
    "reason": Param(None, type=["null", "string"], title="Reason", description="Why, for who asks in a year."),
}

# What the step that is under way in this process has reported so far.
_STEP: list[tuple[str, Mapping[str, Any]]] = []

# What the tasks of a headless run, all in this process, reported and failed with.
_REPORTS: dict[str, dict[str, Any]] = {}
_FAILURES: list[SpendGateError] = []
_HEADLESS = False

_DRIVERS = {"mssql": MSSQL, "postgres": POSTGRESQL, "postgresql": POSTGRESQL}


@contextmanager
def open_pipeline() -> Iterator[Pipeline]:
    """The pipeline of this task: Airflow's connections where they are defined, the settings otherwise.

    A PermanentError inside fails the task at once; a TransientError leaves it to Airflow's retries. However it ends,
    the run's row in etl.RunLog says so, with what was reported inside.
    """
    _STEP.clear()
    began = utc_now()
    with failing_permanently():
        settings = load_settings()
        warehouse = _warehouse(settings)
        try:
            yield Pipeline(settings, warehouse, _endpoints(settings))
        except SpendGateError as error:
            _log_step(warehouse, began, alarm_sentence(error))
            raise
        else:
            _log_step(warehouse, began, None)
        finally:
            warehouse.close()


@contextmanager
def open_documents() -> Iterator[Documents]:
    """What writes the Data Docs of this task.

    In a headless run a person waits, and the task is skipped: the next scheduled build documents what it judged.
    """
    if _HEADLESS:
        raise AirflowSkipException("Documented by the next scheduled build.")
    with open_pipeline() as pipeline:
        yield pipeline.documents()


def _log_step(warehouse: Warehouse, began: datetime, error: str | None) -> None:
    """Add the task to its run's row. The books of runs fail nobody: what keeps them from being kept is logged."""
    try:
        context = get_current_context()
    except RuntimeError:
        return  # no task: a trigger, or a test
    task = context["ti"]
    tally = Tally()
    for name, counts in _STEP:
        tally.add(name, counts)
    try:
        step = Step(str(task.dag_id), str(task.run_id), str(task.task_id), began, utc_now(), error)
        log_step(warehouse, step, tally)
    except SpendGateError as refused:
        log.warning("etl.RunLog doesn't tell of this step: %s", refused)


def _wake_up(news: dict[str, str]) -> TriggerEvent:
    event: TriggerEvent = TriggerEvent(news)  # type: ignore[no-untyped-call]  # as above
    return event


def _open_lookouts(stack: ExitStack) -> list[Lookout]:
    settings = load_settings()
    endpoints = _endpoints(settings)
    warehouse = stack.enter_context(closing(_warehouse(settings)))
    intake = Pipeline(settings, warehouse, endpoints).intake()
    lookouts = [Lookout(endpoints.stream(name), intake, endpoints.look_seconds(name)) for name in settings.stream_kinds]
    for lookout in lookouts:
        stack.callback(lookout.close)
    return lookouts


@contextmanager
def failing_permanently() -> Iterator[None]:
    """Turn a PermanentError into Airflow's "fail, don't retry"."""
    try:
        yield
    except SpendGateError as error:
        _FAILURES.append(error)
        if isinstance(error, PermanentError):
            raise AirflowFailException(str(error)) from error
        raise


def report(step: str, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Write a step's numbers as one log line, and hand them on to XCom."""
    _REPORTS[step] = dict(counts)
    _STEP.append((step, counts))
    _send_metrics(step, counts)
    log.info("%s: %s", step, ", ".join(f"{name} {_plain(value)}" for name, value in counts.items()))
    return dict(counts)


def _send_metrics(step: str, counts: Mapping[str, Any]) -> None:
    """Every number as a gauge `spendgate.<step>.<name>`, where Airflow's StatsD or OpenTelemetry is switched on."""
    from airflow.sdk.observability import stats

    for name, value in counts.items():
        if isinstance(value, int | float):
            stats.gauge(f"spendgate.{step}.{name}", value)
        elif isinstance(value, Mapping):
            for part, number in value.items():
                if isinstance(number, int | float):
                    stats.gauge(f"spendgate.{step}.{name}.{part}", number)


def requested_days() -> tuple[Days, bool]:
    """Which days the run's parameters mean, and whether what differs is to be repaired.

    Raises:
        AirflowFailException: a parameter is no date.
    """
    asked = get_current_context()["params"]
    with failing_permanently():
        days = asked_days(asked["from"], asked["to"], utc_now().date())
    return days, bool(asked["repair"])


def bookkeeping(pipeline: Pipeline) -> Bookkeeping:
    """The books of a pipeline, kept in the name of the run."""
    return Bookkeeping(pipeline, str(get_current_context()["ti"].dag_id))


def requested_instant() -> datetime | None:
    """The run's `as_of` parameter; None: now.

    Raises:
        AirflowFailException: it isn't a time with an offset.
    """
    value = get_current_context()["params"].get("as_of")
    with failing_permanently():
        return parse_instant(value) if value else None


def requested_replay() -> tuple[RejectedFilter, bool]:
    """Which rejected events the run's parameters mean, and whether it is a dry run.

    Raises:
        AirflowFailException: a parameter is no reason or no time.
    """
    asked = get_current_context()["params"]
    with failing_permanently():
        which = RejectedFilter.typed(asked["reason"], asked["stream"], asked["since"], asked["until"])
    return which, bool(asked["dry_run"])


def requested_decision() -> tuple[int, Decision, str, str]:
    """Batch, decision, who triggered the run, and the reason, by the run's parameters.

    Raises:
        AirflowFailException: one is missing.
    """
    context = get_current_context()
    asked = context["params"]
    by = getattr(context["dag_run"], "triggering_user_name", None) or "airflow"
    with failing_permanently():
        if not asked["batch_id"] or not asked["decision"]:
            raise ConfigurationError("Trigger it with the number of a held batch and a decision, release or discard.")
        return int(asked["batch_id"]), Decision(asked["decision"]), str(by), asked["reason"] or ""


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} {count}" for name, count in value.items()) + "}"
    return value


def _connection(name: str) -> Connection | None:
    try:
        found: Connection = BaseHook.get_connection(name)
    except AirflowNotFoundException:
        return None
    return found


def _warehouse(settings: Settings) -> Warehouse:
    """The warehouse of the connection where it is defined, of the settings otherwise."""
    limits: dict[str, Any] = {"lock_timeout": settings.lock_timeout, "connections": settings.warehouse_connections}
    connection = _connection(WAREHOUSE_CONNECTION)
    if connection is None:
        return Warehouse(services.warehouse_url(settings), **limits)
    named = f"connection {WAREHOUSE_CONNECTION}"
    driver = _DRIVERS.get(connection.conn_type or "")
    if driver is None:
        raise ConfigurationError(
            f"Connection {WAREHOUSE_CONNECTION} is of type {connection.conn_type}; make it mssql or postgres."
        )
    extra = {name: value for name, value in connection.extra_dejson.items() if name.lower() != "sqlalchemy_scheme"}
    url = URL.create(
        driver,
        connection.login or None,
        connection.password or None,
        connection.host,
        connection.port,
        connection.schema,
        mssql_options(extra, named) if driver == MSSQL else {},
    )
    if driver == MSSQL:
        limits["make_engine"] = _mssql_engine
    return Warehouse(url, setting=named, **limits)


def _mssql_engine(url: URL, **options: Any) -> Engine:
    """The engine as Airflow's hook for SQL Server makes it, on Microsoft's own driver."""
    # Here, because it loads another driver, which no DAG file needs to be parsed.
    from airflow.providers.microsoft.mssql.hooks.mssql import MsSqlHook

    class Hook(MsSqlHook):
        @property
        def sqlalchemy_url(self) -> URL:
            """`url`: the hook would put a text together, in which what a person typed is quoted twice or not at all."""
            return url

    hook = Hook(mssql_conn_id=WAREHOUSE_CONNECTION, sqlalchemy_scheme=MSSQL)
    return hook.get_sqlalchemy_engine(engine_kwargs=options)


def _endpoints(settings: Settings) -> Endpoints:
    """Airflow's connections where they are defined, the settings otherwise."""
    files_url, files = _files(settings)
    return Endpoints(
        settings,
        kafka=lambda: _kafka_properties(settings),
        eventhub=_eventhub_options(settings) if settings.uses(StreamKind.EVENTHUB) else None,
        files_url=files_url,
        files=files,
    )


def _kafka_properties(settings: Settings) -> Mapping[str, Any]:
    connection = _connection(KAFKA_CONNECTION)
    if connection is None:
        return services.kafka_properties(settings)
    properties = dict(connection.extra_dejson)
    if not properties.get("bootstrap.servers"):
        raise ConfigurationError(f"Connection {KAFKA_CONNECTION} has no bootstrap.servers in its extra; add them.")
    return properties


def _eventhub_options(settings: Settings) -> Mapping[str, Any] | None:
    """The connection's extra; its password is the connection string, or its host the namespace."""
    connection = _connection(EVENTHUB_CONNECTION)
    if connection is None:
        return services.eventhub_options(settings)
    told = {"connection_string": connection.password, "namespace": connection.host}
    options = {**connection.extra_dejson, **{name: value for name, value in told.items() if value}}
    if not (options.get("connection_string") or options.get("namespace")):
        raise ConfigurationError(
            f"Connection {EVENTHUB_CONNECTION} has neither a password nor a host: put a connection string into its "
            "password, or the namespace's host name into its host."
        )
    return options


def _files(settings: Settings) -> tuple[str | None, Mapping[str, Any]]:
    """URL and options of the file system: of the connection's extra `url` is the first, the rest the second."""
    connection = _connection(FILES_CONNECTION) if settings.uses(StreamKind.FILES) else None
    if connection is None:
        return settings.files_url, settings.files_options
    options = dict(connection.extra_dejson)
    url = options.pop("url", None)
    if not url:
        raise ConfigurationError(f"Connection {FILES_CONNECTION} has no url in its extra; add it.")
    return str(url), options


def prepare_metadata(connections: Path, password: str, announce: Callable[[str], None]) -> None:
    """Bring Airflow's metadata database to this version, and make its connections and its user admin.

    By Airflow's own command line, in this process, so that no other process's arguments show the password. All of it
    may be repeated; connections and password become the given ones.

    Args:
        connections: a JSON file as `airflow connections import` reads it.
        password: of the user admin; needs the auth manager of the provider fab.

    Raises:
        ConfigurationError: Airflow refuses; its own message went to its log.
    """
    from airflow.cli.cli_parser import get_parser

    user = ("--username", "admin", "--password", password)
    person = ("--role", "Admin", "--firstname", "Ad", "--lastname", "Min", "--email", "admin@localhost")
    for arguments in (
        ("db", "migrate"),
        ("connections", "import", str(connections), "--overwrite"),
        ("users", "create", *user, *person),
        # An admin of an earlier time keeps its password when it is made again.
        ("users", "reset-password", *user),
    ):
        step = " ".join(arguments[:2])
        announce(f"airflow: {step}")
        try:
            parsed = get_parser().parse_args(arguments)
            parsed.func(parsed)
        except SystemExit as error:
            if error.code:
                raise ConfigurationError(
                    f"Airflow's command {step!r} failed: see above, and check the AIRFLOW__ variables."
                ) from error


def make_headless(dag: DAG) -> None:
    """Change a DAG for `dag.test()`: a person is waiting, so that a transient failure is told at once.

    Without deadlines, whose alarms the scheduler raises: in Airflow 3.3 a test run of a DAG that has one
    ends with an error.
    """
    for operator in dag.tasks:
        operator.retries = 0
    dag.deadline = None


def run_headless(as_of: datetime | None, announce: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Run ingest_events, then build_spend, task by task in this process.

    Airflow reads its configuration when it is imported: the caller sets
    `spendgate.local.airflow.environment(headless=True)` before it imports this module.

    Returns:
        The numbers of every step that reported any, by its name.

    Raises:
        SpendGateError: what made a task fail.
    """
    from airflow.dag_processing.dagbag import BundleDagBag

    global _HEADLESS
    _HEADLESS = True
    _REPORTS.clear()
    _FAILURES.clear()
    bag = BundleDagBag(dag_folder=ROOT / "dags", bundle_path=ROOT / "dags", bundle_name="dags-folder")
    if bag.import_errors:
        raise PermanentError(
            f"A DAG file doesn't load: {next(iter(bag.import_errors.values())).strip().splitlines()[-1]}"
        )
    conf = {"as_of": format_instant(as_of)} if as_of else {}
    for dag_id, dag_conf in (("ingest_events", {}), ("build_spend", conf)):
        announce(dag_id)
        dag = bag.dags[dag_id]
        make_headless(dag)
        run = dag.test(logical_date=None, run_conf=dag_conf)
        if run.state != DagRunState.SUCCESS:
            if _FAILURES:
                raise _FAILURES[0]
            raise PermanentError(f"{dag_id} ended as {run.state}; run again with --debug to see why.")
    return dict(_REPORTS)
