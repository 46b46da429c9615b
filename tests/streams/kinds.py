"""The kinds of streams that the contract (test_contract.py) is held to, each over a server of its own."""

from __future__ import annotations

import itertools
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka import Producer, TopicPartition
from pydantic import SecretStr
from tests import kafka_server
from tests.brokers import Bench, WheelBroker, free_port
from tests.eventhubs.server import EventHubsServer, server_process
from tests.streams import azure_storage

from spendgate.clock import format_instant, utc_now

# Numbered clicks, as fast as they can be made.
_CLICK = (
    b'{"event_type":"click","click_id":"00000000-0000-4000-8000-%012d","advertiser_id":%d,"ad_id":7,'
    b'"click_time":"%s","amount":"0.25"}'
)


def many_clicks(count: int, time: str) -> Iterable[bytes]:
    stamp = time.encode()
    return (_CLICK % (number, 1 + number % 1000, stamp) for number in range(count))


class Kind(ABC):
    """A server of one kind with streams on it, each of one partition; `folder` is its own."""

    # Whether it can remove what was never read.
    can_lose = True
    # Whether being away can't be told from never having been there.
    away_is_permanent = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def start(self) -> None:
        """Start, or start again with what it held."""

    @abstractmethod
    def stop(self) -> None:
        """Be gone, as if killed."""

    @abstractmethod
    def close(self) -> None:
        """End for good, and leave nothing behind."""

    @abstractmethod
    def make_stream(self) -> str:
        """A new, empty stream's name."""

    @abstractmethod
    def settings(self, stream: str) -> dict[str, Any]:
        """Fields of `Settings` by which the stream is read."""

    @abstractmethod
    def put(self, stream: str, bodies: Sequence[bytes]) -> None:
        """Append messages and return when they are there."""

    @abstractmethod
    def put_many(self, stream: str, count: int) -> None:
        """Append that many clicks, each another one."""

    @abstractmethod
    def make_anew(self, stream: str, bodies: Sequence[bytes]) -> None:
        """Delete the stream and make it again, with these messages."""

    @abstractmethod
    def nowhere_settings(self, stream: str) -> dict[str, Any]:
        """As `settings`, at an address where nobody is."""

    def refused_settings(self, stream: str) -> dict[str, Any] | None:
        """As `settings`, with credentials that are refused; None if it asks for none."""
        return None

    def lose(self, stream: str, first: int) -> list[int]:
        """Remove messages before they were read, of ten those before `first`; the numbers that are left to read."""
        raise NotImplementedError

    @abstractmethod
    def come_back(self, stream: str) -> None:
        """Do what has to be done after `start` for the stream to be there again."""


class _Kafka(Kind):
    """What the two brokers share."""

    bootstrap: str
    _broker: WheelBroker | kafka_server.ApacheKafka

    def start(self) -> None:
        self._broker.start()

    def stop(self) -> None:
        self._broker.kill()

    @property
    def bench(self) -> Bench:
        return Bench(self.bootstrap)

    def make_stream(self) -> str:
        return self.bench.topic()

    def settings(self, stream: str) -> dict[str, Any]:
        return {"streams": (stream,), "kafka_bootstrap": self.bootstrap, "stream_timeout": 8}

    def put(self, stream: str, bodies: Sequence[bytes]) -> None:
        self.bench.produce(stream, bodies)

    def put_many(self, stream: str, count: int) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "linger.ms": 20})
        for number, body in enumerate(many_clicks(count, _now())):
            producer.produce(stream, body)
            if number % 10_000 == 0:
                producer.flush()
        assert producer.flush(60) == 0

    def make_anew(self, stream: str, bodies: Sequence[bytes]) -> None:
        bench = self.bench
        bench.delete(stream)
        bench.create_again(stream)
        self.put(stream, bodies)

    def nowhere_settings(self, stream: str) -> dict[str, Any]:
        return {**self.settings(stream), "kafka_bootstrap": f"127.0.0.1:{free_port()}"}


class WheelBrokerKind(_Kafka):
    """The wheel's broker: memory only, no retention, no logins."""

    can_lose = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._broker = WheelBroker()
        self.bootstrap = self._broker.bootstrap

    def close(self) -> None:
        self._broker.kill()

    def come_back(self, stream: str) -> None:
        self.bench.create(stream)


