"""What a request works with: made once an app, found by Flask's current app."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from flask import Flask, current_app, g
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry

from spendgate.api.flag_store import FlagStore
from spendgate.api.guard import Guard
from spendgate.api.hot import HotReads
from spendgate.api.identity import Identity
from spendgate.api.log_ins import LogIns
from spendgate.api.rates import Limits
from spendgate.api.tokens import Tokens
from spendgate.clock import Clock, utc_now
from spendgate.local import services
from spendgate.settings import Settings
from spendgate.warehouse.address import SETTING as WAREHOUSE_SETTING
from spendgate.warehouse.engine import Warehouse

_NAME = "spendgate"
# A read that takes longer isn't waited for: its caller asks again.
STATEMENT_SECONDS = 10
SETTING = "SPENDGATE_API_WAREHOUSE_URL"
# A connection that answered so recently is taken for alive; if it isn't, one request is told to come again.
SURELY_ALIVE_SECONDS = 1.0
_USED = "spendgate last used"
# A server whose host is gone says nothing, and its limit on statements doesn't count: the connection breaks after 15 s.
_NOTICE_SILENCE = {
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 5,
}


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one app."""

    settings: Settings
    clock: Clock
    warehouse: Warehouse
    guard: Guard
    log_ins: LogIns
    store: FlagStore
    hot: HotReads
    max_age: timedelta


def make_context(app: Flask, settings: Settings, warehouse: Warehouse | None = None, clock: Clock = utc_now) -> Context:
    """The parts for `app`, which finds them from now on; nothing is connected to yet.

    Raises:
        ConfigurationError: no signing key, or an unfit one.
        ServiceError: the laptop's warehouse was never started.
    """
    tokens = Tokens(app, settings)
    house = warehouse or open_warehouse(settings)
    limits = Limits(settings.api_rate_limit, settings.api_login_rate_limit)
    guard = Guard(house, clock, tokens, limits)
    max_age = timedelta(hours=settings.flag_max_age)
    store = FlagStore(house, clock, max_age)
    log_ins = LogIns(house, clock, tokens, timedelta(days=settings.api_session_days))
    made = Context(settings, clock, house, guard, log_ins, store, HotReads(store, clock), max_age)
    app.extensions[_NAME] = made
    return made


def open_warehouse(settings: Settings) -> Warehouse:
    """The warehouse by the API's own login, or by the settings' where it has none."""
    if settings.api_warehouse_url is not None:
        url, setting = make_url(settings.api_warehouse_url.get_secret_value()), SETTING
    else:
        url, setting = services.warehouse_url(settings), WAREHOUSE_SETTING
    connections = settings.warehouse_connections
    made = Warehouse(url, connections=connections, setting=setting, make_engine=_make_engine)
    event.listen(made.engine, "connect", _limit_postgresql if made.dialect == "postgresql" else _limit_mssql)
    return made


def _make_engine(url: URL, **options: Any) -> Engine:
    """An engine that asks a connection whether it lives only if it was idle: half of a read's round trips."""
    options["pool_pre_ping"] = False
    if url.get_backend_name() == "postgresql":
        options["connect_args"] = {**options["connect_args"], **_NOTICE_SILENCE}
    engine = create_engine(url, **options)

    def check(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
        if time.monotonic() - record.info.get(_USED, time.monotonic()) < SURELY_ALIVE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise DisconnectionError from error  # the pool takes another one

    def note(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info[_USED] = time.monotonic()

    event.listen(engine, "checkout", check)
    event.listen(engine, "checkin", note)
    return engine


def _limit_postgresql(connection: object, _record: object) -> None:
    with connection.cursor() as cursor:  # type: ignore[attr-defined]  # of a driver that SQLAlchemy chooses
        cursor.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
    connection.commit()  # type: ignore[attr-defined]  # as above


def _limit_mssql(connection: object, _record: object) -> None:
    connection.timeout = STATEMENT_SECONDS  # type: ignore[attr-defined]  # as above


def find_context(app: Flask) -> Context:
    """The parts of `app`."""
    found: Context = app.extensions[_NAME]
    return found


def here() -> Context:
    """The parts of the app that serves this request."""
    return find_context(current_app)


def caller() -> Identity:
    """Who sent this request; the guard found out before its route began."""
    identity: Identity = g.identity
    return identity
