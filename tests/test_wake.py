"""Waking the intake: at once for news, once for a burst, again for what stays unread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spendgate.clock import utc_now
from spendgate.errors import StreamUnavailableError
from spendgate.ingest import Intake
from spendgate.wake import Lookout, News, Place, WakeUps
from spendgate.warehouse.engine import Warehouse
from tests.brokers import Bench, WheelBroker
from tests.factories import click

CLICKS, OTHER = ("ad-clicks", "0"), ("ad-budgets", "1")


@dataclass
class Watch:
    """Wake-ups with a clock that the test moves."""

    time: float = 0.0
    wake_ups: WakeUps = field(init=False)

    def __post_init__(self) -> None:
        self.wake_ups = WakeUps(lambda: self.time, patience=15.0, repeat=60.0)

    def see(self, place: Place, position: str | None, reach: str) -> None:
        self.wake_ups.saw(place[0], {place: News(position, reach)})

    def see_nothing(self, place: Place) -> None:
        self.wake_ups.saw(place[0], {})

    def due_at(self, seconds: float) -> dict[Place, str]:
        self.time = seconds
        return self.wake_ups.due()


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_without_news_nobody_is_woken(watch: Watch) -> None:
    watch.see_nothing(CLICKS)
    assert watch.due_at(0) == {}


def test_news_are_due_at_once_and_once(watch: Watch) -> None:
    watch.see(CLICKS, None, "1")
    assert [watch.due_at(second) for second in (0, 1, 14, 59)] == [{CLICKS: "1"}, {}, {}, {}]


def test_a_burst_waits_until_the_first_of_it_was_read(watch: Watch) -> None:
    watch.see(CLICKS, "0", "1")
    watch.due_at(0)
    watch.see(CLICKS, "0", "9")
    assert watch.due_at(1) == {}
    watch.see(CLICKS, "5", "9")  # the run had begun before the last four came
    assert watch.due_at(2) == {CLICKS: "9"}


def test_what_the_run_read_too_wakes_nobody(watch: Watch) -> None:
    watch.see(CLICKS, "0", "1")
    watch.due_at(0)
    watch.see(CLICKS, "0", "9")
    watch.see_nothing(CLICKS)
    assert watch.due_at(2) == {}


def test_news_elsewhere_wait_for_the_run_that_is_about_to_begin(watch: Watch) -> None:
    watch.see(CLICKS, "0", "1")
    watch.due_at(0)
    watch.see(OTHER, "0", "1")
    assert watch.due_at(1) == {}
    watch.see_nothing(CLICKS)
    assert watch.due_at(2) == {OTHER: "1"}


def test_a_run_that_does_not_come_keeps_others_waiting_for_a_moment_only(watch: Watch) -> None:
    watch.see(CLICKS, "0", "1")
    watch.due_at(0)
    watch.see(OTHER, "0", "1")
    assert (watch.due_at(14.9), watch.due_at(15)) == ({}, {OTHER: "1"})


def test_what_stays_unread_is_announced_again_ever_more_seldom(watch: Watch) -> None:
    watch.see(CLICKS, "0", "1")
    announced = [second for second in range(4_000) if watch.due_at(second)]
    assert announced == [0, 60, 180, 420, 900, 1800, 2700, 3600]


def test_a_stream_that_cannot_be_read_never_holds_others_up_again(watch: Watch) -> None:
    watch.see(CLICKS, "0", "1")
    watch.due_at(0)
    assert watch.due_at(60) == {CLICKS: "1"}
    watch.see(OTHER, "0", "1")
    assert watch.due_at(61) == {OTHER: "1"}


def test_a_stream_that_was_made_anew_is_news_although_it_stands_at_its_beginning_again(watch: Watch) -> None:
    watch.see(CLICKS, "7", "8")
    watch.due_at(0)
    watch.see(CLICKS, None, "3")
    assert watch.due_at(1) == {CLICKS: "3"}


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 3)), max_size=60),
    delays=st.lists(st.integers(1, 40), min_size=1, max_size=10),
)
def test_every_event_is_read_and_no_more_than_one_run_waits_beside_the_one_that_works(
    arrivals: list[tuple[int, int]], delays: list[int]
) -> None:
    """Seconds are tenths; a run reads everything `delay` after it begins, and begins when the one before has ended."""
    watch = Watch()
    ends: list[int] = [0, 0, 0, 0]
    read: list[int] = [0, 0, 0, 0]
    queued = runs = 0
    busy_until: int | None = None
    for tenth in range(1_000):
        for at, partition in arrivals:
            ends[partition] += at == tenth
        if busy_until == tenth:
            read, busy_until = list(ends), None
        if queued and busy_until is None:
            queued -= 1
            busy_until = tenth + delays[runs % len(delays)]
            runs += 1
        news = {("s", str(p)): News(str(read[p]), str(ends[p])) for p in range(4) if ends[p] > read[p]}
        watch.wake_ups.saw("s", news)
        watch.time = tenth / 10
        queued += bool(watch.wake_ups.due())
        assert queued <= 1
    assert read == ends
    assert runs <= len(arrivals)


# -- a look at a real stream


@pytest.fixture
def topic(wheel_broker: WheelBroker) -> tuple[Bench, str]:
    bench = Bench(wheel_broker.bootstrap)
    return bench, bench.topic(partitions=2)


def lookout(bench: Bench, topic: str, warehouse: Warehouse) -> tuple[Lookout, Callable[[], None]]:
    """A lookout on the topic, and what reads all that is there."""
    intake = Intake(warehouse, utc_now, 1_000, timedelta(days=31))

    def read() -> None:
        stream = bench.stream(topic)
        for partition in stream.partitions():
            intake.read_partition(stream, partition)

    return Lookout(bench.stream(topic), intake, 1.0), read


def test_a_look_sees_what_is_not_read_and_only_that(topic: tuple[Bench, str], warehouse: Warehouse) -> None:
    bench, name = topic
    watching, read = lookout(bench, name, warehouse)
    assert watching.look() == {}
    bench.produce(name, [click(1, utc_now()), click(2, utc_now())], partition=1, **{"linger.ms": 100})
    assert list(watching.look()) == [(name, "1")]
    read()
    assert watching.look() == {}
    bench.produce(name, [click(3, utc_now())], partition=1)
    assert watching.look()[(name, "1")].position == "2"
    read()
    assert watching.look() == {}
    watching.close()


def test_a_look_sees_a_topic_that_was_made_anew(topic: tuple[Bench, str], warehouse: Warehouse) -> None:
    bench, name = topic
    watching, read = lookout(bench, name, warehouse)
    bench.produce(name, [click(1, utc_now()), click(2, utc_now())])
    read()
    assert watching.look() == {}
    bench.delete(name)
    bench.create(name)
    bench.produce(name, [click(3, utc_now())])
    assert watching.look() == {(name, "0"): News("2", "1")}
    read()
    assert watching.look() == {}
    watching.close()


def test_a_look_at_a_broker_that_is_gone_says_so_and_the_next_one_sees_it_come_back(warehouse: Warehouse) -> None:
    with WheelBroker() as broker:
        bench = Bench(broker.bootstrap)
        name = bench.topic()
        stream = bench.stream(name, timeout=1.0)
        watching = Lookout(stream, Intake(warehouse, utc_now, 1_000, timedelta(days=31)), 1.0)
        assert watching.look() == {}
        broker.kill()
        with pytest.raises(StreamUnavailableError):
            watching.look()
        broker.start()
        bench = Bench(broker.bootstrap)
        bench.create(name)
        bench.produce(name, [click(1, utc_now())])
        assert list(watching.look()) == [(name, "0")]
        watching.close()
