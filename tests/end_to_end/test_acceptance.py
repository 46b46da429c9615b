"""Three files, one run after another, by the command line and in process: exactly the model's rows, however fed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, select
from tests import model
from tests.brokers import WheelBroker
from tests.command_line import CommandLine, Done
from tests.factories import flags_of, read_topic, rejections_of, windows_of

from spendgate.local import services
from spendgate.local.sample import sample_events
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings
from spendgate.start import start_services
from spendgate.streams.endpoints import Endpoints
from spendgate.streams.kafka_producer import KafkaTopics
from spendgate.streams.publish_file import publish_file
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import ClickEvent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CLICKS_A_DAY = 100
SEED = 20261123
PARTITIONS = 2

Feed = Sequence[Sequence[bytes]]


def decisions(today: datetime) -> list[datetime]:
    """The instants of the three runs, none in order: a flag is as of what it is told."""
    return [today - timedelta(hours=30), today - timedelta(milliseconds=1), today - timedelta(hours=6)]


@dataclass(frozen=True)
class Events:
    """Some 250 bodies: clicks of the last two days, budgets, advertisers, ads, and what is no event."""

    bodies: tuple[bytes, ...]
    as_of: tuple[datetime, ...]

    def pieces(self, count: int = 3) -> list[tuple[bytes, ...]]:
        edges = [len(self.bodies) * edge // count for edge in range(count + 1)]
        return [self.bodies[start:end] for start, end in pairwise(edges)]

    def without_conflicts(self) -> Events:
        """Only what means the same in any order: which of two conflicting events counts depends on arrival."""
        truth = modelled([self.bodies], datetime.now(UTC), self.as_of[-1:])
        refused = {one.raw for one in truth.rejections if one.reason == "conflicting_duplicate"}
        keys = {json.loads(raw or b"")["click_id"] for raw in refused}
        kept = tuple(body for body in self.bodies if not any(key.encode() in body for key in keys))
        return Events(kept, self.as_of)


def modelled(feed: Feed, enqueued_at: datetime, as_of: Sequence[datetime]) -> model.Model:
    return model.run_model(
        ([(body, enqueued_at) for body in bodies], instant) for bodies, instant in zip(feed, as_of, strict=True)
    )


@pytest.fixture(scope="module")
def events() -> Events:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    bodies: list[bytes] = []
    for back in (2, 1):
        day = (today - timedelta(days=back)).date()
        bodies += [one.payload for one in sample_events(clicks=CLICKS_A_DAY, seed=SEED + back, day=day, advertisers=6)]
    bodies += [b"not json", b'{"event_type": "view"}', conflict(bodies)]
    assert all(body and b"\n" not in body for body in bodies)
    return Events(tuple(bodies), tuple(decisions(today)))


def conflict(bodies: Sequence[bytes]) -> bytes:
    """A click that came once, again, at another price: one advertiser's, hence of one partition and in order."""
    clicks = [event for event in map(json.loads, filter(is_event, bodies)) if event["event_type"] == "click"]
    times = Counter(event["click_id"] for event in clicks)
    once = next(event for event in clicks if times[event["click_id"]] == 1)
    return json.dumps(once | {"amount": "77.77"}).encode()


def is_event(body: bytes) -> bool:
    try:
        model.read_event(body, datetime.now(UTC))
    except model.RejectedError:
        return False
    return True


def write(path: Path, bodies: Sequence[bytes]) -> Path:
    path.write_bytes(b"".join(body + b"\n" for body in bodies))
    return path


# --- By the command line -----------------------------------------------------------------------------------


