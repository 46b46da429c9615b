"""Real brokers for the stream tests, and topics on them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from tests.brokers import Bench, WheelBroker

NAMED_BROKER = os.environ.get("SPENDGATE_TEST_KAFKA")
BROKERS = ("named",) if NAMED_BROKER else ("wheel", "apache")


@pytest.fixture(scope="session", params=BROKERS)
def bootstrap(request: pytest.FixtureRequest) -> str:
    """The brokers under test in turn: the wheel's and Apache Kafka, or the one that SPENDGATE_TEST_KAFKA names."""
    if NAMED_BROKER:
        return NAMED_BROKER
    broker = request.getfixturevalue("wheel_broker" if request.param == "wheel" else "apache_kafka")
    address: str = broker.bootstrap
    return address


@pytest.fixture
def bench(bootstrap: str) -> Bench:
    """A bench on each broker in turn."""
    return Bench(bootstrap)


@pytest.fixture
def apache(request: pytest.FixtureRequest) -> Bench:
    """A bench on Apache Kafka: the wheel's broker has no transactions, retention or compaction to speak of."""
    return Bench(NAMED_BROKER or request.getfixturevalue("apache_kafka").bootstrap)


@pytest.fixture
def start_broker() -> Iterator[Callable[[], WheelBroker]]:
    """Starts brokers that the test may kill."""
    started: list[WheelBroker] = []

    def start() -> WheelBroker:
        started.append(WheelBroker().start())
        return started[-1]

    yield start
    for broker in started:
        broker.kill()


@pytest.fixture
def topic_name() -> str:
    """A name that no topic has."""
    return f"test-{uuid.uuid4()}"
