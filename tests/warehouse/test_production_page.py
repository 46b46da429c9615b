"""docs/production.md: its statements run as they stand, and do what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from sqlalchemy import URL, text

from spendgate.publish import Publisher
from spendgate.query import run_query
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from tests.factories import Bench, advertiser, at, budget, click, flags_of


def statements(root: Path, section: str) -> list[str]:
    """The blocks of SQL of one section that run on both engines."""
    page = (root / "docs/production.md").read_text()
    body = re.split(r"^#+ .*$", page, flags=re.MULTILINE)[
        [match.group(1) for match in re.finditer(r"^#+ (.*)$", page, re.MULTILINE)].index(section) + 1
    ]
    return [block.strip() for block in re.findall(r"^```sql\n(.*?)^```", body, re.MULTILINE | re.DOTALL)]


def test_the_questions_of_a_monitor_are_answered(any_warehouse: Warehouse, root: Path) -> None:
    asked = statements(root, "Monitoring")
    assert len(asked) == 5
    for question in asked:
        columns, _rows = run_query(any_warehouse, question)
        assert columns


@dataclass
class Topic:
    """What consumers of the flag topic hold: of each advertiser the greatest version, as the contract tells them."""

    topic: str = "can-serve"
    held: dict[int, tuple[int, bool]] = field(default_factory=dict)

    def ensure_topic(self) -> str:
        return "the same all the time"

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        for _key, value in messages:
            flag = msgspec.json.decode(value)
            if flag["version"] > self.held.get(flag["advertiser_id"], (0, False))[0]:
                self.held[flag["advertiser_id"]] = flag["version"], flag["can_serve"]


def gates(warehouse: Warehouse) -> dict[int, tuple[int, bool]]:
    return {
        advertiser_id: (row.version, bool(row.flag.can_serve)) for advertiser_id, row in flags_of(warehouse).items()
    }


BEGIN = (advertiser(advertiser_id=1), advertiser(advertiser_id=2), budget(1, at(21), "5"), click(1, at(21, 8), "2"))


def run(bench: Bench, topic: Topic, *bodies: bytes) -> None:
    bench.build(*bodies)
    bench.decide(at(21, 12))
    Publisher(bench.warehouse, bench.clock, topic).publish_outbox()


def test_after_a_restore_consumers_get_every_flag_again_and_take_it(
    any_warehouse: Warehouse, make_database: Callable[[], URL], root: Path
) -> None:
    """The warehouse goes on after its backup; then the backup takes its place, and the stream is read again."""
    topic, lost = Topic(), Bench(any_warehouse)
    with closing(Warehouse(make_database(), lock_timeout=30.0)) as restored:
        schema.migrate(restored)
        backup = Bench(restored, lost.stream)
        run(lost, topic, *BEGIN)
        run(backup, Topic())

        run(lost, topic, click(2, at(21, 9), "3"))  # exhausted: version 2
        run(lost, topic, budget(2, at(21, 10), "50"))  # may serve again: version 3
        assert topic.held == gates(any_warehouse) == {1: (3, True), 2: (1, False)}

        with restored.transaction() as transaction:
            for statement in ";".join(statements(root, "After a restore")).split(";\n"):
                transaction.run(text(statement.rstrip(";")))
        run(backup, topic)
        assert {one: may for one, (_, may) in topic.held.items()} == {1: True, 2: False}
        run(backup, topic, click(3, at(21, 11), "45"))
        assert topic.held == gates(restored)
        assert topic.held[1][1] is False, "the budget is exhausted, and the topic says so"
