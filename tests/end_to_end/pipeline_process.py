"""One `Pipeline.run` in a process of its own, for tests that kill it (tests/forked.py).

Says "started" when everything is imported and the run begins. Ends with status 0 and the run's report as JSON,
or with status 1 and an error's class and sentence.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import SecretStr

from spendgate.clock import parse_instant
from spendgate.errors import SpendGateError
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings
from spendgate.streams.endpoints import Endpoints
from spendgate.warehouse.engine import Warehouse


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(options: dict[str, Any]) -> int:
    settings = Settings(
        warehouse_url=SecretStr(options["warehouse_url"]),
        streams=tuple(options["streams"]),
        flag_topic=options["flag_topic"],
        consumer_group=options["flag_topic"],
        batch_size=options["batch_size"],
        stream_timeout=20,
        lock_timeout=60,
    )
    warehouse = Warehouse(options["warehouse_url"], lock_timeout=settings.lock_timeout)
    pipeline = Pipeline(
        settings, warehouse, Endpoints(settings, kafka=lambda: {"bootstrap.servers": options["bootstrap"]})
    )
    say("started")
    try:
        say(json.dumps(pipeline.run(parse_instant(options["as_of"]))))
    except SpendGateError as error:
        say(f"{type(error).__name__}: {error}")
        return 1
    return 0
