"""`status` is green when all is well, and red, with what is wrong, when anything isn't."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, insert, update

from spendgate import status
from spendgate.clock import utc_now
from spendgate.local import broker, postgres, services
from spendgate.local.processes import Supervisor
from spendgate.local.services import ServiceState
from spendgate.pipeline import Pipeline
from spendgate.settings import Settings
from spendgate.start import start_services
from spendgate.streams.publish_file import publish_lines
from spendgate.warehouse.engine import Lock, Warehouse
from spendgate.warehouse.tables import Batch, SpendSummary, StreamGap
from tests.factories import advertiser, budget, click

OWN = (postgres.NAME, broker.NAME)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Warehouse and broker up, and one run behind them."""
    made = Settings(home=tmp_path_factory.mktemp("status"))
    try:
        start_services(made, airflow=False)
        hour_ago = utc_now() - timedelta(hours=1)
        bodies = [
            advertiser(hour_ago - timedelta(days=2)),
            budget(1, hour_ago - timedelta(days=2), "5"),
            click(1, hour_ago),
            b"not json",
        ]
        publish_lines(bodies, services.endpoints(made), stream="ad-clicks")
        warehouse = Warehouse(services.warehouse_url(made))
        Pipeline(made, warehouse, services.endpoints(made)).run()
        warehouse.close()
        yield made
    finally:
        services.down(made, lambda _: None)


@pytest.fixture
def warehouse(settings: Settings) -> Iterator[Warehouse]:
    made = Warehouse(services.warehouse_url(settings))
    yield made
    made.close()


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Settings], tuple[bool, str]]:
    """Whether all is well, and what is said; Airflow, which these tests don't start, left out."""
    ask = services.states

    def states(settings: Settings) -> list[ServiceState]:
        return [state for state in ask(settings) if state.name in OWN or state.name == "warehouse"]

    monkeypatch.setattr(status.services, "states", states)

    def run(settings: Settings) -> tuple[bool, str]:
        capsys.readouterr()
        return status.show_status(settings), capsys.readouterr().out

    return run


Show = Callable[[Settings], tuple[bool, str]]


def fact(out: str, name: str) -> str:
    """What the table of facts says of one thing."""
    (line,) = (line for line in out.splitlines() if f" {name} " in line)
    return line.strip("│ ").split("│")[1].strip()


def test_it_is_green_after_a_run_and_says_how_fresh_the_data_is(settings: Settings, show: Show) -> None:
    well, out = show(settings)
    assert well, out
    assert "All is well." in out
    assert "Checks: all pass" in out
    assert fact(out, "clicks") == "1"
    assert fact(out, "rejected events") == "1"
    assert fact(out, "batches waiting to be merged") == "0"
    assert fact(out, "flags waiting to be published") == "0"
    assert fact(out, "newest batch merged").endswith("ago)")


def test_a_replay_makes_no_data_fresher(settings: Settings, warehouse: Warehouse, show: Show) -> None:
    batch = {
        "batch_id": 10**6,
        "stream": "s",
        "partition_id": "0",
        "epoch": 1,
        "from_position": "0",
        "to_position": "0",
    }
    counts = {"event_count": 1, "click_count": 1, "rejected_count": 0, "is_replay": 1, "state": "merged"}
    now = utc_now() + timedelta(days=400)
    with warehouse.transaction() as transaction:
        transaction.run(insert(Batch).values(**batch, **counts, created_at=now, updated_at=now))
    try:
        _, out = show(settings)
    finally:
        with warehouse.transaction() as transaction:
            transaction.run(delete(Batch).where(Batch.c.batch_id == batch["batch_id"]))
    assert not fact(out, "newest batch staged").startswith(str(now.year))


def test_it_is_red_and_names_the_check_when_numbers_contradict_each_other(
    settings: Settings, warehouse: Warehouse, show: Show
) -> None:
    day = SpendSummary.c.grain == "day"
    with warehouse.transaction() as transaction:
        transaction.run(update(SpendSummary).where(day).values(gross_spend=SpendSummary.c.gross_spend + 1))
    try:
        well, out = show(settings)
    finally:
        with warehouse.transaction() as transaction:
            transaction.run(update(SpendSummary).where(day).values(gross_spend=SpendSummary.c.gross_spend - 1))
    assert not well
    assert "Check assert_" in out
    assert "FAILED: " in out
    assert "docs/runbook.md" in out


def test_it_says_what_each_stream_holds_that_is_not_read(settings: Settings, show: Show) -> None:
    assert (fact(show(settings)[1], "ad-clicks"), fact(show(settings)[1], "ad-budgets")) == ("kafka", "kafka")
    publish_lines([click(2, utc_now())], services.endpoints(settings), stream="ad-budgets")
    well, out = show(settings)
    assert well, out
    (line,) = (line for line in out.splitlines() if " ad-budgets " in line)
    assert "more to read in 1 partition " in line
    (line,) = (line for line in out.splitlines() if " ad-clicks " in line)
    assert "all read" in line


def test_it_is_red_and_says_why_when_a_stream_cannot_be_read(settings: Settings, show: Show) -> None:
    well, out = show(settings.model_copy(update={"streams": ("ad-clicks", "missing")}))
    assert not well
    assert "CAN'T BE READ" in out
    assert "has no stream 'missing'" in out


def test_it_is_red_while_a_gap_waits_for_a_person(settings: Settings, warehouse: Warehouse, show: Show) -> None:
    now = utc_now()
    gap = {"stream": "ad-clicks", "partition_id": "0", "epoch": 9, "from_position": "1", "to_position": "5"}
    with warehouse.transaction() as transaction:
        transaction.run(insert(StreamGap).values(**gap, created_at=now, updated_at=now))
    try:
        well, out = show(settings)
    finally:
        with warehouse.transaction() as transaction:
            transaction.run(delete(StreamGap))
    assert not well
    assert "1 stream gaps wait for a person: ./spendgate gaps list" in out


def test_a_build_under_way_is_not_disturbed_and_not_an_alarm(
    settings: Settings, warehouse: Warehouse, show: Show
) -> None:
    with warehouse.transaction() as transaction:
        assert transaction.try_hold(Lock.BUILD)
        well, out = show(settings)
    assert well, out
    assert "Checks: a build is under way" in out


def test_an_empty_warehouse_that_was_never_migrated_is_red_and_says_what_to_run(
    settings: Settings, make_database: Callable[[], object], show: Show
) -> None:
    url = make_database().render_as_string(hide_password=False)  # type: ignore[attr-defined]
    well, out = show(settings.model_copy(update={"warehouse_url": SecretStr(url)}))
    assert not well
    assert "run ./spendgate migrate" in out


def test_before_the_first_up_it_is_red_and_says_what_to_run(tmp_path: Path, show: Show) -> None:
    well, out = show(Settings(home=tmp_path / "empty"))
    assert not well
    assert "run ./spendgate up" in out


@pytest.mark.parametrize("service", [broker.NAME, postgres.NAME])
def test_it_is_red_when_a_service_was_killed_and_green_again_after_up(
    settings: Settings, show: Show, service: str
) -> None:
    record = Supervisor(settings.home).record(service)
    assert record
    os.kill(record.pid, signal.SIGKILL)
    well, out = show(settings)
    assert not well
    assert "NOT HEALTHY" in out
    assert "./spendgate up starts it" in out
    start_services(settings, airflow=False)
    well, out = show(settings)
    assert well, out
