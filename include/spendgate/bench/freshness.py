"""bench freshness: from a click that exhausts a budget to the flag's message, with everything up.

What is timed is what an ad server waits for: from the moment in which the click is handed to the producer until a
consumer of the flag topic holds the message that says no. Tries begin at random moments of the watcher's rhythm.
"""

from __future__ import annotations

import json
import math
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from spendgate.bench.ingest import Figures, Rows
from spendgate.clock import format_instant, utc_now
from spendgate.errors import ServiceError
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.show import tell
from spendgate.start import start_services
from spendgate.streams.kafka_producer import KafkaWriter

FIRST_FLAGS_SECONDS = 120.0
FLAG_SECONDS = 60.0
BETWEEN_SECONDS = (1.0, 3.0)


def measure_freshness(settings: Settings, tries: int) -> tuple[Figures, Rows]:
    """Figures (JSON keys, seconds) and table rows of `tries` clicks, each of an advertiser of its own.

    Raises:
        ServiceError: a flag didn't come.
    """
    start_services(settings, schedule=True)
    rnd = random.Random(1)
    with _flags(settings) as flags:
        tell(f"announcing {tries} advertisers with a budget")
        _publish(settings, [event for advertiser in range(1, tries + 1) for event in _opened(advertiser)])
        flags.wait_for({(advertiser, True) for advertiser in range(1, tries + 1)}, FIRST_FLAGS_SECONDS)
        waits: list[float] = []
        for advertiser in range(1, tries + 1):
            time.sleep(rnd.uniform(*BETWEEN_SECONDS))
            began = time.monotonic()
            _publish(settings, [_exhausting(advertiser)])
            flags.wait_for({(advertiser, False)}, FLAG_SECONDS)
            waits.append(time.monotonic() - began)
            tell(f"try {advertiser}: {waits[-1]:.2f} s")
    ranked = sorted(waits)
    figures = {
        "p50_s": _percentile(ranked, 0.5),
        "p95_s": _percentile(ranked, 0.95),
        "max_s": ranked[-1],
        "tries": float(tries),
    }
    rows: Rows = [
        ["half of the tries within", f"{figures['p50_s']:.2f}", "", ""],
        ["95% of the tries within", f"{figures['p95_s']:.2f}", "", ""],
        [f"the slowest of {tries}", f"{figures['max_s']:.2f}", "", ""],
    ]
    return figures, rows


def _percentile(ranked: list[float], share: float) -> float:
    """The smallest value that at least `share` of all don't exceed."""
    return ranked[math.ceil(share * len(ranked)) - 1]


def _opened(advertiser: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    at = format_instant(utc_now() - timedelta(hours=1))
    named = {"name": f"Advertiser {advertiser}", "updated_at": at}
    yield "ad-reference", advertiser, {"event_type": "advertiser", "advertiser_id": advertiser, **named}
    budget = {"event_id": str(uuid.uuid4()), "advertiser_id": advertiser, "new_budget_value": "1", "event_time": at}
    yield "ad-budgets", advertiser, {"event_type": "budget", **budget}


def _exhausting(advertiser: int) -> tuple[str, int, dict[str, Any]]:
    click = {"click_id": str(uuid.uuid4()), "advertiser_id": advertiser, "ad_id": advertiser, "amount": "2"}
    return "ad-clicks", advertiser, {"event_type": "click", "click_time": format_instant(utc_now()), **click}


def _publish(settings: Settings, events: list[tuple[str, int, dict[str, Any]]]) -> None:
    with KafkaWriter(services.kafka_properties(settings), timeout=settings.stream_timeout) as writer:
        for stream, advertiser, event in events:
            writer.write(stream, [(b"%d" % advertiser, json.dumps(event).encode())])
        writer.flush()


class _Flags:
    """Follows the flag topic as an ad server would."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._latest: dict[int, bool] = {}

    def wait_for(self, wanted: set[tuple[int, bool]], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not wanted <= self._latest.items():
            if time.monotonic() > deadline:
                raise ServiceError(f"Flags of {len(wanted - self._latest.items())} advertisers didn't come in time.")
            for message in self._consumer.consume(1000, 0.02):
                value = message.value()
                if message.error() is None and value is not None:
                    flag = json.loads(value)
                    self._latest[flag["advertiser_id"]] = flag["can_serve"]


@contextmanager
def _flags(settings: Settings) -> Iterator[_Flags]:
    """A consumer of the whole flag topic, which is made if the first publication hasn't made it yet."""
    endpoints = services.endpoints(settings)
    endpoints.flag_sink().ensure_topic()
    properties = services.kafka_properties(settings)
    consumer = Consumer({**properties, "group.id": "bench", "enable.auto.commit": False, "fetch.wait.max.ms": 20})
    try:
        partitions = consumer.list_topics(settings.flag_topic, timeout=settings.stream_timeout).topics
        numbers = partitions[settings.flag_topic].partitions
        consumer.assign([TopicPartition(settings.flag_topic, number, 0) for number in numbers])
        yield _Flags(consumer)
    finally:
        consumer.close()
