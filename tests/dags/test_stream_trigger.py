"""The watcher's trigger, as the triggerer runs it: real streams, a real warehouse, an event loop.

In a process of its own, as Airflow reads its configuration once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spendgate.local import airflow as airflow_service
from spendgate.local import services
from spendgate.settings import ROOT, Settings
from spendgate.start import start_services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WATCH = """
import asyncio, gc, importlib, json, os, time
from pathlib import Path
from tests.factories import click
from spendgate import airflow_adapter as adapter
from spendgate.clock import utc_now
from spendgate.local import services
from spendgate.settings import load_settings
from spendgate.streams.publish_file import publish_lines

def publish(*numbers):
    endpoints = services.endpoints(load_settings())
    publish_lines([click(number, utc_now()) for number in numbers], endpoints, stream="ad-clicks")

def follow():
    with adapter.open_pipeline() as pipeline:
        return pipeline.follow_news()

async def soon(pending, seconds):
    # The event, or None; the wait goes on behind it, as the triggerer's does.
    done, _ = await asyncio.wait({pending}, timeout=seconds)
    return pending.result().payload if done else None

async def watch():
    path, arguments = adapter.StreamTrigger().serialize()
    module, _, name = path.rpartition(".")
    events = getattr(importlib.import_module(module), name)(**arguments).run()
    told = {}
    pending = asyncio.ensure_future(anext(events))
    told["before anything"] = await soon(pending, 2)
    await asyncio.to_thread(publish, 1)
    told["a click"] = await soon(pending, 10)
    pending = asyncio.ensure_future(anext(events))
    await asyncio.to_thread(publish, 2, 3)
    told["more, unread"] = await soon(pending, 2)
    told["followed"] = (await asyncio.to_thread(follow))["intake"]["events"]
    told["all read"] = await soon(pending, 2)
    told["nothing to follow"] = await asyncio.to_thread(follow)
    await asyncio.to_thread(publish, 4)
    told["one more"] = await soon(pending, 10)
    began = time.monotonic()
    await events.aclose()
    told["closed in"] = time.monotonic() - began
    return told

async def wrong_settings():
    os.environ["SPENDGATE_BATCH_SIZE"] = "lots"
    load_settings.cache_clear()
    events = adapter.StreamTrigger().run()
    pending = asyncio.ensure_future(anext(events))
    event = await soon(pending, 2)
    pending.cancel()
    return [event, pending.done() and repr(pending.exception())]

told = asyncio.run(watch())
def clients():
    gc.collect()
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if name.startswith("rdk")]

deadline = time.monotonic() + 5  # a client's threads end a moment after it
while clients() and time.monotonic() < deadline:
    time.sleep(0.1)
told["threads"] = clients()
told["wrong settings"] = asyncio.run(wrong_settings())
print("TOLD " + json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, lend_metadata: Callable[[Path], Path]) -> Iterator[dict[str, Any]]:
    settings = Settings(home=lend_metadata(tmp_path_factory.mktemp("trigger")))
    try:
        start_services(settings, airflow=False)
        airflow_service.migrate_metadata(settings, headless=True)
        environment = airflow_service.environment(settings, headless=True)
        environment["PYTHONPATH"] += f":{ROOT}"
        done = subprocess.run(
            [sys.executable, "-P", "-c", WATCH],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
        assert lines, done.stdout + done.stderr
        yield json.loads(lines[0].removeprefix("TOLD "))
    finally:
        services.down(settings, lambda _: None)


def test_it_is_silent_until_something_comes(told: dict[str, Any]) -> None:
    assert told["before anything"] is None


def test_it_fires_for_a_click_and_says_where(told: dict[str, Any]) -> None:
    assert [place.partition("/")[0] for place in told["a click"]] == ["ad-clicks"]
    assert list(told["a click"].values()) == ["1"]


def test_it_does_not_fire_again_before_the_first_was_read(told: dict[str, Any]) -> None:
    assert (told["more, unread"], told["followed"], told["all read"]) == (None, 3, None)


def test_a_run_that_finds_nothing_new_does_nothing(told: dict[str, Any]) -> None:
    assert told["nothing to follow"] == {"intake": {"partitions": 0, "batches": 0, "events": 0, "rejected": {}}}


def test_it_fires_for_what_comes_later(told: dict[str, Any]) -> None:
    assert list(told["one more"]) != []


def test_it_ends_at_once_and_leaves_no_client_behind(told: dict[str, Any]) -> None:
    assert told["closed in"] < 5
    assert told["threads"] == []


def test_wrong_settings_leave_it_waiting_and_alive(told: dict[str, Any]) -> None:
    assert told["wrong settings"] == [None, False]
