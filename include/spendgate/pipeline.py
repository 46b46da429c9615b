"""The steps put together: what a DAG's task, the headless run and a test call.

Takes its warehouse, streams and clock as arguments; knows nothing of Airflow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from spendgate.clock import Clock, utc_now
from spendgate.errors import StreamUnknownError
from spendgate.flags import Flags
from spendgate.ingest import Intake
from spendgate.merge import Merge
from spendgate.publish import FlagSink, Publisher
from spendgate.settings import Settings
from spendgate.spend import Spend
from spendgate.streams.base import PartitionRef, Stream
from spendgate.streams.flag_topic import KafkaFlagTopic
from spendgate.streams.kafka import KafkaStream
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.schema import require_current

# Messages carry their keys and the table its own copy: one partition a core of a small cluster is plenty.
FLAG_TOPIC_PARTITIONS = 3


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Every step, over one warehouse, one set of streams and one flag topic."""

    settings: Settings
    warehouse: Warehouse
    kafka: Mapping[str, Any] = field(repr=False)
    clock: Clock = utc_now

    def list_partitions(self) -> list[PartitionRef]:
        """All partitions of all streams; orphaned rows of earlier runs are removed first.

        Raises:
            WarehouseOutdatedError: the schema isn't current.
            StreamUnknownError, StreamUnavailableError, StreamAccessError: as the broker says.
        """
        require_current(self.warehouse)
        partitions = [partition for name in self.settings.streams for partition in self._stream(name).partitions()]
        self._intake().remove_orphans()
        return partitions

    def check_reachable(self) -> None:
        """Raise what `list_partitions` would, without changing anything."""
        require_current(self.warehouse)
        for name in self.settings.streams:
            self._stream(name).partitions()

    def read_partition(self, partition: PartitionRef) -> dict[str, Any]:
        """Stage what one partition has; returns counts (`spendgate.ingest.IntakeCounts`)."""
        return self._intake().read_partition(self._stream(partition.stream), partition).as_dict()

    def merge_events(self) -> dict[str, Any]:
        """Merge every staged batch (`spendgate.merge.MergeCounts`)."""
        require_current(self.warehouse)
        return self._merge().merge_staged().as_dict()

    def rebuild_windows(self) -> dict[str, Any]:
        """Rebuild the windows of touched days (`spendgate.spend.SpendCounts`)."""
        return self._spend().rebuild_touched().as_dict()

    def decide_flags(self, as_of: datetime | None = None) -> dict[str, Any]:
        """Decide every flag at `as_of`, now unless told (`spendgate.flags.FlagCounts`)."""
        return Flags(self.warehouse, self.clock).decide(as_of).as_dict()

    def publish_flags(self) -> dict[str, Any]:
        """Publish what the outbox holds."""
        return {"messages": Publisher(self.warehouse, self.clock, self._sink()).publish_outbox()}

    def check_spend(self) -> dict[str, Any]:
        """Run the data checks over what was rebuilt; raises CheckFailedError when one finds rows."""
        return {"days": self._spend().check_rebuilt()}

    def run(self, as_of: datetime | None = None) -> dict[str, Any]:
        """One whole pass, step by step, in this process."""
        reads = [self.read_partition(partition) for partition in self.list_partitions()]
        return {
            "intake": total_intake(reads),
            "merge": self.merge_events(),
            "spend": self.rebuild_windows(),
            "flags": self.decide_flags(as_of),
            "published": self.publish_flags(),
            "checked": self.check_spend(),
        }

    def _stream(self, name: str) -> Stream:
        if name not in self.settings.streams:
            raise StreamUnknownError(f"{name} is none of SPENDGATE_STREAMS ({', '.join(self.settings.streams)}).")
        return KafkaStream(name, self.kafka, group=self.settings.consumer_group, timeout=self.settings.stream_timeout)

    def _sink(self) -> FlagSink:
        return KafkaFlagTopic(
            self.settings.flag_topic,
            self.kafka,
            partitions=FLAG_TOPIC_PARTITIONS,
            timeout=self.settings.stream_timeout,
        )

    def _intake(self) -> Intake:
        lateness = timedelta(days=self.settings.lateness_days)
        return Intake(self.warehouse, self.clock, self.settings.batch_size, lateness)

    def _merge(self) -> Merge:
        return Merge(self.warehouse, self.clock)

    def _spend(self) -> Spend:
        return Spend(self.warehouse, self.clock)


def total_intake(reads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all partitions added up."""
    rejected: Counter[str] = Counter()
    for read in reads:
        rejected.update(read["rejected"])
    return {
        "partitions": len(reads),
        "batches": sum(read["batches"] for read in reads),
        "events": sum(read["events"] for read in reads),
        "rejected": dict(sorted(rejected.items())),
    }
