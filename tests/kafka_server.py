"""Apache Kafka itself for tests: one broker that is its own controller (KRaft), from jars that Maven fetches once.

It needs Java 17 or later and Maven; `missing()` says what this machine lacks.
"""

from __future__ import annotations

import atexit
import base64
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

POM = Path(__file__).with_name("apache-kafka.pom.xml")
LEAST_JAVA = 17

# 100 MB, once; several test processes may wait for the one that fetches.
_FETCH_SECONDS = 600.0
# 3 s on an idle machine.
_START_SECONDS = 90.0
# Ports that the kernel doesn't give to outgoing connections: a client that tries again and again to reach a broker
# that is down could otherwise be given the broker's own port, and would keep it from coming back.
_PORTS = range(20_000, 32_000)

# A short life on a small machine: quick to start, little memory.
_JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xshare:auto")

# One broker has no replicas, and tests don't wait for minutes until retention or compaction look at a log.
_SERVER: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "num.partitions": "1",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "log.initial.task.delay.ms": "100",
    "log.retention.check.interval.ms": "200",
    "log.segment.delete.delay.ms": "100",
    "log.cleaner.backoff.ms": "100",
    "log.cleaner.dedupe.buffer.size": "16777216",
}


@cache
def missing() -> str | None:
    """What keeps Apache Kafka from running here, in a few words; None if nothing does."""
    if shutil.which(_java()) is None:
        return f"there is no Java (install {LEAST_JAVA} or later)"
    told = subprocess.run([_java(), "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < LEAST_JAVA:
        return f"Java is older than {LEAST_JAVA}"
    if shutil.which("mvn") is None:
        return "there is no Maven (mvn)"
    return None


def require() -> None:
    """Skip the test that calls this where Apache Kafka can't run; the summary says so too."""
    lacking = missing()
    if lacking:
        pytest.skip(f"needs Apache Kafka: {lacking}")


class ApacheKafka:
    """Apache Kafka on free ports of 127.0.0.1, its data in a directory of its own that goes with it.

    `properties` are server.properties beside our own. `listeners` are further ones by security protocol (SSL,
    SASL_PLAINTEXT, SASL_SSL), beside the plain one of `bootstrap`; their addresses are in `addresses`.

    Usable as a context manager. `kill` is SIGKILL; `start` after it comes back on the same data and ports.
    """

    def __init__(self, properties: Mapping[str, str] | None = None, listeners: tuple[str, ...] = ()) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="spendgate-kafka-"))
        atexit.register(self.close)  # also when nobody came to close it
        self.addresses = {name: f"127.0.0.1:{_free_port()}" for name in ("PLAINTEXT", *listeners)}
        self.bootstrap = self.addresses["PLAINTEXT"]
        controller = f"127.0.0.1:{_free_port()}"
        urls = [f"{name}://{address}" for name, address in self.addresses.items()]
        _write_properties(
            self._config,
            {
                **_SERVER,
                "listeners": ",".join([*urls, f"CONTROLLER://{controller}"]),
                "advertised.listeners": ",".join(urls),
                "listener.security.protocol.map": ",".join(
                    ["CONTROLLER:PLAINTEXT", *(f"{name}:{name}" for name in self.addresses)]
                ),
                "controller.quorum.bootstrap.servers": controller,
                "log.dirs": str(self._directory / "data"),
                **(properties or {}),
            },
        )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> ApacheKafka:
        """Start the broker and wait until it answers and has a controller."""
        if not (self._directory / "data").exists():
            self._format()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_command(), "kafka.Kafka", str(self._config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self._await()
        except BaseException:
            self.kill()
            raise
        return self

    def pause(self) -> None:
        """Let the broker do nothing more, its connections open, until `kill`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End the broker, if it runs, and reap it; its data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the broker and remove its data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
        atexit.unregister(self.close)

    def __enter__(self) -> ApacheKafka:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _config(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _log(self) -> Path:
        return self._directory / "server.log"

    def _format(self) -> None:
        # Its first byte is 0, so that it doesn't begin with a dash, which would make it an option.
        cluster_id = base64.urlsafe_b64encode(bytes(1) + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        arguments = ["format", "--standalone", "--cluster-id", cluster_id, "--config", str(self._config)]
        done = subprocess.run(
            [*_command(), "kafka.tools.StorageTool", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Apache Kafka's storage could not be formatted: {done.stdout}{done.stderr}")

    def _await(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        address = _split(self.bootstrap)
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"Apache Kafka ended with status {self._process.returncode}: {self._last_words()}")
            try:
                socket.create_connection(address, timeout=1).close()
            except OSError:
                time.sleep(0.05)
                continue
            if self._answers():
                return
        raise RuntimeError(f"Apache Kafka didn't answer in {_START_SECONDS:g} s: {self._last_words()}")

    def _answers(self) -> bool:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})  # its futures don't outlive it
        try:
            return admin.describe_cluster(request_timeout=2).result(3).controller is not None
        except (KafkaException, TimeoutError):
            return False

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-4_000:]


@cache
def classpath() -> str:
    """Apache Kafka's jars and all they need, fetched by Maven unless an earlier call did.

    Raises:
        RuntimeError: Maven could not fetch them.
    """
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spendgate-tests"
    directory.mkdir(parents=True, exist_ok=True)
    known = directory / f"kafka-{hashlib.sha256(POM.read_bytes()).hexdigest()[:16]}.classpath"
    with _locked(known.with_suffix(".lock")):
        jars = known.read_text() if known.exists() else ""
        # Maven's repository is the user's, who may have emptied it.
        if not jars or not all(Path(jar).is_file() for jar in jars.split(os.pathsep)):
            jars = _fetch(known)
    return jars


def _fetch(known: Path) -> str:
    fresh = known.with_suffix(".new")
    done = subprocess.run(
        [
            str(shutil.which("mvn")),
            "-q",
            "-B",
            "-f",
            str(POM),
            "dependency:build-classpath",
            f"-Dmdep.outputFile={fresh}",
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_FETCH_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"Maven could not fetch Apache Kafka: {done.stdout}{done.stderr}")
    jars = fresh.read_text().strip()
    fresh.write_text(jars)
    fresh.replace(known)
    return jars


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a file's lock, which the kernel drops with this process."""
    deadline = time.monotonic() + _FETCH_SECONDS
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another process held {path} for {_FETCH_SECONDS:g} s") from None
                time.sleep(0.2)
        yield


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else "java"


def _command() -> list[str]:
    return [_java(), *_JVM, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", classpath()]


def _write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """As java.util.Properties reads them; values may have several lines (PEM)."""
    escapes = str.maketrans({"\\": r"\\", "\n": r"\n"})
    path.write_text("".join(f"{name}={value.translate(escapes)}\n" for name, value in properties.items()))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port was found")