def succeeded(done: Done) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Tables:
    """What an analyst's queries find."""

    command_line: CommandLine

    def query(self, sql: str) -> list[dict[str, Any]]:
        return list(json.loads(succeeded(self.command_line("query", sql, "--format", "json"))))

    def windows(self) -> dict[tuple[int, str, datetime], model.Window]:
        return {
            (row["advertiser_id"], row["grain"], datetime.fromisoformat(row["window_start"])): model.Window(
                datetime.fromisoformat(row["window_end"]),
                row["click_count"],
                Decimal(row["gross_spend"]),
                Decimal(row["invalid_spend"]),
                Decimal(row["net_spend"]),
                money(row["budget_at_time"]),
                bool(row["can_serve"]),
            )
            for row in self.query("SELECT * FROM ads.SpendSummary")
        }

    def flags(self) -> dict[int, model.VersionedFlag]:
        return {
            row["advertiser_id"]: model.VersionedFlag(
                model.Flag(
                    bool(row["can_serve"]),
                    row["reason"],
                    money(row["budget"]),
                    Decimal(row["spent_today"]),
                    Decimal(row["remaining"]),
                    date.fromisoformat(row["day"]),
                ),
                datetime.fromisoformat(row["as_of"]),
                row["version"],
            )
            for row in self.query("SELECT * FROM ads.ServingFlag")
        }

    def rejections(self) -> dict[str, int]:
        sql = "SELECT reason, COUNT(*) AS events FROM staging.RejectedEvent GROUP BY reason"
        return {row["reason"]: row["events"] for row in self.query(sql)}


def money(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


@pytest.fixture
def command_line(tmp_path: Path, lend_metadata: Callable[[Path], Path]) -> Iterator[CommandLine]:
    home = lend_metadata(tmp_path / "a home")
    settings = Settings(home=home)
    try:
        start_services(settings, airflow=False)
        # No stream but the one that everything goes to: a run takes half a second for each partition that it looks at.
        yield CommandLine(home, {"SPENDGATE_STREAMS": "ad-clicks"})
    finally:
        services.down(settings, lambda _: None)


def test_three_files_one_run_after_another_and_then_two_runs_at_once_give_exactly_the_models_rows(
    command_line: CommandLine, events: Events, tmp_path: Path
) -> None:
    truth, tables = model.Model(), Tables(command_line)
    for number, (bodies, as_of) in enumerate(zip(events.pieces(), events.as_of, strict=True)):
        enqueued_at = datetime.now(UTC)
        path = write(tmp_path / f"{number}.jsonl", bodies)
        succeeded(command_line("publish", str(path), "--stream", "ad-clicks"))
        said = succeeded(command_line.process("run", "--as-of", as_of.isoformat()))
        assert f"Read {len(bodies):,} events from 2 partitions" in said
        truth.feed((body, enqueued_at) for body in bodies)
        truth.decide(as_of)
    assert "conflicting_duplicate" in truth.rejection_counts()
    assert tables.windows() == truth.summaries()
    assert tables.flags() == truth.flags
    assert tables.rejections() == truth.rejection_counts()

    again, as_of = events.bodies, events.as_of[1]
    enqueued_at = datetime.now(UTC)
    succeeded(command_line("publish", str(write(tmp_path / "again.jsonl", again)), "--stream", "ad-clicks"))
    both = [command_line.start("run", "--as-of", as_of.isoformat()) for _ in range(2)]
    outputs = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    waited = [err for _, err in outputs if "Another run is under way; waiting for it to end." in err]
    assert len(waited) == 1, outputs
    truth.feed((body, enqueued_at) for body in again)
    truth.decide(as_of)
    assert tables.windows() == truth.summaries()
    assert tables.flags() == truth.flags
    assert tables.rejections() == truth.rejection_counts()

    said = succeeded(command_line("reconcile"))
    assert "What came in is what is in the tables. 0 repaired, 0 accepted before." in said
    lose_a_click(command_line)
    refused = command_line("reconcile")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 2)
    assert "found 1 difference" in refused.stderr
    assert tables.windows() == truth.summaries(), "looking changes nothing"
    nobody = command_line("reconcile", "--repair")
    assert (nobody.returncode, "--by" in nobody.stderr) == (1, True)
    assert "1 repaired" in succeeded(command_line("reconcile", "--repair", "--by", "maria"))
    assert tables.windows() == truth.summaries()
    assert "removed" in succeeded(command_line("purge"))
    assert tables.windows() == truth.summaries()


def lose_a_click(command_line: CommandLine) -> None:
    """Remove a click from the table, as no step of ours does."""
    warehouse = Warehouse(services.warehouse_url(command_line.settings()))
    with warehouse.transaction() as transaction:
        lost = select(ClickEvent.c.click_id).order_by(ClickEvent.c.click_id).limit(1).scalar_subquery()
        assert transaction.run(delete(ClickEvent).where(ClickEvent.c.click_id == lost)).rowcount == 1
    warehouse.close()


