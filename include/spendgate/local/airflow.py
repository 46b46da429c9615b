"""Airflow on a laptop: its settings, its four components, its metadata database, and a client of its API.

The components are started one by one: `airflow standalone` leaves children behind when it is stopped, and the
log servers, which local tasks don't need, listen on every address.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.metadata
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psutil
from filelock import FileLock

from spendgate.errors import ServiceError
from spendgate.local.home import read_or_create_secret, write_atomically
from spendgate.local.processes import LOCALHOST, SUPERVISED, Supervisor, pick_port
from spendgate.settings import ROOT, Settings

API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER = "api-server", "scheduler", "dag-processor", "triggerer"
COMPONENTS = (API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER)
USER = "admin"

# -P: a module's name in the working directory isn't taken for the module.
AIRFLOW = (sys.executable, "-P", "-m", "spendgate.airflow_main")

DAGS_FOLDER = ROOT / "dags"
PLUGINS_FOLDER = ROOT / "plugins"

# Four Python processes import Airflow on two cores: 20 s when nothing else runs.
START_TIMEOUT = 240.0
MIGRATION_TIMEOUT = 600.0
DEFAULT_UI_PORT = 8080


def environment(settings: Settings, *, headless: bool = False) -> dict[str, str]:
    """The whole environment of a process that works with this home's Airflow.

    `headless` is for DAG runs inside the caller's process (`dag.test()`): they get a metadata database of
    their own, because a live scheduler would also pick up their tasks.
    """
    home, airflow_home = settings.home, settings.home / "airflow"
    port = Supervisor(home).remembered_port(API_SERVER) or DEFAULT_UI_PORT
    # Another project's Airflow settings stay out; connections and variables may come from the environment.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW__") and name not in ("AIRFLOW_CONFIG", SUPERVISED)
    }
    search_path = [str(ROOT / "include"), *filter(None, [os.environ.get("PYTHONPATH")])]
    no_proxy = [*filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy")]), LOCALHOST]
    return {
        **inherited,
        **settings.as_environment(),
        **_airflow_settings(home, metadata_database(settings, headless=headless), port),
        "AIRFLOW_HOME": str(airflow_home),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(search_path)),
        # Tasks talk to the API server over the loopback, whatever proxy the machine uses.
        "NO_PROXY": ",".join(no_proxy),
        "no_proxy": ",".join(no_proxy),
    }


def metadata_database(settings: Settings, *, headless: bool = False) -> Path:
    """The SQLite file of Airflow's metadata."""
    return settings.home / "airflow" / ("headless.db" if headless else "airflow.db")


def blank_database(settings: Settings) -> Path:
    """The SQLite file that new databases of this home, and of this version of Airflow, are copies of."""
    return settings.home / "airflow" / f"blank-{_version()}.db"


def password(home: Path) -> str:
    """The password of the UI's user."""
    stored = json.loads(read_or_create_secret(home, "airflow_passwords.json", _make_passwords))
    return str(stored[USER])


def url(supervisor: Supervisor) -> str | None:
    """The UI's address as started last; None when it never was."""
    port = supervisor.remembered_port(API_SERVER)
    return None if port is None else f"http://{LOCALHOST}:{port}"


def migrate_metadata(
    settings: Settings, *, headless: bool = False, report: Callable[[str], None] = lambda _: None
) -> None:
    """Bring the metadata database to this version of Airflow; returns at once when it is.

    The work is done on a copy, which then takes the database's place: a killed migration leaves no half.
    A new database is a copy of a blank one, which is made once, as that takes ten seconds.

    Raises:
        ServiceError: the migration failed; the sentence names its log.
    """
    database = metadata_database(settings, headless=headless)
    if _is_migrated(database):
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.parent / "migration.lock", timeout=MIGRATION_TIMEOUT):
        if _is_migrated(database):
            return
        if database.exists():
            report("airflow: migrating the metadata database")
            _migrate_copy(settings, database, database)
        else:
            blank = blank_database(settings)
            if not blank.exists():
                report("airflow: making the metadata database")
                _migrate_copy(settings, None, blank)
            _copy_database(blank, _beside(database))
            _beside(database).replace(database)
        write_atomically(_version_file(database), _version())