class ApacheKafkaKind(_Kafka):
    """Apache Kafka itself, with logins on a second listener."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        kafka_server.require()
        login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        properties = {
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": f'{login} user_reader="correct-horse";',
        }
        self._broker = kafka_server.ApacheKafka(properties, ("SASL_PLAINTEXT",))
        self.bootstrap = self._broker.bootstrap

    def close(self) -> None:
        self._broker.close()

    def come_back(self, stream: str) -> None:
        """Nothing: its data stays."""

    def refused_settings(self, stream: str) -> dict[str, Any]:
        login = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "reader",
            "sasl.password": "hunter2",
        }
        address = self._broker.addresses["SASL_PLAINTEXT"]
        return {**self.settings(stream), "kafka_bootstrap": address, "kafka_config": SecretStr(json.dumps(login))}

    def lose(self, stream: str, first: int) -> list[int]:
        bench, partition = self.bench, TopicPartition(stream, 0, first)
        bench.admin.delete_records([partition])[partition].result(10)
        return list(range(first, 10))


class FilesKind(Kind):
    """Folders of JSON lines on this machine; the store that refuses us, or is nowhere, is Azure's client's."""

    # A directory that isn't there may be one that never was.
    away_is_permanent = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._root = folder / "events"
        self._away = folder / "away"
        self._root.mkdir()
        self._files = itertools.count()
        self._opened = ExitStack()

    def start(self) -> None:
        if self._away.exists():
            self._away.rename(self._root)

    def stop(self) -> None:
        self._root.rename(self._away)

    def close(self) -> None:
        self._opened.close()

    def come_back(self, stream: str) -> None:
        """Nothing: the files are there again."""

    def make_stream(self) -> str:
        name = f"stream-{uuid.uuid4()}"
        (self._root / name).mkdir()
        return name

    def settings(self, stream: str) -> dict[str, Any]:
        return {"streams": (f"files:{stream}",), "files_url": str(self._root), "files_settle_seconds": 0}

    def put(self, stream: str, bodies: Sequence[bytes]) -> None:
        self._write(stream, f"{next(self._files):06}.jsonl", bodies)

    def put_many(self, stream: str, count: int) -> None:
        self._write(stream, f"{next(self._files):06}.jsonl", many_clicks(count, _now()))

    def make_anew(self, stream: str, bodies: Sequence[bytes]) -> None:
        (file,) = (self._root / stream).iterdir()
        self._write(stream, file.name, bodies)

    def lose(self, stream: str, first: int) -> list[int]:
        (file,) = (self._root / stream).iterdir()
        file.unlink()
        return []

    def refused_settings(self, stream: str) -> dict[str, Any]:
        return self._in_azure(stream, self._opened.enter_context(azure_storage.listener(azure_storage.REFUSAL)))

    def nowhere_settings(self, stream: str) -> dict[str, Any]:
        return self._in_azure(stream, free_port())

    def _in_azure(self, stream: str, port: int) -> dict[str, Any]:
        options = SecretStr(json.dumps({"connection_string": azure_storage.connection_string(port)}))
        return {**self.settings(stream), "files_url": "abfs://events", "files_config": options, "stream_timeout": 5}

    def _write(self, stream: str, name: str, bodies: Iterable[bytes]) -> None:
        passing = self._root / stream / f".{name}"
        with passing.open("wb") as file:
            file.writelines(body + b"\n" for body in bodies)
        passing.rename(self._root / stream / name)


class EventHubKind(Kind):
    """Event Hubs: a server in memory that keeps what it holds when it stops listening."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = EventHubsServer({"can-serve": 1})
        self._elsewhere: dict[str, str] = {}
        self._processes = ExitStack()

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def close(self) -> None:
        self._server.stop()
        self._processes.close()

    def make_stream(self) -> str:
        name = f"test-{uuid.uuid4()}"
        self._server.make_hub(name)
        return name

    def settings(self, stream: str) -> dict[str, Any]:
        return {
            "streams": (f"eventhub:{stream}",),
            "flag_topic": "eventhub:can-serve",
            "eventhub_connection": SecretStr(self._elsewhere.get(stream, self._server.connection_string)),
            "stream_timeout": 8,
        }

    def put(self, stream: str, bodies: Sequence[bytes]) -> None:
        self._server.put(stream, bodies)

    def put_many(self, stream: str, count: int) -> None:
        """On a server of their own, which doesn't share the reader's interpreter."""
        path = self.folder / f"{stream}.jsonl"
        with path.open("wb") as file:
            file.writelines(body + b"\n" for body in many_clicks(count, _now()))
        process = server_process("--hub", f"{stream}:1", "--load", f"{stream}={path}")
        self._elsewhere[stream] = self._processes.enter_context(process)

    def make_anew(self, stream: str, bodies: Sequence[bytes]) -> None:
        self._server.delete_hub(stream)
        self._server.make_hub(stream)
        self.put(stream, bodies)

    def nowhere_settings(self, stream: str) -> dict[str, Any]:
        nowhere = self._server.connection_string.replace(str(self._server.port), str(free_port()))
        return {**self.settings(stream), "eventhub_connection": SecretStr(nowhere)}

    def refused_settings(self, stream: str) -> dict[str, Any]:
        refused = self._server.connection_string.replace("Key=secret", "Key=hunter2")
        return {**self.settings(stream), "eventhub_connection": SecretStr(refused)}

    def lose(self, stream: str, first: int) -> list[int]:
        self._server.trim(stream, first)
        return list(range(first, 10))

    def come_back(self, stream: str) -> None:
        """Nothing: its memory outlived it."""


def _now() -> str:
    return format_instant(utc_now())


KINDS: list[type[Kind]] = [WheelBrokerKind, ApacheKafkaKind, EventHubKind, FilesKind]
