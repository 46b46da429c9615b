"""Asking a hub about itself: what it is, and where its partitions begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from azure.eventhub import EventHubConsumerClient

from spendgate.errors import StreamUnavailableError, StreamUnknownError, TransientError
from spendgate.streams.base import PartitionRef
from spendgate.streams.eventhub_namespace import Namespace
from spendgate.streams.eventhub_transport import Wires

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub as the service describes it; `incarnation` is when it was made, in milliseconds since 1970 (text)."""

    incarnation: str
    partitions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ends:
    """Sequence numbers of a partition: the first that can be read, and the one after the last; equal: it is empty."""

    first: int
    end: int


class Management:
    """One connection to the management node, for one hub and one thread; made when first needed, until `close`.

    What may go away by itself is tried again on a new connection until `timeout` has passed.
    """

    def __init__(self, namespace: Namespace, hub: str) -> None:
        namespace.require_hub(hub)
        self._namespace = namespace
        self._name = hub
        self._wires: Wires | None = None
        self._client: EventHubConsumerClient | None = None

    def hub(self) -> Hub:
        """The hub, as it is now.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError
        """
        found = self._ask(lambda client: client.get_eventhub_properties())
        made = round(found["created_at"].timestamp() * 1000)
        return Hub(str(made), tuple(sorted(found["partition_ids"], key=lambda ident: (len(ident), ident))))

    def partition(self, ident: str) -> Ends:
        """Where the partition begins and ends now.

        A partition that retention emptied begins at its end, whatever the service says of its beginning.

        Raises:
            StreamUnknownError, StreamUnavailableError, StreamAccessError
        """
        found = self._ask(lambda client: client.get_partition_properties(ident))
        end = int(found["last_enqueued_sequence_number"]) + 1
        return Ends(end if found["is_empty"] else int(found["beginning_sequence_number"]), end)

    def close(self) -> None:
        """Close the connection; may be called twice."""
        if self._wires is not None:
            wires, self._wires, self._client = self._wires, None, None
            try:
                self._namespace.within(1.0, self._name, wires.close, wires.cut)
            except TransientError:
                wires.cut()

    def _ask(self, call: Callable[[EventHubConsumerClient], Result]) -> Result:
        deadline = time.monotonic() + self._namespace.timeout
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._ask_once(call, max(0.1, deadline - time.monotonic()))
            except TransientError:
                self.close()
                if time.monotonic() + pause >= deadline:
                    raise
            except BaseException:
                self.close()
                raise
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)

    def _ask_once(self, call: Callable[[EventHubConsumerClient], Result], seconds: float) -> Result:
        if self._wires is None or self._client is None:
            self._wires = Wires()
            self._client = self._namespace.consumer(self._name, self._wires)
        client, wires = self._client, self._wires
        return self._namespace.within(seconds, self._name, lambda: call(client), wires.cut)


def confirm_incarnation(management: Management, partition: PartitionRef) -> None:
    """Raise if the hub is no longer the one that `partition` was listed of: sequence numbers of one incarnation mean
    nothing in another.

    Raises:
        StreamUnavailableError, StreamUnknownError, StreamAccessError
    """
    hub = management.hub()
    if hub.incarnation != partition.incarnation:
        raise StreamUnavailableError(
            f"Hub {partition.stream!r} was deleted and made again while we looked at it: run again."
        )
    if partition.partition not in hub.partitions:
        raise StreamUnknownError(
            f"Hub {partition.stream!r} has {len(hub.partitions)} partitions and no {partition.partition}: "
            "correct etl.StreamPosition."
        )