# --- In process, on topics and databases of their own ----------------------------------------------------------


@dataclass
class Lane:
    """One warehouse and topics of its own."""

    warehouse: Warehouse
    bootstrap: str
    folder: Path

    def __post_init__(self) -> None:
        name = uuid4().hex[:12]
        self.stream, self.flag_topic = f"ad-clicks-{name}", f"can-serve-{name}"
        self.kafka = {"bootstrap.servers": self.bootstrap}
        KafkaTopics(self.kafka, timeout=20).ensure_topics([self.stream], PARTITIONS)
        settings = Settings(
            warehouse_url=SecretStr(self.warehouse.engine.url.render_as_string(hide_password=False)),
            streams=(self.stream,),
            flag_topic=self.flag_topic,
            consumer_group=self.flag_topic,
            batch_size=50,
        )
        self.pipeline = Pipeline(settings, self.warehouse, Endpoints(settings, kafka=lambda: self.kafka))

    def feed(self, feed: Feed, as_of: Sequence[datetime]) -> model.Model:
        """Publish and run, file by file; returns what the model makes of the same."""
        enqueued_at = datetime.now(UTC)
        for number, (bodies, instant) in enumerate(zip(feed, as_of, strict=True)):
            path = write(self.folder / f"{number}.jsonl", bodies)
            publish_file(path, self.pipeline.endpoints, stream=self.stream)
            self.pipeline.run(instant)
        return modelled(feed, enqueued_at, as_of)

    def assert_is(self, truth: model.Model) -> None:
        assert windows_of(self.warehouse) == truth.summaries()
        assert flags_of(self.warehouse) == truth.flags
        assert rejections_of(self.warehouse) == truth.rejection_counts()
        sent: dict[int, dict[str, Any]] = {}
        for _, value in read_topic(self.bootstrap, self.flag_topic):
            message = json.loads(value or b"null")
            sent[message["advertiser_id"]] = message
        assert {key: (one["can_serve"], one["reason"], one["version"]) for key, one in sent.items()} == {
            key: (row.flag.can_serve, row.flag.reason, row.version) for key, row in truth.flags.items()
        }


@pytest.fixture
def lane(warehouse: Warehouse, wheel_broker: WheelBroker, tmp_path: Path) -> Lane:
    return Lane(warehouse, wheel_broker.bootstrap, tmp_path)


def in_another_order(events: Events) -> Feed:
    first, second, third = events.without_conflicts().pieces()
    return [third, first, second]


def backwards(events: Events) -> Feed:
    return [tuple(reversed(piece)) for piece in reversed(events.without_conflicts().pieces())]


def shuffled(events: Events) -> Feed:
    bodies = list(events.without_conflicts().bodies)
    Random(SEED).shuffle(bodies)
    return Events(tuple(bodies), events.as_of).pieces()


def in_other_pieces(events: Events) -> Feed:
    bodies = events.bodies
    return [bodies[:7], bodies[7:200], bodies[200:]]


def in_many_pieces(events: Events) -> Feed:
    return events.pieces(9)


def each_file_twice(events: Events) -> Feed:
    return [piece + piece for piece in events.pieces()]


def all_files_twice(events: Events) -> Feed:
    return [*events.pieces(), *events.pieces()]


@pytest.mark.parametrize(
    "cut",
    [in_another_order, backwards, shuffled, in_other_pieces, in_many_pieces, each_file_twice, all_files_twice],
)
def test_the_same_events_fed_otherwise_give_the_models_rows_and_those_of_one_pass(
    lane: Lane, events: Events, cut: Callable[[Events], Feed]
) -> None:
    feed = cut(events)
    as_of = (events.as_of * 3)[: len(feed)]
    truth = lane.feed(feed, as_of)
    lane.assert_is(truth)
    as_they_came = events if "conflicting_duplicate" in truth.rejection_counts() else events.without_conflicts()
    one_pass = modelled([as_they_came.bodies], datetime.now(UTC), as_of[-1:])
    assert truth.summaries() == one_pass.summaries()
    assert {key: row.flag for key, row in truth.flags.items()} == {key: row.flag for key, row in one_pass.flags.items()}
