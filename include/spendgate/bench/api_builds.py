"""Builds beside the clients of bench api --soak: clicks through the broker, then a whole pass, again and again.

    python -m spendgate.bench.api_builds ADVERTISERS

Prints one line of JSON when the flags of a pass were committed, and ends when its standard input does.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
import uuid
from datetime import datetime, timedelta

from sqlalchemy import insert, text

from spendgate.clock import DAY, day_start, format_instant, utc_now
from spendgate.local import services
from spendgate.merge import hours_of
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings, load_settings
from spendgate.streams.kafka_producer import KafkaTopics, KafkaWriter
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import TimeHierarchy

CLICKS = 2_000
PAUSE_SECONDS = 1.0
STREAM = "ad-clicks"

_MEMBERS = """
INSERT INTO ads.Advertiser SELECT a, 'bench', NULL, NULL, 1, 0, now(), now() FROM generate_series(1, :advertisers) AS a
"""
_BUDGETS = """
INSERT INTO ads.BudgetEvent
SELECT gen_random_uuid(), a, 5 + a % 100, :at, date_trunc('hour', CAST(:at AS timestamp)), 'bench', now(), now()
FROM generate_series(1, :advertisers) AS a
"""


def store_advertisers(warehouse: Warehouse, advertisers: int) -> None:
    """Advertisers 1 to `advertisers`, each with a budget since yesterday, and the hours of today."""
    now = utc_now()
    yesterday = (now - DAY).replace(tzinfo=None, microsecond=0)
    with warehouse.transaction() as transaction:
        transaction.connection.execute(text(_MEMBERS), {"advertisers": advertisers})
        transaction.connection.execute(text(_BUDGETS), {"advertisers": advertisers, "at": yesterday})
        transaction.run(insert(TimeHierarchy), hours_of(now.date(), now))


def clicks_now(advertisers: int, rnd: random.Random, now: datetime) -> list[tuple[bytes, bytes]]:
    """Clicks of the last seconds, of today, keyed by advertiser."""
    made = []
    at = format_instant(max(now - timedelta(seconds=2), day_start(now.date())))
    for _ in range(CLICKS):
        advertiser = rnd.randint(1, advertisers)
        told = {"click_id": str(uuid.UUID(int=rnd.getrandbits(128))), "advertiser_id": advertiser, "ad_id": advertiser}
        told |= {"event_type": "click", "click_time": at, "amount": f"{rnd.uniform(0.1, 5):.4f}"}
        made.append((b"%d" % advertiser, json.dumps(told).encode()))
    return made


def build_again_and_again(settings: Settings, advertisers: int, until: threading.Event) -> None:
    """Publish clicks and build, until told otherwise; what was decided is printed."""
    warehouse = Warehouse(services.warehouse_url(settings))
    pipeline = Pipeline(settings, warehouse, services.endpoints(settings))
    properties = services.kafka_properties(settings)
    KafkaTopics(properties, timeout=settings.stream_timeout).ensure_topics(settings.stream_kinds, 1)
    rnd = random.Random(1)
    while not until.is_set():
        with KafkaWriter(properties, timeout=settings.stream_timeout) as writer:
            writer.write(STREAM, clicks_now(advertisers, rnd, utc_now()))
            writer.flush()
        for part in pipeline.list_slices():
            pipeline.read_slice(part)
        pipeline.judge_batches()
        pipeline.merge_events()
        pipeline.rebuild_windows()
        decided = pipeline.decide_flags()
        sys.stdout.write(json.dumps({"committed": time.monotonic(), "as_of": decided["as_of"]}) + "\n")
        sys.stdout.flush()
        pipeline.publish_flags()
        pipeline.check_spend()
        until.wait(PAUSE_SECONDS)
    warehouse.close()


def _main() -> None:
    until = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        until.set()

    threading.Thread(target=wait, daemon=True).start()
    build_again_and_again(load_settings(), int(sys.argv[1]), until)


if __name__ == "__main__":
    _main()