def start(supervisor: Supervisor, settings: Settings, report: Callable[[str], None]) -> None:
    """Start the components that aren't healthy, all at once, and wait until they are.

    Raises:
        ServiceError: the chosen port is in use, or a component doesn't start; the sentence names its log.
    """
    if not _is_migrated(metadata_database(settings)):
        supervisor.stop(COMPONENTS)
        migrate_metadata(settings, report=report)
    before = health(supervisor)
    if all(before.values()) and _runs_with(supervisor, settings):
        return
    if not before[API_SERVER] or not _runs_with(supervisor, settings):
        # Its port may change, and its port is a setting of all the others.
        supervisor.stop(COMPONENTS)
        before = dict.fromkeys(COMPONENTS, False)
        remembered = supervisor.remembered_port(API_SERVER)
        port = pick_port("SPENDGATE_UI_PORT", settings.ui_port, remembered, DEFAULT_UI_PORT)
        supervisor.remember_port(API_SERVER, port)
    report("airflow: starting")
    surroundings = environment(settings)
    for name in COMPONENTS:
        if not before[name]:
            supervisor.start(
                name,
                [*AIRFLOW, *_arguments(name, supervisor)],
                surroundings,
                fingerprint=_fingerprint(settings),
            )
    _wait_until_healthy(supervisor)
    report(f"airflow: ready on {url(supervisor)}")


def health(supervisor: Supervisor, timeout: float = 3.0) -> dict[str, bool]:
    """Which components run and say that they are well, by a heartbeat since their start."""
    records = {name: supervisor.record(name) for name in COMPONENTS}
    server = records[API_SERVER]
    reported = _monitored(supervisor, timeout) if server and _listens(server.pid, supervisor) else None
    if reported is None:
        return dict.fromkeys(COMPONENTS, False)
    result = {API_SERVER: reported.get("metadatabase", {}).get("status") == "healthy"}
    for name in (SCHEDULER, DAG_PROCESSOR, TRIGGERER):
        key = name.replace("-", "_")
        state, record = reported.get(key, {}), records[name]
        heartbeat = state.get(f"latest_{key}_heartbeat")
        result[name] = bool(
            record
            and state.get("status") == "healthy"
            and heartbeat
            and datetime.fromisoformat(heartbeat) > datetime.fromtimestamp(record.started_at, UTC)
        )
    return result


def _airflow_settings(home: Path, database: Path, port: int) -> dict[str, str]:
    address = f"http://{LOCALHOST}:{port}"
    passwords = home / "secrets" / "airflow_passwords.json"
    read_or_create_secret(home, passwords.name, _make_passwords)
    options: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": DAGS_FOLDER,
            "plugins_folder": PLUGINS_FOLDER,
            "executor": "LocalExecutor",
            # Two cores; four tasks also leave room for those that only wait.
            "parallelism": 4,
            "load_examples": False,
            "dags_are_paused_at_creation": True,
            "execution_api_server_url": f"{address}/execution/",
            # A look-up of the machine's full name may wait for a name server that isn't there.
            "hostname_callable": "socket.gethostname",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": passwords,
            "fernet_key": read_or_create_secret(home, "airflow_fernet_key", _make_fernet_key),
            "min_serialized_dag_update_interval": 5,
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{database}"},
        "api": {
            "base_url": address,
            "host": LOCALHOST,
            "port": port,
            "workers": 1,
            "secret_key": read_or_create_secret(home, "airflow_api_key", _make_key),
        },
        "api_auth": {"jwt_secret": read_or_create_secret(home, "airflow_jwt_key", _make_key)},
        "logging": {"base_log_folder": home / "airflow" / "logs", "colored_console_log": False},
        "dag_processor": {
            # A new file shows within seconds; a known one is parsed again after 15 s, which costs a core 1 s.
            "refresh_interval": 5,
            "bundle_refresh_check_interval": 2,
            "min_file_process_interval": 15,
            "parsing_processes": 1,
            "dag_processor_child_process_log_directory": home / "airflow" / "logs" / "dag_processor",
        },
    }
    return {
        f"AIRFLOW__{section}__{option}".upper(): str(value)
        for section, values in options.items()
        for option, value in values.items()
    }


