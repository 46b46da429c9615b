"""The pipeline against the independent model: any world, any runs, any batches, the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spendgate.merge import Merge
from spendgate.warehouse.engine import Warehouse
from tests import model
from tests.factories import (
    NOW,
    Bench,
    ListStream,
    assert_rows_are,
    empty_everything,
    modelled,
    rejected_bodies,
    rejections_of,
)
from tests.strategies import World, key_of, worlds

pytestmark = pytest.mark.untraced

PARTITIONS = 3

# What an example left is removed before the next: a database a test, not an example. On SQL Server an example
# takes some seconds.
EXAMPLES = {"postgresql": 20, "mssql": 6}


def examined(dialect: str) -> settings:
    return settings(
        max_examples=EXAMPLES[dialect],
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def hold(dialect: str, strategy: dict[str, Any], check: Callable[..., None]) -> None:
    """Hold `check` to examples, as many as the engine can bear."""
    examined(dialect)(given(**strategy)(check))()


@st.composite
def benches(draw: st.DrawFn) -> dict[str, int]:
    """Sizes of batches and chunks, so that everything falls into pieces."""
    return {
        "batch_size": draw(st.integers(1, 7)),
        "chunk_events": draw(st.sampled_from((1, 10, 2_000_000))),
        "chunk_days": draw(st.sampled_from((1, 2, 100_000))),
    }


def fresh(warehouse: Warehouse, **sizes: int) -> Bench:
    empty_everything(warehouse)
    return Bench(warehouse, ListStream(partitions=PARTITIONS), **sizes)


def deliver(bench: Bench, bodies: Iterable[bytes]) -> None:
    """Put each event where its advertiser's are; what has none goes anywhere."""
    for body in bodies:
        bench.stream.append(body, partition=crc32(key_of(body) or body) % PARTITIONS)


def feed_world(bench: Bench, world: World) -> model.Model:
    """Every run of the world through every step; returns what the model makes of it."""
    truth = model.Model()
    for run in world.runs:
        deliver(bench, run.bodies)
        truth.feed((body, NOW) for body in run.bodies)
        truth.decide(run.as_of)
        bench.build()
        bench.decide(run.as_of)
        bench.rebuild()
    return truth


def assert_all_is(warehouse: Warehouse, truth: model.Model, *, flags: bool = True) -> None:
    """Rows, and rejections with their bytes."""
    assert_rows_are(warehouse, truth, flags=flags)
    assert rejections_of(warehouse) == truth.rejection_counts()
    assert rejected_bodies(warehouse) == Counter((one.reason, one.raw) for one in truth.rejections)


@pytest.mark.slow
def test_any_world_in_any_runs_and_batches_gives_the_models_rows_flags_and_rejections(
    any_warehouse: Warehouse,
) -> None:
    def check(world: World, sizes: dict[str, int]) -> None:
        truth = feed_world(fresh(any_warehouse, **sizes), world)
        assert_all_is(any_warehouse, truth)

    hold(any_warehouse.dialect, {"world": worlds(NOW), "sizes": benches()}, check)


@pytest.mark.slow
def test_steps_in_any_order_over_events_in_any_order_end_in_the_same_rows(any_warehouse: Warehouse) -> None:
    """Without conflicts nothing depends on arrival: late, early, torn apart, read before or after a rebuild."""

    def check(world: World, sizes: dict[str, int], data: st.DataObject) -> None:
        bench = fresh(any_warehouse, **sizes)
        steps: list[Callable[[], object]] = [
            *(lambda number=number: bench.read(number) for number in range(PARTITIONS)),
            bench.judge,
            lambda: Merge(bench.warehouse, bench.clock, bench.chunk_events).merge_staged(),
            bench.rebuild,
        ]
        for body in data.draw(st.permutations(world.bodies)):
            deliver(bench, [body])
            for step in data.draw(st.lists(st.sampled_from(steps), max_size=2)):
                step()
        bench.build()
        assert_all_is(any_warehouse, modelled(world.bodies), flags=False)

    hold(
        any_warehouse.dialect,
        {"world": worlds(NOW, conflicts=False), "sizes": benches(), "data": st.data()},
        check,
    )


@pytest.mark.slow
def test_events_fed_twice_change_nothing_but_that_bad_ones_are_rejected_twice(any_warehouse: Warehouse) -> None:
    def check(world: World, sizes: dict[str, int]) -> None:
        bench = fresh(any_warehouse, **sizes)
        truth = feed_world(bench, world)
        as_of = world.runs[-1].as_of
        deliver(bench, world.bodies)
        bench.build()
        bench.decide(as_of)
        bench.rebuild()
        assert_rows_are(any_warehouse, truth)
        truth.feed((body, NOW) for body in world.bodies)
        assert rejections_of(any_warehouse) == truth.rejection_counts()

    hold(any_warehouse.dialect, {"world": worlds(NOW), "sizes": benches()}, check)
