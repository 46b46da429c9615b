"""Several streams in one pipeline: one that fails keeps neither the others nor the flags waiting."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from spendgate.clock import utc_now
from spendgate.errors import PermanentError, StreamUnavailableError, StreamUnknownError
from spendgate.pipeline import Pipeline, Slice
from spendgate.settings import Settings
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import ClickEvent, ServingFlag, StreamPosition
from tests.brokers import Bench, WheelBroker, free_port
from tests.factories import advertiser, budget, click, count, stored

HOUR_AGO = utc_now() - timedelta(hours=1)


@pytest.fixture
def bench(wheel_broker: WheelBroker) -> Bench:
    return Bench(wheel_broker.bootstrap)


def pipeline(warehouse: Warehouse, bench: Bench, *streams: str) -> Pipeline:
    settings = Settings(
        warehouse_url=SecretStr("postgresql+psycopg://unused"),
        streams=streams,
        flag_topic=bench.topic(),
        stream_timeout=5,
    )
    return Pipeline(settings, warehouse, Endpoints(settings, kafka=lambda: bench.properties))


def test_each_partition_is_a_slice_and_a_stream_that_cannot_be_listed_is_one_too(
    warehouse: Warehouse, bench: Bench
) -> None:
    clicks = bench.topic(partitions=2)
    slices = pipeline(warehouse, bench, clicks, "missing").list_slices()
    assert [part.label for part in slices] == [f"{clicks}/0", f"{clicks}/1", "missing"]
    assert slices[-1] == Slice("missing")


def test_the_slice_of_a_stream_that_cannot_be_listed_fails_with_the_reason(warehouse: Warehouse, bench: Bench) -> None:
    steps = pipeline(warehouse, bench, "missing")
    with pytest.raises(StreamUnknownError, match="missing"):
        steps.read_slice(Slice("missing"))


def test_very_many_partitions_share_slices_and_none_is_left_out(warehouse: Warehouse, bench: Bench) -> None:
    clicks = bench.topic(partitions=300)
    slices = pipeline(warehouse, bench, clicks).list_slices()
    assert len(slices) == 256
    found = [partition.partition for part in slices for partition in part.partitions or []]
    assert sorted(found, key=int) == [str(number) for number in range(300)]


def test_following_reads_what_is_new_and_decides_flags_of_it(warehouse: Warehouse, bench: Bench) -> None:
    clicks = bench.topic(partitions=3)
    bench.produce(clicks, [advertiser(HOUR_AGO), budget(1, HOUR_AGO, "5"), click(1, utc_now(), "5")], partition=1)
    done = pipeline(warehouse, bench, clicks).follow_news()
    assert (done["intake"]["partitions"], done["intake"]["events"], done["published"]) == (1, 3, {"messages": 1})
    (flag,) = stored(warehouse, ServingFlag)
    assert (flag.can_serve, flag.reason) == (0, "exhausted")


def test_following_reads_other_streams_and_decides_flags_before_it_tells_what_failed(
    warehouse: Warehouse, bench: Bench
) -> None:
    clicks = bench.topic()
    bench.produce(clicks, [advertiser(HOUR_AGO), budget(1, HOUR_AGO, "5"), click(1, utc_now(), "5")])
    with pytest.raises(StreamUnknownError, match="missing"):
        pipeline(warehouse, bench, "missing", clicks).follow_news()
    assert [row.reason for row in stored(warehouse, ServingFlag)] == ["exhausted"]


def test_what_a_person_has_to_mend_in_one_partition_keeps_no_other_waiting(warehouse: Warehouse, bench: Bench) -> None:
    clicks = bench.topic(partitions=2)
    steps = pipeline(warehouse, bench, clicks)
    bench.produce(clicks, [click(1, HOUR_AGO)], partition=0)
    steps.run()
    with warehouse.transaction() as transaction:  # as if the broker had lost what it gave us
        transaction.run(StreamPosition.update().where(StreamPosition.c.partition_id == "0").values(position="7"))
    bench.produce(clicks, [click(2, HOUR_AGO)], partition=1)
    with pytest.raises(PermanentError, match="before the stored position 7"):
        steps.read_slice(Slice(clicks))
    steps.judge_batches()
    steps.merge_events()
    assert count(warehouse, ClickEvent) == 2


def test_a_broker_that_is_away_is_told_once_and_not_for_each_partition(warehouse: Warehouse, bench: Bench) -> None:
    clicks = bench.topic(partitions=4)
    steps = pipeline(warehouse, bench, clicks)
    partitions = steps.endpoints.stream(clicks).partitions()
    nowhere = {"bootstrap.servers": f"127.0.0.1:{free_port()}"}
    settings = steps.settings.model_copy(update={"stream_timeout": 1.0})
    away = Pipeline(settings, warehouse, Endpoints(settings, kafka=lambda: nowhere))
    began = utc_now()
    with pytest.raises(StreamUnavailableError):
        away.read_slice(Slice(clicks, partitions))
    assert utc_now() - began < timedelta(seconds=4)
    with warehouse.transaction() as transaction:
        assert transaction.run(select(StreamPosition)).all() == []
