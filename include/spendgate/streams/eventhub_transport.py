"""Where we lean on the insides of azure-eventhub, and why; nothing else here knows more of it than its documented API.

1. Calls can wait for ever: the protocol's header is read from a socket without a time limit, and loops wait for
   frames that need not come. `Wires.cut` shuts the sockets of a client from outside: its calls fail, its threads end.
2. A client's keep-alive thread reads frames beside the thread that receives; the parts of one large event can fall
   to both of them, and the event comes out damaged. `Wires` leaves that thread out: our links are never idle.
3. Each request to the management node opens, signs in and closes a connection. `Wires` keeps one for all of them.
4. `receive()` spins until a thread of its own, which stays behind asleep, has asked for the partitions; it never
   raises, and after an error begins again at its first position. `Receiver` does by itself, one round at a time, what
   `receive()` is made of, and takes the messages as they were decoded: 39,000/s of a core, where wrapping each as
   EventData leaves 23,000.
5. `send_batch()` sends a second time by itself after an error, also when the first may have arrived. `Sender` uses
   the producer that `send_batch()` is made of.

The version is locked, and tests/streams/test_eventhub_transport.py holds each of these.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, cast

import certifi
from azure.eventhub import EventData, EventDataBatch, EventHubConsumerClient, EventHubProducerClient
from azure.eventhub._buffered_producer._partition_resolver import generate_hash_code
from azure.eventhub._pyamqp.error import AMQPException, TokenAuthFailure, TokenExpired
from azure.eventhub._pyamqp.message import Message as Message  # what a round of receiving gives
from azure.eventhub._transport._pyamqp_transport import PyamqpTransport

_PARTITION_KEY = b"x-opt-partition-key"

# How long one operation on a socket may take. A round of receiving waits this long on a dry socket before it hands
# out what came, so that it is part of the time from event to flag. Sending writes a megabyte in one go, and what waits
# for an answer is woken by it.
RECEIVE_SECONDS = 0.1
SEND_SECONDS = 2.0


class Wires:
    """The connections of one client of azure-eventhub, so that they can be cut; an instance belongs to one client.

    Stands in for the client's own transport, which makes them.
    """

    def __init__(self) -> None:
        self._clients: list[Any] = []
        self._kept: Any = None  # the client of the management node
        self._end_kept: Callable[[], None] | None = None
        self._is_cut = False

    def __getattr__(self, name: str) -> Any:
        return getattr(PyamqpTransport, name)

    def create_mgmt_client(self, address: Any, mgmt_auth: Any, config: Any) -> Any:
        """The one client of the management node; called for every request, and closed after each."""
        if self._kept is None:
            self._kept = self._eager(PyamqpTransport.create_mgmt_client(address, mgmt_auth, config))
            self._end_kept, self._kept.close = self._kept.close, lambda: None
        return self._noted(self._kept)

    def create_receive_client(self, **how: Any) -> Any:
        """A receiving client without a keep-alive thread."""
        return self._noted(PyamqpTransport.create_receive_client(**{**how, "keep_alive_interval": 0}))

    def create_send_client(self, **how: Any) -> Any:
        """A sending client without a keep-alive thread."""
        return self._noted(self._eager(PyamqpTransport.create_send_client(**{**how, "keep_alive_interval": 0})))

    def cut(self) -> None:
        """Shut every socket, now and from now on; from any thread. A call that is under way fails at once."""
        self._is_cut = True
        for client in self._clients:
            connection = client._connection
            sock = None if connection is None else connection._transport.sock
            with suppress(OSError):
                if isinstance(sock, socket.socket):
                    sock.shutdown(socket.SHUT_RDWR)
                elif sock is not None:  # a WebSocket
                    sock.shutdown()

    def close(self) -> None:
        """Close the connection to the management node; others are closed by whoever opened them."""
        if self._end_kept is not None:
            self._end_kept()
            self._kept = self._end_kept = None

    def _eager(self, client: Any) -> Any:
        """The client, signing in without the naps of 50 ms that it is waited for with: each try waits for a frame."""
        is_ready = client.client_ready

        def get_ready() -> bool:
            while not is_ready():
                self._require_whole()
            return True

        client.client_ready = get_ready
        return client

    def _noted(self, client: Any) -> Any:
        self._require_whole()
        if client not in self._clients:
            self._clients.append(client)
        return client

    def _require_whole(self) -> None:
        if self._is_cut:
            raise ConnectionAbortedError(errno.ECONNABORTED, "given up")


class BoundedContext(ssl.SSLContext):
    """A TLS context whose handshake can't take for ever."""

    seconds: float

    @classmethod
    def trusting(cls, ca_file: str | None, seconds: float) -> BoundedContext:
        """A context that trusts the authorities of that file, or those of the package certifi.

        Raises:
            OSError: the file can't be read, or holds no certificates.
        """
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.seconds = seconds
        context.load_verify_locations(ca_file or certifi.where())
        return context

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **named: Any) -> ssl.SSLSocket:
        """As in the standard library, with a time limit on a socket that has none."""
        if sock.gettimeout() is None:
            sock.settimeout(self.seconds)
        return super().wrap_socket(sock, *arguments, **named)


