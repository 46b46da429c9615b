"""What the gate measures of a batch: a few statements over all unjudged batches, and what is usual beside them.

Every measure that compares with what is usual is None as long as there is too little history to say what that is; of
small batches nothing is read but counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import groupby
from statistics import median
from typing import Any

from sqlalchemy import Row, func, insert, select

from spendgate.clock import DAY, day_start, floor_hour
from spendgate.warehouse.engine import Transaction, as_utc, in_slices
from spendgate.warehouse.tables import Batch, BatchHour, BatchProfile, ProfiledAdvertiser, SpendSummary

# What is usual is what was there in the last week, so that each day of the week is in it.
USUAL_DAYS = 7
LATE = timedelta(days=3)
# The share of duplicates and the quantiles are told by the first events of a batch: the standard error of a share is
# then at most 0.016, and a look-up of 50,000 keys in a table of a year is not for every batch.
SAMPLE_EVENTS = 1_000
# A mean cost per click of fewer clicks says little about the next.
LEAST_CLICKS_OF_MEAN = 20
# An advertiser's mean cost per click is odd when it is this many times the usual, or one part in as many.
ODD_FACTOR = 5
LEAST_CLICKS_OF_HOUR = 20
LEAST_CLICKS_OF_SHARE = 500
LEAST_BATCHES_OF_QUANTILE = 3
LEAST_CLICKS_OF_QUANTILE = 200
# The hours that make up this part of a batch's clicks: a late straggler doesn't put its batch into its hour.
MAIN_HOUR_SHARE = 0.1
# In these states a batch's clicks belong to its hour.
COUNTING = ("judging", "passed", "released", "merged")
# What a measure's column can hold; beyond it, it is far out anyway.
MOST = Decimal(10) ** 14
_PLACES = Decimal("0.0001")

Rows = Sequence[Row[Any]]


@dataclass(slots=True)
class Profile:
    """What was measured of one batch: a row of etl.BatchProfile but for its verdict, by column."""

    batch_id: int
    stream: str
    partition_id: str
    values: dict[str, Any] = field(default_factory=dict)

    def set(self, name: str, value: Decimal | float | None) -> None:
        """Keep a measure as the table does: four places, and no more than its column holds."""
        self.values[name] = None if value is None else min(Decimal(value), MOST).quantize(_PLACES)

    def count(self, name: str) -> int:
        """A count, 0 if there is none."""
        return int(self.values.get(name) or 0)


def measure_batches(
    transaction: Transaction, batches: Rows, now: datetime, least: Mapping[str, int]
) -> dict[int, Profile]:
    """Measure the batches, which are in state "judging", by their ids.

    Args:
        batches: rows of etl.Batch in the order of their ids.
        least: of `event_count`, `click_count`, ... the fewest that any expectation takes: where no batch has so many,
            nothing further is read.
    """
    measuring = _Measuring(transaction, batches, now, least)
    measuring.measure()
    return measuring.profiles


class _Measuring:
    def __init__(self, transaction: Transaction, batches: Rows, now: datetime, least: Mapping[str, int]) -> None:
        self.transaction = transaction
        self.batches = batches
        self.now = now
        self.least = least
        self.since = day_start(now.date()) - DAY * USUAL_DAYS
        self.scope: dict[str, object] = {"first_batch": batches[0].batch_id, "last_batch": batches[-1].batch_id}
        self.profiles = {batch.batch_id: _counted(batch) for batch in batches}

    def measure(self) -> None:
        self._measure_rejections()
        if any(batch.click_count for batch in self.batches):
            self._measure_hours()
            if self._any("click_count"):
                self.transaction.empty(ProfiledAdvertiser)
                self.transaction.execute("quality/group_staged_clicks", **self.scope)
                self.transaction.refresh_statistics(ProfiledAdvertiser)
                self._measure_unknown()
                self._measure_advertisers()
                self._measure_costs()
                self._measure_sample()
        if any(batch.event_count > batch.click_count + batch.rejected_count for batch in self.batches):
            self._measure_budgets()
            self._measure_members("advertiser")
            self._measure_members("ad")

    def _any(self, name: str) -> bool:
        return any(profile.count(name) >= self.least.get(name, 0) for profile in self.profiles.values())

    def _rows(self, name: str, **parameters: object) -> list[tuple[Profile, Row[Any]]]:
        return [(self.profiles[row.batch_id], row) for row in self.transaction.rows(name, **parameters)]

    def _measure_rejections(self) -> None:
        for profile in self.profiles.values():
            profile.set("rejected_share", _share(profile.count("rejected_count"), profile.count("event_count")))
        if not any(batch.rejected_count for batch in self.batches):
            return
        reasons: dict[int, Counter[str]] = defaultdict(Counter)
        for row in self.transaction.rows("quality/count_rejections", **self.scope):
            reasons[row.batch_id][row.reason] = row.event_count
        for batch_id, counts in reasons.items():
            self.profiles[batch_id].values["top_reason"] = counts.most_common(1)[0][0]

    # Hours: what clicks are like, lateness, and volume

    def _measure_hours(self) -> None:
        rows = self.transaction.rows("quality/list_click_hours", **self.scope)
        own: dict[int, dict[datetime, int]] = defaultdict(dict)
        for row in rows:
            own[row.batch_id][as_utc(row.time_key)] = int(row.click_count)
        remembered = [
            {"time_key": hour, "batch_id": batch_id, "click_count": clicks, "created_at": self.now}
            for batch_id, hours in own.items()
            for hour, clicks in hours.items()
        ]
        self.transaction.run(insert(BatchHour), remembered)
        self._measure_clicks(rows)
        main = {batch_id: _main_hours(hours) for batch_id, hours in own.items()}
        by_partition, by_stream = self._volumes({hour for hours in main.values() for hour in hours})
        for batch in self.batches:
            profile, hours = self.profiles[batch.batch_id], own.get(batch.batch_id, {})
            oldest = floor_hour((batch.first_enqueued_at or batch.created_at) - LATE)
            late = sum(clicks for hour, clicks in hours.items() if hour < oldest)
            profile.set("late_share", _share(late, sum(hours.values())))
            for hour in main.get(batch.batch_id, ()):
                # Where a partition has no history, as a file has none, its stream's is what there is.
                here, usual = _volume(by_partition[batch.stream, batch.partition_id], hour)
                if usual is None:
                    here, usual = _volume(by_stream[batch.stream], hour)
                if usual is not None:
                    _keep_greatest(profile, hour, here, here / usual)

    def _volumes(
        self, hours: Iterable[datetime]
    ) -> tuple[dict[tuple[str, str], Counter[datetime]], dict[str, Counter[datetime]]]:
        """Clicks by partition, and by stream, in these hours and the same ones of earlier days."""
        wanted = sorted({hour - DAY * back for hour in hours for back in range(USUAL_DAYS + 1)})
        by_partition: dict[tuple[str, str], Counter[datetime]] = defaultdict(Counter)
        by_stream: dict[str, Counter[datetime]] = defaultdict(Counter)
        columns = (Batch.c.stream, Batch.c.partition_id, BatchHour.c.time_key)
        counted = select(*columns, func.sum(BatchHour.c.click_count)).join_from(
            BatchHour, Batch, Batch.c.batch_id == BatchHour.c.batch_id
        )
        for some in in_slices(wanted):
            those = counted.where(BatchHour.c.time_key.in_(some), Batch.c.state.in_(COUNTING)).group_by(*columns)
            for stream, partition, hour, clicks in self.transaction.run(those):
                by_partition[stream, partition][hour] += int(clicks)
                by_stream[stream][hour] += int(clicks)
        return by_partition, by_stream

    def _measure_clicks(self, rows: Rows) -> None:
        for batch_id, some in groupby(rows, key=lambda row: row.batch_id):
            hours, profile = list(some), self.profiles[batch_id]
            clicks = sum(row.click_count for row in hours)
            profile.set("invalid_share", _share(sum(row.invalid_count for row in hours), clicks))
            profile.set("zero_share", _share(sum(row.zero_count for row in hours), clicks))
            profile.set("amount_min", min(row.amount_min for row in hours))
            profile.set("amount_max", max(row.amount_max for row in hours))
            profile.set("amount_mean", sum(row.amount for row in hours) / clicks)

    # Advertisers

    def _measure_unknown(self) -> None:
        for profile in self.profiles.values():
            profile.set("unknown_share", 0 if profile.count("click_count") else None)
        for profile, row in self._rows("quality/list_unknown_clicks"):
            profile.set("unknown_share", _share(row.click_count, profile.count("click_count")))

    def _measure_advertisers(self) -> None:
        tops = self._rows("quality/list_top_advertisers", since=self.since)
        for profile, row in tops:
            profile.values["top_advertiser_id"] = row.advertiser_id
            profile.set("top_share", _share(row.click_count, profile.count("click_count")))
        # To count a week costs something; of a batch without a dominant advertiser nobody asks.
        asked = [(profile, row) for profile, row in tops if row.click_count * 2 > profile.count("click_count")]
        if not asked:
            return
        by_partition, by_stream = self._week()
        counted = self._clicks_in_windows()
        for profile, row in asked:
            known = by_partition[profile.stream, profile.partition_id]
            if known < LEAST_CLICKS_OF_SHARE:
                known = by_stream[profile.stream]
            # An advertiser's clicks are told by its windows, which are behind what was merged if a build died there.
            known = min(known, counted)
            if known >= LEAST_CLICKS_OF_SHARE:
                usual = min(1.0, row.usual_count / known)
                profile.set("sudden_share", row.click_count / profile.count("click_count") - usual)

    def _clicks_in_windows(self) -> int:
        window = SpendSummary.c
        asked = select(func.coalesce(func.sum(window.click_count), 0))
        return int(
            self.transaction.run(asked.where(window.grain == "day", window.window_start >= self.since)).scalar_one()
        )

    def _week(self) -> tuple[Counter[tuple[str, str]], Counter[str]]:
        """Merged clicks of the last days by partition and by stream."""
        columns = (Batch.c.stream, Batch.c.partition_id)
        counted = (
            select(*columns, func.sum(BatchHour.c.click_count))
            .join_from(BatchHour, Batch, Batch.c.batch_id == BatchHour.c.batch_id)
            .where(BatchHour.c.time_key >= self.since, Batch.c.state == "merged")
            .group_by(*columns)
        )
        by_partition: Counter[tuple[str, str]] = Counter()
        by_stream: Counter[str] = Counter()
        for stream, partition, clicks in self.transaction.run(counted):
            by_partition[stream, partition] += int(clicks)
            by_stream[stream] += int(clicks)
        return by_partition, by_stream

    def _measure_costs(self) -> None:
        parameters = {"since": self.since, "least": LEAST_CLICKS_OF_MEAN, "factor": ODD_FACTOR}
        for profile, row in self._rows("quality/list_usual_costs", **parameters):
            profile.values["compared_click_count"] = int(row.click_count)
            profile.set("odd_cost_share", _share(row.odd_count, row.click_count))
            if row.expected > 0:
                profile.set("cost_ratio", row.amount / row.expected)

    # A sample: quantiles and duplicates

    def _measure_sample(self) -> None:
        amounts: dict[int, list[Decimal]] = defaultdict(list)
        for row in self.transaction.rows("quality/list_sampled_amounts", **self.scope, sample=SAMPLE_EVENTS):
            amounts[row.batch_id].append(row.amount)
        usual = self._usual_quantiles()
        for batch_id, some in amounts.items():
            profile = self.profiles[batch_id]
            some.sort()
            for name, ratio, place in (("amount_median", "median_ratio", 0.5), ("amount_p95", "p95_ratio", 0.95)):
                quantile = some[min(len(some) - 1, int(len(some) * place))]
                profile.set(name, quantile)
                if before := usual.get((profile.stream, name)):
                    profile.set(ratio, quantile / before)
        for profile, row in self._rows("quality/count_sampled_duplicates", **self.scope, sample=SAMPLE_EVENTS):
            profile.values["sampled_click_count"] = int(row.click_count)
            again = row.click_count - row.version_count + row.stored_count
            profile.set("duplicate_share", _share(again, row.click_count))

    def _usual_quantiles(self) -> dict[tuple[str, str], Decimal]:
        """The mean of the quantiles of the last days' batches, by stream and column."""
        large = [one.stream for one in self.profiles.values() if one.count("click_count") >= LEAST_CLICKS_OF_QUANTILE]
        if not large:
            return {}
        column = BatchProfile.c
        means = (
            select(column.stream, func.count(), func.sum(column.amount_median), func.sum(column.amount_p95))
            .join_from(BatchProfile, Batch, Batch.c.batch_id == column.batch_id)
            .where(column.stream.in_(set(large)), column.created_at >= self.since, Batch.c.state == "merged")
            .where(column.click_count >= LEAST_CLICKS_OF_QUANTILE, column.amount_p95.is_not(None))
            .group_by(column.stream)
            .having(func.count() >= LEAST_BATCHES_OF_QUANTILE)
        )
        found: dict[tuple[str, str], Decimal] = {}
        for stream, batches, medians, p95s in self.transaction.run(means):
            found[stream, "amount_median"] = medians / batches
            found[stream, "amount_p95"] = p95s / batches
        return found

    # What isn't a click

    def _measure_budgets(self) -> None:
        for profile, row in self._rows("quality/list_budget_profiles", **self.scope):
            profile.values["budget_count"] = int(row.budget_count)
            profile.values["compared_budget_count"] = int(row.compared_count)
            profile.set("unnamed_budget_share", _share(row.unnamed_count, row.budget_count))
            profile.set("budget_max", row.budget_max)
            if row.compared_count:
                profile.set("budget_ratio", row.budgets / row.usual_budgets)

    def _measure_members(self, entity: str) -> None:
        for profile, row in self._rows(f"quality/list_{entity}_profiles", **self.scope):
            rows = int(row._mapping[f"{entity}_count"])
            profile.values[f"{entity}_count"] = rows
            profile.set(f"{entity}_null_share", _share(row.null_count, 2 * rows))


