"""Reconcile and repair: the daily proof that what came in is what is in the tables and on the topic.

1. Everything is compared (`spendgate.reconcile`, `spendgate.published`, and the ends of the streams).
2. What differs is written down before anything is mended.
3. With repair: lost events are merged again, wrong windows rebuilt, flags decided and messages sent, by the steps that
   made them; then everything is compared once more.
4. What is still there fails the task, in one sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from spendgate.differences import Difference, Kind, record_differences
from spendgate.errors import ConfigurationError, DiscrepancyError, PermanentError, RunUnderWayError, SpendGateError
from spendgate.pipeline import Pipeline
from spendgate.published import compare_topic
from spendgate.reconcile import SETTLE_SECONDS, Days, Found, Reconciliation
from spendgate.repair import Repair
from spendgate.settings import StreamKind
from spendgate.streams.base import Stream
from spendgate.warehouse.schema import require_current

log = logging.getLogger(__name__)

# Looked at when nobody says which: what came late has mostly come by then.
DAYS = 3
# Most days of one run: each is a statement over all its clicks.
MOST_DAYS = 400


def asked_days(first: str | None, last: str | None, today: date) -> Days:
    """The days that a person means, as ISO dates; what isn't said: to today, and three days in all.

    Raises:
        ConfigurationError: no date, or none or too many days between the two.
    """
    try:
        to = date.fromisoformat(last) if last else today
        begin = date.fromisoformat(first) if first else to - timedelta(days=DAYS - 1)
    except ValueError as error:
        raise ConfigurationError(f"{error}: write days like 2026-11-21.") from error
    if not begin <= to < begin + timedelta(days=MOST_DAYS):
        raise ConfigurationError(f"From {begin} to {to} are no days, or more than {MOST_DAYS}; ask for fewer.")
    return Days(begin, to)


@dataclass(frozen=True, slots=True)
class Bookkeeping:
    """Reconciles what a pipeline reads, keeps and publishes; `by` is who closes what is repaired or gone."""

    pipeline: Pipeline
    by: str = "reconcile_spend"
    settle_seconds: float = SETTLE_SECONDS

    def reconcile(self, days: Days, *, repair: bool = False) -> dict[str, Any]:
        """Compare, write down, and with `repair` mend what can be mended; returns counts.

        Raises:
            DiscrepancyError: something differs (still); the sentence says how much, and the first of it.
            RunUnderWayError: no moment was found at which flags could be compared.
            TransientError, PermanentError: as the warehouse and the streams say; what differs is written down.
        """
        warehouse, now = self.pipeline.warehouse, self.pipeline.clock
        require_current(warehouse)
        found, failures = self._look(days)
        span = (days.first, days.last)
        recorded = record_differences(warehouse, found.differences, (), span, now(), self.by)
        repaired: list[Difference] = []
        if repair and any(one.repairable for one in recorded.open) and not failures:
            self._mend(recorded.open)
            again, failures = self._look(days)
            still = {one.identity for one in again.differences}
            repaired = [one for one in recorded.open if one.identity not in still]
            found = again
            recorded = record_differences(warehouse, found.differences, repaired, span, now(), self.by)
        for one in recorded.open:
            log.error("%s", one.detail)
        for failure in failures:
            raise failure
        if recorded.open:
            raise DiscrepancyError(_sentence(recorded.open, repaired))
        if not found.settled:
            raise RunUnderWayError(
                f"Flags couldn't be compared: a build was under way, or failed, for {self.settle_seconds:.0f} s; see "
                "that build_spend succeeds and run again."
            )
        return {
            "days": f"{days.first} to {days.last}",
            "differences": 0,
            "repaired": len(repaired),
            "accepted": recorded.accepted,
            "closed": recorded.closed,
            "books": found.books,
        }

    def _look(self, days: Days) -> tuple[Found, list[SpendGateError]]:
        """Everything that differs; and what kept streams or the topic from being looked at."""
        reconciliation = Reconciliation(self.pipeline.warehouse, self.pipeline.clock, self.settle_seconds)
        found = reconciliation.find_differences(days)
        failures: list[SpendGateError] = []
        moved = tuple(one.subject for one in found.differences if one.kind is Kind.POSITION)
        blamed = set().union(*(one.advertisers for one in found.differences if one.kind is Kind.FLAG))
        try:
            found.differences += [one for one in self._topic() if not one.advertisers & blamed]
        except SpendGateError as error:
            failures.append(error)
        for name, kind in self.pipeline.settings.stream_kinds.items():
            # A file is as long as it is: its position is looked at when it is read.
            if kind is not StreamKind.FILES:
                try:
                    found.differences += self._ends(name, moved)
                except SpendGateError as error:
                    failures.append(error)
        return found, failures

    def _topic(self) -> list[Difference]:
        with closing(self.pipeline.endpoints.published_flags()) as topic:
            return compare_topic(self.pipeline.warehouse, topic).differences

    def _ends(self, name: str, moved: Sequence[str]) -> list[Difference]:
        """Partitions of a broker or hub that end before the position that they are to be read from.

        Those whose position is known to be `moved` are told already.
        """
        stored = self.pipeline.intake(name).stored_positions(name)
        with closing(self.pipeline.endpoints.stream(name)) as stream:
            return [
                _past_the_end(name, partition.partition, at.position, why)
                for partition in stream.partitions()
                if (at := stored.get(partition.partition)) is not None
                and at.incarnation == partition.incarnation
                and at.position is not None
                and not any(one.startswith(f"position of {name}/{partition.partition},") for one in moved)
                and (why := _refusal(stream, partition, at.position)) is not None
            ]

    def _mend(self, found: Sequence[Difference]) -> None:
        """Through the steps that made what is wrong: merge, rebuild, decide, publish, check."""
        pipeline = self.pipeline
        repair = Repair(pipeline.warehouse, pipeline.clock)
        wanted = [one for one in found if one.repairable]
        if lost := [one for one in wanted if one.kind in (Kind.CLICK, Kind.BUDGET)]:
            log.info("Staged %d versions of %d lost events again.", repair.restage_events(lost), len(lost))
            pipeline.merge_events()
        if wrong := [one for one in wanted if one.kind in (Kind.CLICK, Kind.BUDGET, Kind.WINDOW)]:
            log.info("Rebuilding %d days of advertisers.", repair.touch_days(wrong))
            pipeline.rebuild_windows()
        if any(one.kind is not Kind.MESSAGE for one in wanted):
            pipeline.decide_flags(repair.decided_at())
        pipeline.publish_flags()
        with closing(pipeline.endpoints.published_flags()) as topic:
            above = compare_topic(pipeline.warehouse, topic).above
        if above:
            log.info("Queued %d flags again.", repair.requeue_flags(above))
            pipeline.publish_flags()
        pipeline.check_spend()


def _refusal(stream: Stream, partition: Any, position: str) -> PermanentError | None:
    """Why a partition can't be read from its position, whatever else is right; None: it can be, or is lost already."""
    try:
        with stream.read(partition, position):
            return None
    except PermanentError as error:
        # Its subclasses say what is wrong with the stream, our rights or the settings.
        if type(error) is not PermanentError:
            raise
        return error


def _past_the_end(stream: str, partition: str, position: str, why: PermanentError) -> Difference:
    detail = (
        f"{why} Nothing of {stream}/{partition} is read from now on: stop the reading DAGs and set its position in "
        "etl.StreamPosition to where its newest batch ends (docs/runbook.md, reconciliation)."
    )
    subject = f"end of {stream}/{partition}"
    return Difference(Kind.POSITION, subject, "a position that is there", position, detail)


def _sentence(rest: Sequence[Difference], repaired: Sequence[Difference]) -> str:
    done = f" ({len(repaired)} more were repaired)" if repaired else ""
    count = "1 difference" if len(rest) == 1 else f"{len(rest)} differences"
    return (
        f"Reconciliation found {count}{done}; first: {rest[0].detail} See ./spendgate discrepancies list, and "
        "docs/runbook.md, reconciliation."
    )