class Receiver:
    """One link to a partition, from a sequence number on.

    `prefetch` is how many events the service may send ahead, and how many frames (64 kB at most) one round takes.
    """

    def __init__(
        self, client: EventHubConsumerClient, group: str, partition: str, position: int, prefetch: int
    ) -> None:
        self._prefetch = prefetch
        self._consumer: Any = client._create_consumer(
            group, partition, position, lambda *_: None, event_position_inclusive=True, prefetch=prefetch
        )

    def receive(self) -> list[Message]:
        """One round: what came, in order; nothing while the link is being opened or the partition is silent.

        Raises:
            Exception: the client's own.
        """
        if self._consumer._open():
            self._consumer._handler.do_work(batch=self._prefetch)
        taken = list(self._consumer._message_buffer)
        self._consumer._message_buffer.clear()
        return taken

    def close(self) -> None:
        self._consumer.close()


def number_of(message: Message) -> int:
    """The sequence number of an event."""
    number: int = _annotations(message)[b"x-opt-sequence-number"]
    return number


def enqueued_ms_of(message: Message) -> int:
    """When the service took an event, in milliseconds since 1970."""
    stamp: int = _annotations(message)[b"x-opt-enqueued-time"]
    return stamp


def body_of(message: Message) -> bytes | None:
    """The bytes of an event, however its producer wrapped them; None: it has no value (a tombstone)."""
    if message.data:
        return b"".join(cast("list[bytes]", message.data))
    body = message.sequence or message.value
    if body is None or isinstance(body, bytes):
        return body
    # A map, a list, a number: no event of ours, but something must show in the rejection.
    return str(body).encode(errors="replace")


def _annotations(message: Message) -> dict[bytes, Any]:
    return cast("dict[bytes, Any]", message.message_annotations)


class Sender:
    """One link to a partition that events are sent to."""

    def __init__(self, client: EventHubProducerClient, partition: str) -> None:
        self._producer = client._create_producer(partition)

    def open(self) -> None:
        """Connect; until then nothing was sent.

        Raises:
            Exception: the client's own.
        """
        self._producer._open_with_retry()

    def batch(self) -> EventDataBatch:
        """An empty batch of the size that the service takes."""
        return EventDataBatch(max_size_in_bytes=self._producer._max_message_size_on_link)

    def send(self, batch: EventDataBatch, timeout: float) -> None:
        """Send, and return when it is acknowledged.

        Raises:
            Exception: the client's own; the batch may have arrived all the same.
        """
        try:
            self._producer.send(batch, timeout=timeout)
        except Exception as error:
            # A link that isn't allowed is opened, and then closed with the reason, which the client leaves there.
            link = getattr(self._producer._handler, "_link", None)
            if link is not None and link._error is not None:
                raise link._error from error
            raise

    def close(self) -> None:
        self._producer.close()


def keyed(event: EventData, key: str) -> EventData:
    """The event with a partition key of its own, by which a compacted hub tells events apart."""
    annotations = cast("dict[str | bytes, Any]", event.raw_amqp_message.annotations)
    annotations[_PARTITION_KEY] = key
    return event


def partition_of(key: str, partitions: tuple[str, ...]) -> str:
    """The partition of a key: the one that the service's own hash gives, by which other producers are placed too."""
    place: int = abs(generate_hash_code(key) % len(partitions))
    return partitions[place]


def explain(error: BaseException) -> Iterator[tuple[BaseException, str, int]]:
    """An error and those behind it: (error, AMQP condition or "", status of a refused token or 0).

    The client hides what it was told behind `raise ... from None`.
    """
    behind: BaseException | None = error
    seen: list[BaseException] = []
    while behind is not None and behind not in seen:
        seen.append(behind)
        condition = behind.condition if isinstance(behind, AMQPException) else b""
        status = behind.status_code if isinstance(behind, TokenAuthFailure) else 0
        yield behind, bytes(condition).decode(errors="replace"), status if isinstance(status, int) else 0
        behind = behind.__cause__ or behind.__context__


def is_expired(error: BaseException) -> bool:
    """Whether a token that can't be renewed ran out."""
    return isinstance(error, TokenExpired)