def _make_key() -> str:
    # 64 bytes: what HS512, by which Airflow signs its tokens, asks for.
    return secrets.token_urlsafe(64)


def _make_fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii")


def _make_passwords() -> str:
    return json.dumps({USER: secrets.token_urlsafe(12)})


def _arguments(name: str, supervisor: Supervisor) -> tuple[str, ...]:
    if name == API_SERVER:
        port = supervisor.remembered_port(API_SERVER) or DEFAULT_UI_PORT
        return (name, "--host", LOCALHOST, "--port", str(port))
    return (name, "--skip-serve-logs") if name in (SCHEDULER, TRIGGERER) else (name,)


def _fingerprint(settings: Settings) -> str:
    """Of what a running Airflow keeps: its environment, and our code, which its tasks are forked with."""
    code = sorted((str(file), file.stat().st_mtime_ns) for file in (ROOT / "include").rglob("*.py"))
    told = json.dumps([settings.as_environment(), str(DAGS_FOLDER), _version(), code], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _runs_with(supervisor: Supervisor, settings: Settings) -> bool:
    expected = _fingerprint(settings)
    records = (supervisor.record(name) for name in COMPONENTS)
    return all(record is None or record.fingerprint == expected for record in records)


def _monitored(supervisor: Supervisor, timeout: float) -> dict[str, dict[str, str]] | None:
    from spendgate.local.airflow_client import ask_health

    return ask_health(str(url(supervisor)), timeout)


def _listens(pid: int, supervisor: Supervisor) -> bool:
    """Whether our own API server has the port: of two homes that start at once both may have found it free."""
    port = supervisor.remembered_port(API_SERVER)
    try:
        server = psutil.Process(pid)
        family = [server, *server.children(recursive=True)]
        sockets = [socket for process in family for socket in process.net_connections("tcp4")]
    except psutil.Error:
        return False
    return any(socket.status == psutil.CONN_LISTEN and socket.laddr.port == port for socket in sockets)


def _wait_until_healthy(supervisor: Supervisor) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while not all((state := health(supervisor)).values()):
        dead = next((name for name in COMPONENTS if supervisor.record(name) is None), None)
        late = next(name for name in COMPONENTS if not state[name])
        if dead or time.monotonic() > deadline:
            supervisor.stop(COMPONENTS)
            name = dead or late
            raise ServiceError(f"Airflow's {name} didn't start: see {supervisor.log_file(name)}.")
        time.sleep(0.25)


def _version() -> str:
    return importlib.metadata.version("apache-airflow-core")


def _version_file(database: Path) -> Path:
    return database.with_suffix(".version")


def _is_migrated(database: Path) -> bool:
    try:
        return database.exists() and _version_file(database).read_text(encoding="ascii") == _version()
    except FileNotFoundError:
        return False


def _beside(database: Path) -> Path:
    return database.with_suffix(".new")


def _migrate_copy(settings: Settings, source: Path | None, target: Path) -> None:
    """Migrate a copy of `source` (None: an empty database) and put it in the place of `target`."""
    copy = _beside(target)
    copy.unlink(missing_ok=True)
    if source is not None:
        _copy_database(source, copy)
    surroundings = {**environment(settings), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{copy}"}
    log_file = Supervisor(settings.home).log_file("airflow-migration")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("wb") as output:
        try:
            done = subprocess.run(
                [*AIRFLOW, "db", "migrate"],
                env=surroundings, cwd=settings.home, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=MIGRATION_TIMEOUT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ServiceError(f"Airflow's metadata wasn't migrated in time: see {log_file}.") from error
    if done.returncode != 0:
        raise ServiceError(f"Airflow's metadata couldn't be migrated: see {log_file}.")
    copy.replace(target)


def _copy_database(source: Path, target: Path) -> None:
    # SQLite's own copy: it takes along what still is in the write-ahead log.
    target.unlink(missing_ok=True)
    closing, connect = contextlib.closing, sqlite3.connect
    with closing(connect(source)) as old, closing(connect(target)) as new:
        old.backup(new)
