"""The one door to the warehouse: connections, transactions, locks, and what an engine's errors mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, TypeVar

import pyarrow as pa
from sqlalchemy import URL, Connection, Engine, Executable, Row, Table, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from spendgate.errors import RunUnderWayError, SpendGateError, TransactionLostError, TransientError
from spendgate.warehouse import mssql_locks
from spendgate.warehouse.address import SETTING, checked_url
from spendgate.warehouse.bulk import MSSQL_BULK_ERRORS, copy_mssql, copy_postgresql
from spendgate.warehouse.failures import failed_number, translate_failure, translate_refusal
from spendgate.warehouse.mssql_core import forget_login
from spendgate.warehouse.mssql_nulls import spell_nulls
from spendgate.warehouse.statements import Statement, load_statement, translate_statement
from spendgate.warehouse.tables import BatchNumber, to_stored

# A server that is up accepts within a second; half a minute of silence is a server that is away.
CONNECT_TIMEOUT_SECONDS = 10
# A task has its transaction and a bulk copy open at once; what remains is for threads beside them.
DEFAULT_CONNECTIONS = 6
DEFAULT_LOCK_TIMEOUT_SECONDS = 600.0
Thing = TypeVar("Thing")

# SQL Server takes 2,100 parameters a statement: a list of up to this many things, and some more, fit.
LIST_LENGTH = 1_000


class Lock(IntEnum):
    """What a transaction may hold against others; released when it ends, however it ends."""

    STAGING = 7_340_001  # shared by who stages a batch, exclusive for who removes orphans
    BUILD = 7_340_002  # merge, rebuild and decide: one at a time
    PUBLISH = 7_340_003  # one publisher, so that versions leave in order
    MIGRATE = 7_340_004
    REPLAY = 7_340_005  # who stages rejected events again: one batch at a time


@dataclass(slots=True)
class Transaction:
    """One transaction; made by `Warehouse.transaction` only."""

    connection: Connection
    dialect: str
    lock_timeout: float
    read_only: bool = False
    # On SQL Server: a lock that this transaction holds, and whether it has begun.
    _mark: str = ""
    _begun: bool = False

    def execute(self, name: str, **parameters: object) -> int:
        """Run sql/<name>.sql; returns the number of rows it changed."""
        self._begin()
        return self.connection.execute(*self._bind(load_statement(name, self.dialect), parameters)).rowcount

    def rows(self, name: str, **parameters: object) -> Sequence[Row[Any]]:
        """The rows that sql/<name>.sql selects; times are as stored, UTC without an offset."""
        self._begin()
        return self.connection.execute(*self._bind(load_statement(name, self.dialect), parameters)).all()

    def pages(self, name: str, size: int, **parameters: object) -> Iterator[Sequence[Row[Any]]]:
        """As `rows`, so many at a time, and no more of them in this process; read them within the transaction."""
        self._begin()
        statement, bound = self._bind(load_statement(name, self.dialect), parameters)
        yield from self.connection.execute(statement, bound, execution_options={"yield_per": size}).partitions()

    def select(self, source: str, **parameters: object) -> tuple[list[str], Sequence[Row[Any]]]:
        """Column names and rows of a T-SQL query given as text."""
        self._begin()
        statement = translate_statement("the query", source, self.dialect)
        result = self.connection.execute(*self._bind(statement, parameters))
        return list(result.keys()), result.all()

    def run(self, statement: Executable, rows: Sequence[Mapping[str, Any]] | None = None) -> Any:
        """Run a SQLAlchemy statement on the tables of `spendgate.warehouse.tables`."""
        if rows is not None and not rows:
            return None
        self._begin()
        return self.connection.execute(statement, rows)

    def next_batch_id(self) -> int:
        """A batch id that nobody had before; ids grow."""
        self._begin()
        return int(self.connection.scalar(BatchNumber))

    def hold(self, lock: Lock, *, shared: bool = False) -> None:
        """Hold `lock` until the transaction ends, waiting for others.

        Raises:
            RunUnderWayError: somebody else held it for longer than the lock time-out.
        """
        if not self._acquire(lock, shared, self.lock_timeout):
            raise RunUnderWayError(
                f"Another run held the {lock.name.lower()} lock for {self.lock_timeout:.0f} s; "
                "wait for it to end and run again."
            )

    def try_hold(self, lock: Lock) -> bool:
        """Hold `lock` exclusively until the transaction ends if nobody else holds it now."""
        return self._acquire(lock, False, 0.0)

    def empty(self, *tables: Table) -> None:
        """Empty work tables; undone if the transaction is."""
        self._begin()
        for table in tables:
            self.connection.execute(text(f"TRUNCATE TABLE {table.fullname}"))

    def refresh_statistics(self, *tables: Table) -> None:
        """Tell PostgreSQL's planner what is in tables that were just filled; it would plan for empty ones.

        SQL Server makes statistics by itself when it compiles a statement that wants them.
        """
        if self.dialect == "postgresql":
            for table in tables:
                self.connection.execute(text(f"ANALYZE {table.fullname}"))

    def require_same(self) -> None:
        """Raise unless this still is the transaction that it began as; asked before it is committed.

        Raises:
            TransactionLostError: SQL Server ended it, and said so to nobody.
        """
        if self.dialect == "mssql" and not mssql_locks.stands(self.connection, self._mark):
            raise _lost()

    def _begin(self) -> None:
        """Mark a transaction on SQL Server that comes to a second statement, if no lock does it already.

        One statement is whole or nothing; whether the first ended the transaction shows when it is marked.
        """
        if self.dialect != "mssql" or self.read_only or self._mark:
            return
        if self._begun:
            self._mark = mssql_locks.mark(self.connection)
            if not self._mark:
                raise _lost()
        self._begun = True

    def _acquire(self, lock: Lock, shared: bool, timeout: float) -> bool:
        if self.dialect == "mssql":
            return self._acquire_mssql(lock, shared, timeout)
        suffix = "_shared" if shared else ""
        tried = text(f"SELECT pg_try_advisory_xact_lock{suffix}(:key)")
        if self.connection.execute(tried, {"key": int(lock)}).scalar_one():
            return True
        if timeout <= 0:
            return False
        return self._wait_postgresql(lock, suffix, timeout)

    def _acquire_mssql(self, lock: Lock, shared: bool, timeout: float) -> bool:
        name = f"spendgate_{lock.name.lower()}_"
        answer = mssql_locks.get_lock(self.connection, name, shared=shared, timeout=timeout)
        if answer >= 0:
            self._mark = self._mark or name
        elif answer == mssql_locks.NO_TRANSACTION:
            self.require_same()
        return answer >= 0

    def _wait_postgresql(self, lock: Lock, suffix: str, timeout: float) -> bool:
        self.connection.execute(text(f"SET LOCAL lock_timeout = {int(timeout * 1000)}"))
        try:
            self.connection.execute(text(f"SELECT pg_advisory_xact_lock{suffix}(:key)"), {"key": int(lock)})
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == "55P03":
                return False
            raise
        self.connection.execute(text("SET LOCAL lock_timeout = 0"))
        return True

    def _bind(self, statement: Statement, given: Mapping[str, object]) -> tuple[Executable, dict[str, object]]:
        if given.keys() != statement.parameters:
            raise TypeError(f"{statement.name} takes {sorted(statement.parameters)}, got {sorted(given)}")
        return statement.text, {name: _stored(value) for name, value in given.items()}


def _lost() -> TransactionLostError:
    return TransactionLostError(
        "The warehouse ended a transaction before its end and said so to nobody, so what was written may be there in "
        "part: run ./spendgate reconcile, and tell the maintainers what was running."
    )


def _stored(value: object) -> object:
    return to_stored(value) if isinstance(value, datetime) else value


def in_slices(things: Sequence[Thing]) -> Iterator[Sequence[Thing]]:
    """`things` in pieces that fit one statement's parameters."""
    for start in range(0, len(things), LIST_LENGTH):
        yield things[start : start + LIST_LENGTH]


