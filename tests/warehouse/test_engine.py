"""The one door: transactions, counts, and locks that hold between connections."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import URL, Connection, insert, select, text, update

from spendgate.errors import (
    PermanentError,
    RunUnderWayError,
    SpendGateError,
    TransactionLostError,
    WarehouseFullError,
)
from spendgate.local import postgres
from spendgate.local.processes import Supervisor
from spendgate.settings import Settings
from spendgate.staging import PAYLOAD_SCHEMA
from spendgate.warehouse import mssql_locks, schema
from spendgate.warehouse.engine import Lock, Transaction, Warehouse, as_utc
from spendgate.warehouse.tables import (
    Ad,
    BatchPayload,
    NewClickGroup,
    StagedClick,
    TouchedDay,
    to_stored,
)
from tests.factories import NOW

ON_SQL_SERVER = pytest.mark.parametrize(
    "server_url", [pytest.param("mssql", marks=pytest.mark.mssql)], indirect=True, scope="session"
)


def touch(transaction: Transaction, *advertisers: int) -> None:
    transaction.run(
        insert(TouchedDay),
        [{"advertiser_id": number, "date_key": date(2026, 11, 21), "created_at": NOW} for number in advertisers],
    )


def touched(warehouse: Warehouse) -> list[int]:
    with warehouse.transaction(read_only=True) as transaction:
        return sorted(transaction.run(select(TouchedDay.c.advertiser_id)).scalars())


# --- Transactions ------------------------------------------------------------------------------------------


def test_a_transaction_is_kept_when_its_block_ends(any_warehouse: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        touch(transaction, 1, 2)
    assert touched(any_warehouse) == [1, 2]


def fail_after_writing(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        touch(transaction, 1)
        raise ZeroDivisionError


def test_a_transaction_is_undone_when_its_block_raises(any_warehouse: Warehouse) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_after_writing(any_warehouse)
    assert touched(any_warehouse) == []


def fail_in_the_second_statement(warehouse: Warehouse) -> None:
    with warehouse.transaction() as transaction:
        touch(transaction, 1, 2)
        touch(transaction, 1)


def test_a_statement_that_fails_undoes_the_ones_before_it(any_warehouse: Warehouse) -> None:
    with pytest.raises(PermanentError):
        fail_in_the_second_statement(any_warehouse)
    assert touched(any_warehouse) == []


def test_emptying_a_table_is_undone_with_its_transaction(any_warehouse: Warehouse) -> None:
    row = {"advertiser_id": 1, "ad_id": 1, "date_key": date(2026, 11, 21)}
    with any_warehouse.transaction() as transaction:
        transaction.run(insert(NewClickGroup), [row])
    with any_warehouse.transaction() as transaction:
        transaction.empty(NewClickGroup)
        assert transaction.run(select(NewClickGroup)).all() == []
        transaction.connection.rollback()
    with any_warehouse.transaction() as transaction:
        assert len(transaction.run(select(NewClickGroup)).all()) == 1


def test_a_read_only_transaction_keeps_nothing(any_warehouse: Warehouse) -> None:
    with suppress(SpendGateError), any_warehouse.transaction(read_only=True) as transaction:
        touch(transaction, 1)
    assert touched(any_warehouse) == []


def test_a_read_only_transaction_refuses_to_write_on_postgresql(warehouse: Warehouse) -> None:
    with pytest.raises(PermanentError, match="read-only"), warehouse.transaction(read_only=True) as transaction:
        touch(transaction, 1)


def test_every_statement_says_how_many_rows_it_changed(any_warehouse: Warehouse) -> None:
    """Also after a lock and a batch id, whose batches must not switch counting off."""
    with any_warehouse.transaction() as transaction:
        transaction.hold(Lock.BUILD)
        transaction.next_batch_id()
        touch(transaction, 1, 2, 3)
        assert transaction.execute("spend/take_touched_days", limit=2) == 2
        assert transaction.execute("spend/remember_days_to_check") == 2
        assert transaction.execute("spend/remember_days_to_check") == 0
        assert transaction.execute("spend/forget_touched_days") == 2
        assert transaction.run(TouchedDay.delete()).rowcount == 1
    assert touched(any_warehouse) == []


def test_no_rows_are_nothing_to_run(any_warehouse: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        assert transaction.run(insert(TouchedDay), []) is None


def test_batch_ids_grow_also_over_a_rollback(any_warehouse: Warehouse) -> None:
    ids = []
    for _ in range(3):
        with any_warehouse.transaction() as transaction:
            ids.append(transaction.next_batch_id())
            transaction.connection.rollback()
    assert ids == sorted(set(ids))


def test_times_are_stored_as_utc_milliseconds_whatever_zone_they_come_in(any_warehouse: Warehouse) -> None:
    instant = datetime(2026, 11, 22, 1, 2, 3, 456_000, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    flags = {"is_active": 1, "is_inferred": 0}
    row = {"ad_id": 1, "advertiser_id": 1, "ad_title": "t", **flags, "created_at": instant, "updated_at": instant}
    with any_warehouse.transaction() as transaction:
        transaction.run(insert(Ad), [row])
        _, plain = transaction.select("SELECT a.updated_at FROM ads.Ad AS a WHERE a.updated_at = @at", at=instant)
        assert transaction.run(select(Ad.c.updated_at)).scalar_one() == instant
    assert [as_utc(found.updated_at) for found in plain] == [instant]
    assert (
        plain[0].updated_at
        == to_stored(instant)
        == datetime(2026, 11, 21, 19, 32, 3, 456_000, tzinfo=UTC).replace(tzinfo=None)
    )


@ON_SQL_SERVER
def test_sessions_on_sql_server_abort_whole_transactions_and_count_rows(warehouse: Warehouse) -> None:
    def options(connection: Connection) -> tuple[int, int]:
        found = int(connection.exec_driver_sql("SELECT @@OPTIONS").scalar_one())
        return found & 16384, found & 512

    with warehouse.transaction() as transaction:
        transaction.hold(Lock.BUILD)
        assert options(transaction.connection) == (16384, 0)
    with warehouse.transaction() as transaction:  # the same connection, from the pool
        assert options(transaction.connection) == (16384, 0)
    with suppress(PermanentError), warehouse.transaction() as transaction:
        transaction.select("SELECT 1 / (a.n - 1) AS x FROM (SELECT 1 AS n) AS a")
    with warehouse.transaction() as transaction:  # after a rollback
        assert options(transaction.connection) == (16384, 0)
    warehouse.engine.dispose()
    with warehouse.transaction() as transaction:  # a new one in its place
        assert options(transaction.connection) == (16384, 0)


def test_null_is_stored_and_compared_like_any_value_and_undoes_nothing(any_warehouse: Warehouse) -> None:
    """On SQL Server as a word: the driver would ask the server what a NULL is, and lose the transaction over it."""
    stamps = {"created_at": NOW, "updated_at": NOW}
    told = {"advertiser_id": 1, "is_active": 1, "is_inferred": 0, **stamps}
    names = {1: "100% of %(ad_format)s", 2: "?", 3: ":none"}
    ads = [{"ad_id": n, "ad_title": name, "ad_format": None, "product_link": None} for n, name in names.items()]
    ads[1]["ad_format"] = "banner"
    with any_warehouse.transaction() as transaction:
        touch(transaction, 7)
        transaction.run(insert(Ad), [told | ad for ad in ads])
        changed = {"ad_format": None, "product_link": "https://example.com/100%"}
        assert transaction.run(update(Ad).where(Ad.c.ad_id == 2).values(changed)).rowcount == 1
        assert transaction.run(update(Ad).values(ad_format=None)).rowcount == 3
        asked = "SELECT a.ad_id FROM ads.Ad AS a WHERE a.ad_title LIKE '%100%%' AND COALESCE(@a, @b) = a.advertiser_id"
        assert [row.ad_id for row in transaction.select(asked, a=None, b=1)[1]] == [1]
    with any_warehouse.transaction(read_only=True) as transaction:
        stored = transaction.run(select(Ad.c.ad_id, Ad.c.ad_title, Ad.c.ad_format).order_by(Ad.c.ad_id)).all()
        assert stored == [(n, name, None) for n, name in names.items()]
    assert touched(any_warehouse) == [7]


def lose(transaction: Transaction) -> None:
    """End the transaction as a server does that says so to nobody: to us it goes on."""
    with closing(transaction.connection.connection.cursor()) as cursor:
        cursor.execute("ROLLBACK")


def write_and_lose(warehouse: Warehouse, *, locked: bool, before: int, after: int, anew: bool = False) -> None:
    with warehouse.transaction() as transaction:
        if locked:
            transaction.hold(Lock.BUILD)
        for number in range(before):
            touch(transaction, number)
        lose(transaction)
        if anew:
            transaction.connection.exec_driver_sql("BEGIN TRANSACTION")
        for number in range(after):
            touch(transaction, 10 * after + number)


@ON_SQL_SERVER
@pytest.mark.parametrize("locked", [False, True])
def test_a_transaction_that_the_server_ended_on_the_way_is_no_success(warehouse: Warehouse, locked: bool) -> None:
    for after in range(3):
        with pytest.raises(TransactionLostError, match="reconcile"):
            write_and_lose(warehouse, locked=locked, before=1, after=after)
    assert 0 not in touched(warehouse)
    with warehouse.transaction() as transaction:  # another connection, on which all is well
        transaction.hold(Lock.BUILD)
        touch(transaction, 99)
    assert 99 in touched(warehouse)


@ON_SQL_SERVER
@pytest.mark.parametrize("locked", [False, True])
def test_another_transaction_in_its_place_is_told_from_it(warehouse: Warehouse, locked: bool) -> None:
    with pytest.raises(TransactionLostError):
        write_and_lose(warehouse, locked=locked, before=2, after=1, anew=True)


@ON_SQL_SERVER
def test_a_lock_that_has_no_transaction_any_more_is_not_somebody_elses(warehouse: Warehouse) -> None:
    def hold_too_late() -> None:
        with warehouse.transaction() as transaction:
            touch(transaction, 1)
            lose(transaction)
            transaction.hold(Lock.BUILD)

    with pytest.raises(TransactionLostError):
        hold_too_late()


@ON_SQL_SERVER
def test_whether_a_transaction_stands_is_asked_once_and_marked_once_if_it_holds_no_lock(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("mark", "stands"):
        monkeypatch.setattr(mssql_locks, name, spied(asked, name, getattr(mssql_locks, name)))
    for statements, lock, cost in ((3, True, ["stands"]), (1, False, ["stands"]), (3, False, ["mark", "stands"])):
        with warehouse.transaction() as transaction:
            if lock:
                transaction.hold(Lock.BUILD)
            for _ in range(statements):
                transaction.run(select(TouchedDay)).all()
        assert asked == cost
        asked.clear()
    with warehouse.transaction(read_only=True) as transaction:
        for _ in range(3):
            transaction.run(select(TouchedDay)).all()
    assert asked == []


def spied(names: list[str], name: str, original: Callable[..., object]) -> Callable[..., object]:
    def call(*given: object) -> object:
        names.append(name)
        return original(*given)

    return call


# --- Locks -------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(any_warehouse: Warehouse) -> Iterator[Warehouse]:
    """The same warehouse for somebody who waits half a second."""
    other = Warehouse(any_warehouse.url, lock_timeout=0.5)
    yield other
    other.close()


def holds(warehouse: Warehouse, lock: Lock, *, shared: bool = False) -> bool:
    """Whether `lock` can be had within the time-out."""
    try:
        with warehouse.transaction() as transaction:
            transaction.hold(lock, shared=shared)
    except RunUnderWayError:
        return False
    return True


def test_an_exclusive_lock_shuts_everybody_else_out(any_warehouse: Warehouse, impatient: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        transaction.hold(Lock.STAGING)
        assert not holds(impatient, Lock.STAGING)
        assert not holds(impatient, Lock.STAGING, shared=True)
        assert holds(impatient, Lock.BUILD)
    assert holds(impatient, Lock.STAGING)


def test_a_shared_lock_is_shared_and_shuts_out_who_wants_it_alone(
    any_warehouse: Warehouse, impatient: Warehouse
) -> None:
    with any_warehouse.transaction() as transaction:
        transaction.hold(Lock.STAGING, shared=True)
        assert holds(impatient, Lock.STAGING, shared=True)
        assert not holds(impatient, Lock.STAGING)


def test_a_lock_goes_with_its_transaction_however_it_ends(any_warehouse: Warehouse, impatient: Warehouse) -> None:
    with suppress(ZeroDivisionError), any_warehouse.transaction() as transaction:
        transaction.hold(Lock.BUILD)
        raise ZeroDivisionError
    assert holds(impatient, Lock.BUILD)


def test_waiting_in_vain_is_one_sentence_that_names_the_lock(any_warehouse: Warehouse, impatient: Warehouse) -> None:
    began = time.monotonic()
    with any_warehouse.transaction() as transaction:
        transaction.hold(Lock.BUILD)
        with (
            pytest.raises(RunUnderWayError, match="Another run held the build lock"),
            impatient.transaction() as late,
        ):
            late.hold(Lock.BUILD)
    assert 0.4 < time.monotonic() - began < 10


def test_who_waits_gets_the_lock_when_it_is_given_back(any_warehouse: Warehouse) -> None:
    held, order = threading.Event(), []

    def first() -> None:
        with any_warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            held.set()
            time.sleep(0.5)
            order.append("first")

    def second() -> None:
        assert held.wait(20)
        with any_warehouse.transaction() as transaction:
            transaction.hold(Lock.BUILD)
            order.append("second")
            transaction.next_batch_id()  # the transaction that waited is as good as any

    with ThreadPoolExecutor(2) as pool:
        for running in [pool.submit(second), pool.submit(first)]:
            running.result(timeout=60)
    assert order == ["first", "second"]


def test_trying_for_a_lock_answers_at_once(any_warehouse: Warehouse, impatient: Warehouse) -> None:
    with any_warehouse.transaction() as transaction:
        assert transaction.try_hold(Lock.STAGING)
        assert transaction.try_hold(Lock.STAGING)  # one's own lock is no obstacle
        with impatient.transaction() as other:
            assert other.try_hold(Lock.BUILD)  # what a session's first statements cost is none of it
            began = time.monotonic()
            assert not other.try_hold(Lock.STAGING)
            assert time.monotonic() - began < 0.4
            other.next_batch_id()  # the transaction goes on
    with impatient.transaction() as other:
        assert other.try_hold(Lock.STAGING)


def test_locks_of_another_database_on_the_server_are_no_obstacle(
    any_warehouse: Warehouse, make_database: Callable[[], URL]
) -> None:
    other = Warehouse(make_database())
    try:
        with any_warehouse.transaction() as transaction, other.transaction() as elsewhere:
            assert transaction.try_hold(Lock.BUILD)
            assert elsewhere.try_hold(Lock.BUILD)
    finally:
        other.close()


# --- A full disk -------------------------------------------------------------------------------------------


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of some megabytes at `place`; unmounted again whatever happens."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        pytest.skip("needs root, to mount a small tmpfs")
    place.mkdir()
    options = f"size={megabytes}m,mode=755"
    made = subprocess.run([mount, "-t", "tmpfs", "-o", options, "spendgate-test", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"may not mount a tmpfs here: {made.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run([umount, "--lazy", str(place)], check=True)


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[tuple[Warehouse, Path]]:
    """A warehouse on a disk with room for little more than its schema, and a file that can make room."""
    with small_disk(tmp_path / "disk", 160) as disk:
        settings = Settings(home=disk / "home")
        settings.home.mkdir()
        supervisor = Supervisor(settings.home)
        try:
            postgres.start(supervisor, settings, lambda _: None)
            url = postgres.url(supervisor)
            assert url is not None
            warehouse = Warehouse(url)
            schema.migrate(warehouse)
            with warehouse.transaction() as transaction:
                # Unlogged, it is the data that finds no room. PostgreSQL whose log finds none stops, which is
                # another failure: a warehouse that went away, and `./spendgate up` says what it needs.
                transaction.connection.execute(text(f"ALTER TABLE {BatchPayload.fullname} SET UNLOGGED"))
            (disk / "ballast").write_bytes(bytes(30_000_000))
            yield warehouse, disk / "ballast"
            warehouse.close()
        finally:
            supervisor.stop(signals={postgres.NAME: postgres.STOP_SIGNAL})


def fill(load: Callable[[int], object]) -> None:
    for number in range(1, 200):
        load(number)


@pytest.mark.slow
def test_a_full_disk_is_told_as_such_and_the_warehouse_works_again_when_there_is_room(
    cramped: tuple[Warehouse, Path],
) -> None:
    warehouse, ballast = cramped
    content = os.urandom(2_000_000)

    def load(number: int) -> None:
        warehouse.bulk_load(BatchPayload, pa.table([[number], [content]], schema=PAYLOAD_SCHEMA))

    with pytest.raises(WarehouseFullError, match="no disk space left"):
        fill(load)

    def insert_row(number: int) -> None:
        with warehouse.transaction() as transaction:
            transaction.run(insert(BatchPayload), [{"batch_id": 10_000 + number, "content": content}])

    with pytest.raises(WarehouseFullError, match="free some and run again") as failure:
        fill(insert_row)
    assert "\n" not in str(failure.value)
    ballast.unlink()
    with warehouse.transaction() as transaction:
        transaction.empty(BatchPayload)
    load(1)
    with warehouse.transaction() as transaction:
        assert transaction.run(select(BatchPayload.c.batch_id)).scalars().all() == [1]
        assert transaction.run(select(StagedClick)).all() == []
        assert transaction.connection.execute(text("SELECT 1")).scalar_one() == 1
