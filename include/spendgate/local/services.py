"""The laptop's services together: up, down, their states, and where to reach them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from filelock import FileLock, Timeout

from spendgate.errors import ServiceError, SpendGateError
from spendgate.local import airflow as airflow_service
from spendgate.local import broker, postgres
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import Settings, StreamKind
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse

Report = Callable[[str], None]

# A cold start of everything takes less than a minute on two cores.
LOCK_TIMEOUT = 300.0
CHECK_TIMEOUT = 5.0
SIGNALS = {postgres.NAME: postgres.STOP_SIGNAL}

# A task that ends while its scheduler waits for it still finds the API server, to say so, and the warehouse.
STOP_ORDER = (
    (airflow_service.SCHEDULER, airflow_service.DAG_PROCESSOR, airflow_service.TRIGGERER),
    (airflow_service.API_SERVER, broker.NAME, postgres.NAME),
)


@dataclass(frozen=True)
class ServiceState:
    """How one service is: where it is reached (empty: nowhere), and its pid if it is one of ours."""

    name: str
    healthy: bool
    address: str
    detail: str
    pid: int | None = None


def up(settings: Settings, *, airflow: bool = True, report: Report) -> None:
    """Start what isn't healthy, side by side, and return when all of it is.

    The warehouse or the broker isn't started when the settings point to another one.

    Raises:
        ServiceError: something doesn't start (the rest is left running), or another up or down is under way.
    """
    supervisor = Supervisor(settings.home)
    starters: list[Callable[[Supervisor, Settings, Report], None]] = []
    if settings.warehouse_url is None:
        starters.append(postgres.start)
    if settings.kafka_bootstrap is None and settings.uses(StreamKind.KAFKA):
        starters.append(broker.start)
    if airflow:
        starters.append(airflow_service.start)
    with _lock(settings, report), _disk_errors(settings):
        report = _one_at_a_time(report)
        with ThreadPoolExecutor(max_workers=max(1, len(starters))) as pool:
            started: list[Future[None]] = [pool.submit(start, supervisor, settings, report) for start in starters]
        for future in started:
            future.result()


def down(settings: Settings, report: Report) -> None:
    """Stop everything of this home, also what a killed parent left behind, whatever a task still does.

    Raises:
        ServiceError: a process can't be stopped, or another up or down is under way.
    """
    if not settings.home.exists():
        return
    supervisor = Supervisor(settings.home)
    with _lock(settings, report), _disk_errors(settings):
        for names in STOP_ORDER:
            running = [name for name in names if supervisor.record(name)]
            if running:
                report(f"stopping {', '.join(running)}")
            supervisor.stop(names, signals=SIGNALS)
        supervisor.stop(signals=SIGNALS)


def states(settings: Settings) -> list[ServiceState]:
    """How each service is, asked of the service itself, side by side, each within a few seconds."""
    supervisor = Supervisor(settings.home)
    checks: list[Callable[[Supervisor, Settings], list[ServiceState]]] = [
        _warehouse_state,
        _broker_state,
        _airflow_states,
    ]
    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        found = pool.map(lambda check: check(supervisor, settings), checks)
        return [state for part in found for state in part]


def warehouse_url(settings: Settings) -> sqlalchemy.URL:
    """The warehouse's URL: the one set, else the laptop's.

    Raises:
        ServiceError: the laptop's warehouse was never started here.
    """
    if settings.warehouse_url is not None:
        return sqlalchemy.make_url(settings.warehouse_url.get_secret_value())
    url = postgres.url(Supervisor(settings.home))
    if url is None:
        raise ServiceError("The laptop's warehouse was never started here: run ./spendgate up.")
    return url


def kafka_properties(settings: Settings) -> dict[str, Any]:
    """librdkafka's properties to reach the broker: the one set, else the laptop's.

    Raises:
        ServiceError: the laptop's broker was never started here.
    """
    bootstrap = settings.kafka_bootstrap or broker.address(Supervisor(settings.home))
    if bootstrap is None:
        raise ServiceError("The laptop's broker was never started here: run ./spendgate up.")
    return {"bootstrap.servers": bootstrap, **settings.kafka_properties}


def endpoints(settings: Settings) -> Endpoints:
    """How the streams of these settings are reached; a broker that was never started is told when it is asked for."""
    return Endpoints(
        settings,
        kafka=lambda: kafka_properties(settings),
        eventhub=eventhub_options(settings),
        files_url=settings.files_url,
        files=settings.files_options,
    )


def eventhub_options(settings: Settings) -> dict[str, Any] | None:
    """The options for Event Hubs that are set; None when neither a connection string nor a namespace is."""
    told = {
        "connection_string": settings.eventhub_connection and settings.eventhub_connection.get_secret_value(),
        "namespace": settings.eventhub_namespace,
        "consumer_group": settings.eventhub_consumer_group,
    }
    if not (told["connection_string"] or told["namespace"]):
        return None
    return {**settings.eventhub_options, **{name: value for name, value in told.items() if value}}


def ui(settings: Settings) -> tuple[str, str, str]:
    """Address, user and password of Airflow's UI.

    Raises:
        ServiceError: Airflow was never started here.
    """
    url = airflow_service.url(Supervisor(settings.home))
    if url is None:
        raise ServiceError("Airflow was never started here: run ./spendgate up.")
    return url, airflow_service.USER, airflow_service.password(settings.home)


def _warehouse_state(supervisor: Supervisor, settings: Settings) -> list[ServiceState]:
    if settings.warehouse_url is not None:
        url = warehouse_url(settings)
        shown = url.render_as_string(hide_password=True)
        return [_elsewhere("warehouse", shown, "SPENDGATE_WAREHOUSE_URL", lambda: _answers(url))]
    port = supervisor.remembered_port(postgres.NAME)
    address = f"{LOCALHOST}:{port}" if port else ""
    return [_own(supervisor, postgres.NAME, address, postgres.is_healthy(supervisor))]


def _broker_state(supervisor: Supervisor, settings: Settings) -> list[ServiceState]:
    bootstrap = settings.kafka_bootstrap
    if bootstrap is not None:
        properties = settings.kafka_properties
        return [
            _elsewhere(
                broker.NAME,
                bootstrap,
                "SPENDGATE_KAFKA_BOOTSTRAP",
                lambda: broker.is_healthy(bootstrap, properties=properties),
            )
        ]
    address = broker.address(supervisor) or ""
    healthy = bool(supervisor.record(broker.NAME)) and broker.is_healthy(address)
    return [_own(supervisor, broker.NAME, address, healthy)]


def _airflow_states(supervisor: Supervisor, _settings: Settings) -> list[ServiceState]:
    health = airflow_service.health(supervisor)
    address = airflow_service.url(supervisor) or ""
    return [
        _own(supervisor, name, address if name == airflow_service.API_SERVER else "", health[name])
        for name in airflow_service.COMPONENTS
    ]


def _own(supervisor: Supervisor, name: str, address: str, healthy: bool) -> ServiceState:
    record = supervisor.record(name)
    if record is None:
        return ServiceState(name, False, address, "not running; ./spendgate up starts it")
    detail = "running" if healthy else f"runs but doesn't answer; see {supervisor.log_file(name)}"
    return ServiceState(name, healthy, address, detail, record.pid)


def _elsewhere(name: str, address: str, setting: str, answers: Callable[[], bool]) -> ServiceState:
    """The state of a server that isn't ours; one that doesn't answer in time counts as not healthy."""
    result: list[bool] = []
    # A driver may take longer to give up than a person waits, and can't be told: its thread is left behind.
    thread = threading.Thread(target=lambda: result.append(answers()), daemon=True)
    thread.start()
    thread.join(CHECK_TIMEOUT)
    healthy = result == [True]
    return ServiceState(name, healthy, address, f"set by {setting}" + ("" if healthy else "; doesn't answer"))


def _answers(url: sqlalchemy.URL) -> bool:
    warehouse = None
    try:
        warehouse = Warehouse(url)
        with warehouse.transaction(read_only=True) as transaction:
            return bool(transaction.connection.execute(sqlalchemy.text("SELECT 1")).scalar_one() == 1)
    except SpendGateError:
        return False
    finally:
        if warehouse is not None:
            warehouse.close()


@contextmanager
def _lock(settings: Settings, report: Report) -> Iterator[None]:
    """One up or down at a time. The kernel drops the lock with its process, so a killed one blocks nobody."""
    path = settings.home / "run" / "services.lock"
    with _disk_errors(settings):
        path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report("waiting for another up or down to end")
        try:
            lock.acquire(timeout=LOCK_TIMEOUT)
        except Timeout as error:
            raise ServiceError("Another up or down is under way: try again when it has ended.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(settings: Settings) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ServiceError(
            f"{error.filename or settings.home} can't be written ({error.strerror}): check the room and the "
            "permissions there, or set SPENDGATE_HOME to another directory."
        ) from error


def _one_at_a_time(report: Report) -> Report:
    mutex = threading.Lock()

    def locked(line: str) -> None:
        with mutex:
            report(line)

    return locked