def as_utc(stored: datetime) -> datetime:
    """The instant behind a time that a statement returned."""
    return stored.replace(tzinfo=UTC)


@dataclass(slots=True)
class Warehouse:
    """A warehouse on PostgreSQL or SQL Server, told apart by its URL.

    `connections` is how many one process holds at most; `setting` is where the URL came from, which errors name;
    `make_engine` makes SQLAlchemy's engine of the URL and options, for who has a way of their own.

    Raises:
        ConfigurationError: the URL is none, of another database, or lacks what is needed to sign in.
    """

    url: URL | str
    lock_timeout: float = DEFAULT_LOCK_TIMEOUT_SECONDS
    connections: int = DEFAULT_CONNECTIONS
    setting: str = SETTING
    make_engine: Callable[..., Engine] = create_engine
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.url = checked_url(self.url, self.setting)
        self.engine = self.make_engine(
            self.url,
            pool_size=self.connections,
            max_overflow=0,
            # The connection that came back last goes out first: who has a transaction open and copies beside it copies
            # by the same one each time, with which SQL Server's bulk copies keep their login.
            pool_use_lifo=True,
            # A connection that its server or a gateway closed while it was idle is replaced, not handed out.
            pool_pre_ping=True,
            connect_args=_connect_args(self.url),
        )
        if self.dialect == "mssql":
            event.listen(self.engine, "connect", _prepare_mssql)
            event.listen(self.engine, "before_cursor_execute", spell_nulls, retval=True)
            event.listen(self.engine, "close", forget_login)
        else:
            event.listen(self.engine, "connect", _prepare_postgresql)

    @property
    def dialect(self) -> str:
        """ "postgresql" or "mssql"."""
        name: str = self.engine.dialect.name
        return name

    def connect(self) -> Connection:
        """A connection of the pool, which takes it back when it is closed.

        Raises:
            TransientError: the server is away, or all connections are in use.
            PermanentError: the server refuses; the sentence says what to change.
        """
        try:
            return self.engine.connect()
        except DBAPIError as error:
            raise translate_refusal(error, self.engine.url, self.setting) from error
        except NoConnectionFree as error:
            raise self._none_free() from error

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[Transaction]:
        """A transaction: committed when the block ends, rolled back when it raises.

        Raises:
            TransientError: the server is away, or a deadlock or time-out ended the transaction.
            TransactionLostError: SQL Server ended it without an error; nothing is known of what was written.
            PermanentError: the server refuses; the sentence says what to change.
        """
        errors = (DBAPIError, self.engine.dialect.loaded_dbapi.Error)
        with self.connect() as connection:
            try:
                with connection.begin() as begun:
                    if read_only and self.dialect == "postgresql":
                        connection.execute(text("SET TRANSACTION READ ONLY"))
                    transaction = Transaction(connection, self.dialect, self.lock_timeout, read_only)
                    try:
                        yield transaction
                        if begun.is_active and not read_only:
                            transaction.require_same()
                    except errors as error:
                        number = failed_number(connection) if self.dialect == "mssql" else None
                        raise translate_failure(error, self.engine.url, number, self.setting) from error
                    except TransactionLostError:
                        connection.invalidate()  # nothing of this session is as we think
                        raise
                    if read_only:
                        connection.rollback()
            except errors as error:
                raise translate_failure(error, self.engine.url, setting=self.setting) from error

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """For reads that need no instant in common: on PostgreSQL each statement is its own transaction.

        There that saves three of five round trips. SQL Server opens a transaction by itself, and this ends it.

        Raises:
            TransientError, PermanentError: as `transaction`.
        """
        if self.dialect != "postgresql":
            with self.transaction(read_only=True) as transaction:
                yield transaction
            return
        with self.connect() as connection:
            try:
                yield Transaction(
                    connection.execution_options(isolation_level="AUTOCOMMIT"), self.dialect, self.lock_timeout
                )
            except (DBAPIError, self.engine.dialect.loaded_dbapi.Error) as error:
                raise translate_failure(error, self.engine.url, setting=self.setting) from error

    def bulk_load(self, table: Table, rows: pa.Table) -> int:
        """Append `rows` to `table` by the engine's fastest door, on a connection and transaction of its own.

        The rows are committed when this returns, whatever the caller's transaction does: staged rows count
        only once their batch is in etl.Batch. Returns the number of rows.
        """
        if rows.num_rows == 0:
            return 0
        copy, own = (copy_mssql, MSSQL_BULK_ERRORS) if self.dialect == "mssql" else (copy_postgresql, ())
        with self.connect() as connection, _kept_if_it_works(connection):
            try:
                copy(connection, table, rows)
            except (DBAPIError, self.engine.dialect.loaded_dbapi.Error, *own) as error:
                raise translate_failure(error, self.engine.url, setting=self.setting) from error
        return int(rows.num_rows)

    def _none_free(self) -> SpendGateError:
        return TransientError(
            f"All {self.connections} connections of this process to the warehouse are in use; run again, or set "
            "SPENDGATE_WAREHOUSE_CONNECTIONS higher."
        )

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


@contextmanager
def _kept_if_it_works(connection: Connection) -> Iterator[None]:
    """Close the connection instead of giving it back when the block raises.

    A commit that failed would leave the pool a transaction that whoever comes next commits.
    """
    try:
        yield
    except BaseException:
        connection.invalidate()
        raise


def _connect_args(url: URL) -> dict[str, object]:
    if url.get_backend_name() == "postgresql":
        return {"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "spendgate"}
    return {"timeout": CONNECT_TIMEOUT_SECONDS}


def _prepare_postgresql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET TIME ZONE 'UTC'")
    connection.commit()


def _prepare_mssql(connection: Any, _record: object) -> None:
    """Once for each connection, which keeps it: the pool rolls back, and nothing resets the session in between.

    XACT_ABORT ON: without it a failed INSERT after a DELETE can leave the DELETE to be committed. NOCOUNT OFF,
    although batches of statements are often run with ON: the steps go by row counts, and with ON there are none.
    Neither may be left to a server's default, or be set by a batch of ours: a SET in a batch with parameters
    outlives it on some servers.
    """
    with connection.cursor() as cursor:
        cursor.execute("SET XACT_ABORT ON; SET NOCOUNT OFF;")
    connection.commit()
