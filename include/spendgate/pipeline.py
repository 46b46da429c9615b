"""The steps put together: what a DAG's task, the headless run and a test call.

Takes its warehouse, streams and clock as arguments; knows nothing of Airflow.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from spendgate.clock import Clock, utc_now
from spendgate.errors import PermanentError, SpendGateError, StreamChangedError, TransientError
from spendgate.flags import Flags
from spendgate.ingest import Intake
from spendgate.merge import Merge
from spendgate.publish import Publisher
from spendgate.purge import Purge
from spendgate.quality.decisions import Decision, decide_batch, raise_held
from spendgate.quality.documents import DATA_DOCS, Documents
from spendgate.quality.expectations import load_thresholds
from spendgate.quality.gate import Gate
from spendgate.replay import RejectedFilter, Replay
from spendgate.settings import Settings, StreamKind
from spendgate.spend import Spend
from spendgate.streams.base import PartitionRef
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.schema import require_current

log = logging.getLogger(__name__)

# Airflow maps a task over at most 1,024 values unless told otherwise, and each costs a process.
MAX_SLICES = 256


@dataclass(frozen=True, slots=True)
class Slice:
    """What one task reads of one stream; `partitions` None: all that it finds there when it begins."""

    stream: str
    partitions: list[PartitionRef] | None = None

    @property
    def label(self) -> str:
        """For people: `ad-clicks/3`, `ad-clicks/3,9`, or the stream's name alone."""
        if self.partitions is None:
            return self.stream
        return f"{self.stream}/{','.join(partition.partition for partition in self.partitions)}"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Every step, over one warehouse, one set of streams and one flag topic."""

    settings: Settings
    warehouse: Warehouse
    endpoints: Endpoints
    clock: Clock = utc_now

    def list_slices(self) -> list[Slice]:
        """What there is to read, cut for tasks; orphaned rows of earlier runs are removed first.

        Partitions of brokers and hubs are read apart. A stream of files is one slice: they are read in order. A
        stream that can't be listed is one too: the task that reads it fails with the reason, and no other does.

        Raises:
            WarehouseOutdatedError: the schema isn't current.
        """
        require_current(self.warehouse)
        slices: list[Slice] = []
        for name, kind in self.settings.stream_kinds.items():
            if kind is StreamKind.FILES:
                slices.append(Slice(name))
                continue
            try:
                partitions = self.endpoints.stream(name).partitions()
            except SpendGateError as error:
                log.warning("%s can't be listed; its own task tries again: %s", name, error)
                slices.append(Slice(name))
            else:
                slices += _cut(name, partitions, MAX_SLICES // len(self.settings.streams))
        self.intake().remove_orphans()
        return slices

    def check_reachable(self) -> None:
        """Raise what reading would, without changing anything."""
        require_current(self.warehouse)
        for name in self.settings.stream_kinds:
            self.endpoints.stream(name).partitions()

    def read_slice(self, part: Slice) -> dict[str, Any]:
        """Stage what a slice has; returns counts (`total_intake`).

        What a person has to mend in one partition (a gap, a damaged file) doesn't keep the others from being read;
        the first such error is raised at the end.

        Raises:
            StreamGapError: retention removed events that were never read, and nobody accepted that yet.
            TransientError, PermanentError: as the stream and the warehouse say.
        """
        partitions = part.partitions
        if partitions is None:
            stored = self.intake(part.stream).stored_positions(part.stream)
            partitions = self.endpoints.stream(part.stream).unread(stored)
        reads, failures = self._read(partitions)
        _raise_first(failures)
        return total_intake(reads)

    def follow_news(self) -> dict[str, Any]:
        """One pass over the partitions that hold something new, in this process: the short way from event to flag.

        Reads one partition after another, then does what `run` does. A stream that fails keeps neither the others
        from being read nor flags from being decided; its error is raised at the end, as is a batch that this pass
        holds. Nothing is done without news.

        Returns:
            The counts of every step by its name, `published` before `checked`.
        """
        require_current(self.warehouse)
        partitions, failures = self._find_news()
        reads, broken = self._read(partitions)
        done: dict[str, Any] = {"intake": total_intake(reads)}
        if self.waiting_events():
            done |= self._build(None)
        _raise_first([*failures, *broken])
        if held := done.get("gate", {}).get("held_ids"):
            raise_held(self.warehouse, held)
        return done

    def _find_news(self) -> tuple[list[PartitionRef], list[SpendGateError]]:
        found: list[PartitionRef] = []
        failures: list[SpendGateError] = []
        for name in self.settings.stream_kinds:
            stored = self.intake(name).stored_positions(name)
            try:
                stream = self.endpoints.stream(name)
                with closing(stream):
                    if news := stream.news(stored):
                        found += [partition for partition in stream.unread(stored) if partition.partition in news]
            except SpendGateError as error:
                log.error("%s can't be looked at: %s", name, error)
                failures.append(error)
        return found, failures

    def _read(self, partitions: Sequence[PartitionRef]) -> tuple[list[dict[str, Any]], list[SpendGateError]]:
        """Read every partition that can be read; what a broker or hub that is away has is left at the first try.

        One stream object for all partitions of a stream: to open an object store anew for each file is a login each.
        """
        streams = {name: self.endpoints.stream(name) for name in {partition.stream for partition in partitions}}
        reads: list[dict[str, Any]] = []
        failures: list[SpendGateError] = []
        away: set[str] = set()
        for partition in partitions:
            if partition.stream in away:
                continue
            try:
                intake = self.intake(partition.stream)
                reads.append(intake.read_partition(streams[partition.stream], partition).as_dict())
            except SpendGateError as error:
                log.error("%s/%s can't be read: %s", partition.stream, partition.partition, error)
                failures.append(error)
                if isinstance(error, TransientError) and not isinstance(error, StreamChangedError):
                    away.add(partition.stream)
        return reads, failures

    def waiting_events(self) -> int:
        """How many staged events wait to be judged or merged."""
        return self.intake().waiting_events()

    def replay_rejected(self, which: RejectedFilter, *, dry_run: bool) -> dict[str, Any]:
        """Stage rejected events that are events now (`spendgate.replay.ReplayCounts`); a dry run only counts them."""
        require_current(self.warehouse)
        replay = Replay(self.warehouse, self.clock, self.settings.batch_size, self.endpoints.lateness)
        return replay.replay_rejected(which, dry_run=dry_run).as_dict()

    def judge_batches(self) -> dict[str, Any]:
        """Judge every staged batch by what quality.yaml expects of it (`spendgate.quality.gate.GateCounts`).

        Raises:
            ConfigurationError: quality.yaml is wrong.
        """
        require_current(self.warehouse)
        return Gate(self.warehouse, self.clock, load_thresholds(self.settings.quality_file)).judge_staged().as_dict()

    def report_held(self) -> dict[str, Any]:
        """Raise if batches wait for a person.

        Raises:
            HeldBatchError: with one sentence for each of them.
        """
        raise_held(self.warehouse)
        return {"held": 0}

    def documents(self) -> Documents:
        """What documents the gate's verdicts, off the way to the flags."""
        thresholds = load_thresholds(self.settings.quality_file)
        return Documents(self.warehouse, self.clock, thresholds, self.settings.home / DATA_DOCS)

    def decide_batch(self, batch_id: int, decision: Decision, *, by: str, reason: str) -> dict[str, Any]:
        """Release or discard a held batch; raises ConfigurationError if it isn't held."""
        require_current(self.warehouse)
        decide_batch(self.warehouse, batch_id, decision, by=by, reason=reason, now=self.clock())
        return {"batch": batch_id, "state": decision.state, "by": by}

    def merge_events(self) -> dict[str, Any]:
        """Merge every batch that the gate or a person let pass (`spendgate.merge.MergeCounts`)."""
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
        return {"messages": Publisher(self.warehouse, self.clock, self.endpoints.flag_sink()).publish_outbox()}

    def check_spend(self) -> dict[str, Any]:
        """Run the data checks over what was rebuilt; raises CheckFailedError when one finds rows."""
        return {"days": self._spend().check_rebuilt()}

    def purge_history(self) -> dict[str, int]:
        """Remove what has been kept for long enough (`spendgate.purge.Purge`)."""
        require_current(self.warehouse)
        return Purge(self.warehouse, self.clock, self.settings).purge_history()

    def run(self, as_of: datetime | None = None) -> dict[str, Any]:
        """One whole pass, step by step, in this process.

        Raises:
            HeldBatchError: all is done, but batches wait for a person.
        """
        done = {"intake": total_intake([self.read_slice(part) for part in self.list_slices()]), **self._build(as_of)}
        self.report_held()
        return done

    def _build(self, as_of: datetime | None) -> dict[str, Any]:
        return {
            "gate": self.judge_batches(),
            "merge": self.merge_events(),
            "spend": self.rebuild_windows(),
            "flags": self.decide_flags(as_of),
            "published": self.publish_flags(),
            "checked": self.check_spend(),
        }

    def intake(self, stream: str = "") -> Intake:
        """The intake, with the lateness limit of that stream."""
        lateness = self.endpoints.lateness(stream)
        return Intake(self.warehouse, self.clock, self.settings.batch_size, lateness)

    def _merge(self) -> Merge:
        return Merge(self.warehouse, self.clock)

    def _spend(self) -> Spend:
        return Spend(self.warehouse, self.clock)


def _cut(stream: str, partitions: Sequence[PartitionRef], most: int) -> list[Slice]:
    """At most `most` slices of about the same number of partitions."""
    slices = min(len(partitions), max(1, most))
    return [Slice(stream, list(partitions[number::slices])) for number in range(slices)]


def _raise_first(failures: Sequence[SpendGateError]) -> None:
    """Raise the first error that a person has to mend, else the first one."""
    for failure in sorted(failures, key=lambda error: not isinstance(error, PermanentError)):
        raise failure


def total_intake(reads: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all partitions added up."""
    rejected: Counter[str] = Counter()
    for read in reads:
        rejected.update(read["rejected"])
    return {
        "partitions": sum(read["partitions"] for read in reads),
        "batches": sum(read["batches"] for read in reads),
        "events": sum(read["events"] for read in reads),
        "rejected": dict(sorted(rejected.items())),
    }