def _counted(batch: Row[Any]) -> Profile:
    profile = Profile(batch.batch_id, batch.stream, batch.partition_id)
    for column in BatchProfile.columns:
        if column.name.endswith("_count"):
            profile.values[column.name] = 0
        elif column.nullable and column.name != "documented_at":
            profile.values[column.name] = None
    for name in ("event_count", "click_count", "rejected_count"):
        profile.values[name] = batch._mapping[name]
    return profile


def _share(part: int, whole: int) -> Decimal | None:
    return Decimal(part) / Decimal(whole) if whole else None


def _main_hours(hours: Mapping[datetime, int]) -> list[datetime]:
    least = MAIN_HOUR_SHARE * sum(hours.values())
    return [hour for hour, clicks in hours.items() if clicks >= least]


def _volume(clicks: Counter[datetime], hour: datetime) -> tuple[int, float | None]:
    """Clicks of an hour, and how many are usual at it: the median of the earlier days that had any."""
    earlier = [found for back in range(1, USUAL_DAYS + 1) if (found := clicks[hour - DAY * back])]
    usual = median(earlier) if earlier else 0
    return clicks[hour], usual if usual >= LEAST_CLICKS_OF_HOUR else None


def _keep_greatest(profile: Profile, hour: datetime, clicks: int, ratio: float) -> None:
    greatest = profile.values.get("volume_ratio")
    if greatest is None or ratio > greatest:
        profile.values.update(volume_hour=hour, hour_click_count=clicks)
        profile.set("volume_ratio", ratio)
