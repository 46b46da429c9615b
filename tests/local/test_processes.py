"""Services are found and stopped whatever happened to their parents, and nobody else's process is touched."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from spendgate.errors import ServiceError
from spendgate.local import processes
from spendgate.local.processes import LOCALHOST, Supervisor, pick_port, process_identity

# A parent that starts a child and tells its pid; both then sleep.
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=sys.argv[3] == "own session")
print(child.pid, flush=True)
time.sleep(100)
"""
SLEEPER = "import time; time.sleep(100)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(100)"
)
# As setproctitle does: its title goes over the arguments and the environment.
RETITLED = """
import time
from setproctitle import setproctitle
setproctitle("somebody " + "x" * 5000)
time.sleep(100)
"""


def wait_for(condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def start_python(supervisor: Supervisor, name: str, *arguments: str) -> processes.Record:
    return supervisor.start(name, [sys.executable, "-c", *arguments], dict(os.environ))


def start_family(supervisor: Supervisor, child: str = SLEEPER, session: str = "parent's session") -> tuple[int, int]:
    parent = start_python(supervisor, "family", PARENT, "parent", child, session)
    wait_for(lambda: supervisor.log_tail("family"))
    return parent.pid, int(supervisor.log_tail("family").split()[0])


def runs(pid: int) -> bool:
    return process_identity(pid) is not None


def test_a_started_service_is_found_by_another_process_and_stopped(supervisor: Supervisor) -> None:
    record = start_python(supervisor, "sleeper", SLEEPER)
    again = Supervisor(supervisor.home)
    assert again.record("sleeper") == record
    again.stop(["sleeper"])
    assert not runs(record.pid)
    assert again.record("sleeper") is None


def test_a_service_runs_in_a_session_of_its_own_and_writes_to_its_log(supervisor: Supervisor) -> None:
    record = start_python(supervisor, "talker", "print('hello', flush=True); import time; time.sleep(100)")
    wait_for(lambda: "hello" in supervisor.log_tail("talker"))
    assert os.getsid(record.pid) == record.pid


@pytest.mark.parametrize("session", ["parent's session", "own session"])
def test_children_of_a_killed_parent_are_stopped(supervisor: Supervisor, session: str) -> None:
    parent, child = start_family(supervisor, session=session)
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: not runs(parent))
    assert [process.pid for process in supervisor.processes()] == [child]
    supervisor.stop()
    assert not runs(child)


def test_a_child_that_wrote_its_title_over_its_environment_is_still_found(supervisor: Supervisor) -> None:
    parent, child = start_family(supervisor, child=RETITLED)
    wait_for(lambda: psutil.Process(child).cmdline()[0].startswith("somebody"))
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: not runs(parent))
    supervisor.stop()
    assert not runs(child)


def test_what_ignores_sigterm_is_killed_after_the_timeout(supervisor: Supervisor) -> None:
    record = start_python(supervisor, "stubborn", STUBBORN)
    wait_for(lambda: supervisor.log_tail("stubborn"))
    began = time.monotonic()
    supervisor.stop(["stubborn"], timeout=0.3)
    assert not runs(record.pid)
    assert 0.3 <= time.monotonic() - began < 5


def test_stopping_one_service_leaves_the_others_alone(supervisor: Supervisor) -> None:
    start_python(supervisor, "one", SLEEPER)
    other = start_python(supervisor, "other", SLEEPER)
    supervisor.stop(["one"])
    assert [process.pid for process in supervisor.processes()] == [other.pid]


def test_a_pid_that_was_given_to_another_process_is_not_touched(supervisor: Supervisor) -> None:
    record = start_python(supervisor, "sleeper", SLEEPER)
    supervisor.stop(["sleeper"])
    with subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True) as stranger:
        stale = dataclasses.replace(record, pid=stranger.pid)
        path = supervisor.home / "run" / "sleeper.json"
        path.write_text(json.dumps(dataclasses.asdict(stale)))
        assert supervisor.record("sleeper") is None
        supervisor.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_two_homes_side_by_side_do_not_see_each_other(supervisor: Supervisor, tmp_path: Path) -> None:
    record = start_python(supervisor, "sleeper", SLEEPER)
    neighbour = Supervisor(tmp_path / "another home")
    neighbour.stop()
    assert runs(record.pid)


def test_a_damaged_record_counts_as_none_and_its_process_is_found_all_the_same(supervisor: Supervisor) -> None:
    record = start_python(supervisor, "sleeper", SLEEPER)
    (supervisor.home / "run" / "sleeper.json").write_text("{")
    assert supervisor.record("sleeper") is None
    supervisor.stop()
    assert not runs(record.pid)


def test_starting_again_stops_the_earlier_process(supervisor: Supervisor) -> None:
    first = start_python(supervisor, "sleeper", SLEEPER)
    second = start_python(supervisor, "sleeper", SLEEPER)
    assert not runs(first.pid)
    assert runs(second.pid)


def test_a_program_that_is_not_there_is_one_sentence(supervisor: Supervisor) -> None:
    with pytest.raises(ServiceError, match=r"/nowhere/program can't be started \(No such file"):
        supervisor.start("absent", ["/nowhere/program"], {})


def test_a_log_that_grew_large_is_set_aside_at_the_next_start(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "MAX_LOG_BYTES", 10)
    log_file = supervisor.log_file("sleeper")
    log_file.parent.mkdir()
    log_file.write_text("more than ten bytes")
    start_python(supervisor, "sleeper", SLEEPER)
    assert log_file.with_suffix(".log.1").read_text() == "more than ten bytes"


def test_a_chosen_port_in_use_is_one_sentence_that_names_the_setting() -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ServiceError, match=f"Port {port} is in use: set SPENDGATE_UI_PORT"):
            pick_port("SPENDGATE_UI_PORT", port)


def test_a_preferred_port_in_use_gives_way_to_a_free_one() -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        port = server.getsockname()[1]
        assert pick_port("SPENDGATE_UI_PORT", 0, None, port) not in (0, port)


def test_a_remembered_port_is_none_until_there_is_one(supervisor: Supervisor) -> None:
    assert supervisor.remembered_port("broker") is None
    supervisor.remember_port("broker", 9092)
    assert supervisor.remembered_port("broker") == 9092
