"""From a click to who listens: broker, pipeline, flag, API, all of them real, in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from spendgate.api.accounts import Accounts
from spendgate.api.app import create_app
from spendgate.api.asgi import BudgetApi, Mounted
from spendgate.api.identity import Scope
from spendgate.clock import utc_now
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse
from tests.api.callers import SIGNING_KEY, serving
from tests.brokers import Bench, WheelBroker
from tests.factories import advertiser, budget, click


@pytest.fixture
def api(warehouse: Warehouse) -> Iterator[httpx.Client]:
    key = Accounts(warehouse, utc_now).add_key("ad server", [Scope.FLAGS], is_staff=True)
    app = create_app(Settings(api_signing_key=SecretStr(SIGNING_KEY)), warehouse=warehouse)
    with (
        serving(Mounted(BudgetApi(lambda: app))) as url,
        httpx.Client(base_url=f"{url}/budget/v1", headers={"X-API-Key": key}, trust_env=False, timeout=20) as client,
    ):
        yield client


def next_event(lines: Iterator[str]) -> tuple[str, list[dict[str, Any]]]:
    """The next event's name and flags; comments say only that the stream lives."""
    told: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not line and "data" in told:
            return told["event"], json.loads(told["data"])["flags"]
        told[name] = value
    raise AssertionError("the stream has ended")


def test_a_click_that_exhausts_the_budget_turns_the_answer_and_the_open_stream_says_so(
    warehouse: Warehouse, wheel_broker: WheelBroker, api: httpx.Client
) -> None:
    bench = Bench(wheel_broker.bootstrap)
    events = bench.topic()
    settings = Settings(streams=(events,), flag_topic=bench.topic(), stream_timeout=10)
    pipeline = Pipeline(settings, warehouse, Endpoints(settings, kafka=lambda: bench.properties))
    hour_ago = utc_now() - timedelta(hours=1)
    bench.produce(events, [advertiser(hour_ago), budget(1, hour_ago, "5")])
    pipeline.run()
    with api.stream("GET", "/can-serve/stream") as stream:
        lines = stream.iter_lines()
        event, flags = next_event(lines)
        assert (event, [(flag["can_serve"], flag["reason"]) for flag in flags]) == ("flags", [(True, "ok")])
        assert api.get("/advertisers/1/can-serve").json()["can_serve"] is True
        bench.produce(events, [click(1, utc_now(), "5.0000")])
        pipeline.run()
        committed = time.monotonic()
        event, flags = next_event(lines)
        assert time.monotonic() - committed < 2
        assert (event, [(flag["can_serve"], flag["reason"]) for flag in flags]) == ("changes", [(False, "exhausted")])
        told = api.get("/advertisers/1/can-serve").json()
        assert (told["can_serve"], told["spent_today"], told["remaining"]) == (False, "5.0000", "0.0000")
