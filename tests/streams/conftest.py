"""One real broker for the stream tests, and topics on it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
from tests.brokers import Bench, WheelBroker

NAMED_BROKER = os.environ.get("SPENDGATE_TEST_KAFKA")


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """The broker under test: the wheel's, or the one that SPENDGATE_TEST_KAFKA names (host:port)."""
    if NAMED_BROKER:
        yield NAMED_BROKER
        return
    with WheelBroker() as broker:
        yield broker.bootstrap


@pytest.fixture
def bench(bootstrap: str) -> Bench:
    return Bench(bootstrap)


@pytest.fixture
def apache(bench: Bench) -> Bench:
    """A bench on Apache Kafka: the wheel's broker has no transactions, retention or compaction to speak of."""
    if not NAMED_BROKER:
        pytest.skip("needs Apache Kafka: set SPENDGATE_TEST_KAFKA to its host:port")
    return bench


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
