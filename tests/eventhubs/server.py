"""An in-memory stand-in for Azure Event Hubs: AMQP 1.0 over TCP, TLS or WebSocket, standard library only.

As a process:

    python -m tests.eventhubs.server --hub ad-clicks:4 --key Root=secret [--load ad-clicks=clicks.jsonl]

prints "listening HOST PORT" when it is ready. In a test:

    with EventHubsServer({"ad-clicks": 4}) as server: ... server.connection_string ...

It speaks what azure-eventhub 5.x uses: SASL ANONYMOUS, $cbs put-token with signatures (checked) or tokens of Azure
identity, $management READ of a hub and of a partition, senders to a hub or a partition (single events and batches),
receivers of a partition with a filter, epochs and runtime metrics. It does on demand what the service does once a
month: cut connections, fall silent, trim, compact, make a hub anew, refuse.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.eventhubs.amqp import DATA, binary, described
from tests.eventhubs.connection import Connection
from tests.eventhubs.store import Hub, Partition, RefusedError, now_ms
from tests.untraced import untraced

EVERYTHING = frozenset({"Listen", "Send", "Manage"})


class EventHubsServer:
    """Hubs on a port of 127.0.0.1; a context manager.

    Attributes:
        keys: {policy: key}; `policies` says what a policy may do, everything unless told.
        tokens: {token of Azure identity: what it may do}.
        accepted: how many connections were made; `requests`: how many reads of the management node.
        refusal: raised in answer to every attach of a reader or sender, if set.
        frozen: connections are taken, and nothing is ever said.
        mute_acknowledgements: what is sent is stored, and not acknowledged.
        early: how many events before the one asked for a reader is started at, which the service does at times.
        mislaid: sequence numbers that are left out once.
    """

    def __init__(
        self,
        hubs: Mapping[str, int],
        keys: Mapping[str, str] | None = None,
        *,
        port: int = 0,
        certificate: tuple[Path, Path] | None = None,
        opaque_offsets: bool = False,
        idle_timeout: int = 240_000,
    ) -> None:
        self.host, self.port, self.idle_timeout = "127.0.0.1", port, idle_timeout
        self.hubs: dict[str, Hub] = {}
        self.keys = dict(keys or {"Root": "secret"})
        self.policies: dict[str, frozenset[str]] = dict.fromkeys(self.keys, EVERYTHING)
        self.tokens: dict[str, frozenset[str]] = {}
        self.connections: set[Connection] = set()
        self.accepted = self.requests = 0
        self.refusal: RefusedError | None = None
        self.frozen = self.mute_acknowledgements = False
        self.early = 0
        self.mislaid: set[int] = set()
        self._opaque = opaque_offsets
        self._created = 0
        self._deliveries, self._cuts, self._each = 0, 0, 0
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(*certificate)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        for name, partitions in hubs.items():
            self._make_hub(name, partitions)

    # -- running

    def start(self) -> Self:
        """Listen, on the port of last time if there was one."""
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, ready), daemon=True, name="event-hubs")
        self._thread.start()
        if not ready.wait(10):
            raise RuntimeError("the Event Hubs server did not start")
        return self

    def stop(self) -> None:
        """Stop listening and break every connection; what was stored stays."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop = self._thread = None

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        listening = loop.create_server(lambda: Connection(self), self.host, self.port, ssl=self._tls)
        server = loop.run_until_complete(listening)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        loop.run_forever()
        server.close()
        self._cut()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a function in the server's thread."""
        if self._loop is None:
            return function(*args)

        async def run() -> Any:
            return function(*args)

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(300)

    # -- what tests ask and tell it

    @property
    def connection_string(self) -> str:
        """Of the namespace, by the first policy; without TLS in the form of the emulator."""
        policy, key = next(iter(self.keys.items()))
        address = self.host if self._tls else f"{self.host}:{self.port}"
        text = f"Endpoint=sb://{address};SharedAccessKeyName={policy};SharedAccessKey={key}"
        return text if self._tls else text + ";UseDevelopmentEmulator=true"

    def make_hub(self, name: str, partitions: int = 1) -> None:
        self._call(self._make_hub, name, partitions)

    def delete_hub(self, name: str) -> None:
        self._call(self._delete_hub, name)

    def put(self, hub: str, values: Iterable[bytes], partition: int = 0) -> None:
        """Store events as if a producer had sent them one by one, in no time."""
        self._call(self._put, self.hubs[hub].partitions[partition], values)

    def trim(self, hub: str, first: int, partition: int = 0) -> None:
        """Let retention take the events before sequence number `first`."""
        self._call(self.hubs[hub].partitions[partition].trim, first)

    def compact(self, hub: str, partition: int = 0) -> None:
        self._call(self.hubs[hub].partitions[partition].compact)

    def drop(self, hub: str, *numbers: int, partition: int = 0) -> None:
        """Let events vanish from the middle or the end."""
        self._call(self.hubs[hub].partitions[partition].drop, set(numbers))

    def partition(self, hub: str, number: int = 0) -> Partition:
        return self.hubs[hub].partitions[number]

    def cut(self) -> None:
        """Break every connection, as a failure of the network does."""
        self._call(self._cut)

    def cut_each(self, deliveries: int, times: int) -> None:
        """Break every connection after each so many delivered events, so many times."""
        self._each, self._cuts = deliveries, times

    @property
    def cuts_left(self) -> int:
        return self._cuts

    def forget_readers(self, hub: str) -> None:
        """Send nothing more over the links that are open, without a word."""
        for partition in self.hubs[hub].partitions:
            self._call(partition.readers.clear)
            for connection in list(self.connections):
                self._call(connection.forget_readers)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self._call(lambda: [connection.thaw() for connection in list(self.connections)])

    # -- in the server's thread

    def lookup(self, hub: str) -> Hub:
        found = self.hubs.get(hub)
        if found is None:
            raise RefusedError("amqp:not-found", f"The messaging entity 'sb://{self.host}/{hub}' could not be found.")
        return found

    def count_delivery(self) -> None:
        self._deliveries += 1
        if self._cuts and self._deliveries >= self._each:
            self._cuts -= 1
            self._deliveries = 0
            asyncio.get_running_loop().call_soon(self._cut)

    def _cut(self) -> None:
        for connection in list(self.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def _make_hub(self, name: str, partitions: int) -> None:
        self._created = max(now_ms(), self._created + 1)
        made = [Partition(name, str(number), self._opaque) for number in range(partitions)]
        self.hubs[name] = Hub(name, made, self._created)

    def _put(self, partition: Partition, values: Iterable[bytes]) -> None:
        for value in values:
            partition.append(described(DATA, binary(value)), None)
        for reader in list(partition.readers):
            reader.pump()

    def _delete_hub(self, name: str) -> None:
        hub = self.hubs.pop(name)
        for partition in hub.partitions:
            for reader in list(partition.readers):
                reader.detach("amqp:not-found", f"The messaging entity '{name}' was deleted.")


@contextlib.contextmanager
def server_process(*arguments: str) -> Iterator[str]:
    """A server as a process of its own, so that it shares no interpreter with its client: its connection string."""
    command = [sys.executable, "-m", "tests.eventhubs.server", "--key", "Root=secret", *arguments]
    environment = {**untraced(), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            _, host, port = process.stdout.readline().split()
            yield (
                f"Endpoint=sb://{host}:{port};SharedAccessKeyName=Root;SharedAccessKey=secret;"
                "UseDevelopmentEmulator=true"
            )
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--hub", action="append", default=[], metavar="NAME:PARTITIONS")
    parser.add_argument(
        "--load", action="append", default=[], metavar="NAME=FILE", help="the lines of a file as events"
    )
    parser.add_argument("--key", action="append", default=[], metavar="POLICY=KEY")
    told = parser.parse_args()
    hubs = {name: int(count or 4) for name, _, count in (hub.partition(":") for hub in told.hub)}
    keys = dict(key.split("=", 1) for key in told.key)
    with EventHubsServer(hubs, keys, port=told.port) as server:
        for name, _, file in (load.partition("=") for load in told.load):
            with Path(file).open("rb") as lines:
                server.put(name, (line.rstrip(b"\n") for line in lines))
        sys.stdout.write(f"listening {server.host} {server.port}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.join()


if __name__ == "__main__":
    main()
