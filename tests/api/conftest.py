"""One warehouse with a little of everything, an app on it, and who may call it; made once a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import URL, insert

from spendgate.api import passwords
from spendgate.api.accounts import Accounts, NewUser
from spendgate.api.app import create_app
from spendgate.api.asgi import BudgetApi, Mounted
from spendgate.api.context import find_context
from spendgate.api.identity import Scope
from spendgate.settings import Settings
from spendgate.warehouse import schema
from spendgate.warehouse.engine import Warehouse
from spendgate.warehouse.tables import (
    Ad,
    Advertiser,
    BudgetEvent,
    Outbox,
    ServingFlag,
    SpendSummary,
    TimeHierarchy,
)
from tests.api.callers import NOW, PASSWORD, SIGNING_KEY, MovableClock, Place, serving
from tests.conftest import Databases

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REAL_HASHER = passwords._HASHER
QUICK_HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def user(username: str, advertiser_id: int | None = None) -> NewUser:
    return NewUser(username, f"{username}@example.com", "A", "Person", advertiser_id, advertiser_id is None)


def flag_row(advertiser_id: int, can_serve: int, reason: str, **more: Any) -> dict[str, Any]:
    """A flag, decided a minute ago."""
    row = {
        "advertiser_id": advertiser_id,
        "can_serve": can_serve,
        "reason": reason,
        "budget": "10.0000",
        "spent_today": "4.5000",
        "remaining": "5.5000",
        "as_of": NOW - timedelta(minutes=1),
        "version": 1,
        "created_at": NOW - timedelta(minutes=1),
        "updated_at": NOW - timedelta(minutes=1),
    }
    return row | more


def fill(warehouse: Warehouse) -> None:
    stamps = {"created_at": NOW - DAY, "updated_at": NOW - DAY}
    advertisers = [
        {"advertiser_id": n, "name": f"Advertiser {n}", "industry": None, "country": "DE", "is_active": 1}
        for n in (1, 2, 3)
    ]
    ads = [
        {"ad_id": 10 * n, "advertiser_id": n, "ad_title": f"Ad of {n}", "ad_format": "banner", "is_active": 1}
        for n in (1, 2)
    ]
    flags = [
        flag_row(1, 1, "ok"),
        flag_row(2, 0, "exhausted", remaining="0.0000"),
        flag_row(3, 1, "ok", as_of=NOW - 4 * HOUR),
    ]
    hours = [NOW.replace(minute=0) - n * HOUR for n in range(30)]
    with warehouse.transaction() as transaction:
        transaction.run(insert(Advertiser), [row | stamps | {"is_inferred": 0} for row in advertisers])
        transaction.run(insert(Ad), [row | stamps | {"is_inferred": 0, "product_link": None} for row in ads])
        held = [0, 1, 0]
        rows = [row | {"day": date(2026, 11, 21), "is_stale": one} for row, one in zip(flags, held, strict=True)]
        transaction.run(insert(ServingFlag), rows)
        transaction.run(insert(Outbox), flags)
        transaction.run(insert(TimeHierarchy), [hour_row(hour) | stamps for hour in hours])
        transaction.run(insert(BudgetEvent), [budget_row(n) | stamps for n in range(5)])
        transaction.run(insert(SpendSummary), [window for hour in hours for window in (window_row(hour) | stamps,)])


def hour_row(hour: datetime) -> dict[str, Any]:
    week = hour.isocalendar()
    return {
        "time_key": hour,
        "date_key": hour.date(),
        "hour": hour.hour,
        "day": hour.day,
        "week": week.week,
        "week_start": hour.date() - timedelta(days=hour.weekday()),
        "month": hour.month,
        "quarter": (hour.month + 2) // 3,
        "year": hour.year,
        "weekday_name": hour.strftime("%A"),
        "is_active": 1,
    }


def budget_row(number: int) -> dict[str, Any]:
    # Two at the same time: pages are told apart by id too.
    at = NOW - DAY + HOUR * (number // 2)
    return {
        "event_id": UUID(int=number + 1),
        "advertiser_id": 1,
        "new_budget_value": f"{10 + number}.0000",
        "event_time": at,
        "time_key": at.replace(minute=0),
        "source": "test",
    }


def window_row(hour: datetime) -> dict[str, Any]:
    return {
        "advertiser_id": 1,
        "grain": "hour",
        "window_start": hour,
        "window_end": hour + HOUR,
        "click_count": 2,
        "gross_spend": "1.5000",
        "invalid_spend": "0.2500",
        "net_spend": "1.0000",
        "budget_at_time": "10.0000",
        "can_serve": 1,
    }


# What the API says and to whom is held to on each engine; how it is described and quoted, on PostgreSQL alone.
ON_EACH_ENGINE = ("test_access", "test_reads", "test_serving")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "place" in metafunc.fixturenames and metafunc.module.__name__.endswith(ON_EACH_ENGINE):
        mssql = pytest.param("mssql", marks=pytest.mark.mssql)
        metafunc.parametrize("server_url", ["postgresql", mssql], indirect=True, scope="session")


@pytest.fixture(scope="module")
def place(server_url: URL, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    databases = Databases(server_url)
    on_postgresql = server_url.get_backend_name() == "postgresql"
    warehouse = Warehouse(databases(request.getfixturevalue("migrated_database") if on_postgresql else None))
    if not on_postgresql:
        schema.migrate(warehouse)
    fill(warehouse)
    clock = MovableClock()
    accounts = Accounts(warehouse, clock)
    for name, advertiser_id in (("staff", None), ("own", 1), ("other", 2), ("disabled", None), ("locked", None)):
        accounts.add_user(user(name, advertiser_id), PASSWORD)
    settings = Settings(
        home=tmp_path_factory.mktemp("api home"),
        api_signing_key=SIGNING_KEY,
        api_login_rate_limit="100000/minute",
    )
    staff_key = accounts.add_key("staff", list(Scope), is_staff=True)
    own_key = accounts.add_key("own", list(Scope), advertiser_id=1)
    app = create_app(settings, warehouse=warehouse, clock=clock)
    yield Place(app, warehouse, clock, accounts, settings, staff_key, own_key)
    find_context(app).guard.close()
    warehouse.close()
    databases.drop_all()


@pytest.fixture(scope="module")
def tokens(place: Place) -> dict[str, str | None]:
    """A token of each kind; "good", "own" and "other advertiser" are whole."""
    good = place.log_in()
    claims = jwt.decode(good["access_token"], options={"verify_signature": False})
    head = {"kid": jwt.get_unverified_header(good["access_token"])["kid"]}

    def forged(key: Any = SIGNING_KEY, algorithm: str = "HS256", headers: dict[str, str] = head, **changed: Any) -> str:
        told = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(told, key, algorithm, headers=headers)

    disabled, revoked = place.log_in("disabled"), place.log_in()
    place.accounts.disable_user("disabled")
    answer = place.client.post(
        "/v1/auth/revoke", json={}, headers={"Authorization": f"Bearer {revoked['access_token']}"}
    )
    assert answer.status_code == 204
    now = int(time.time())
    return {
        "no token": None,
        "bad signature": forged("another key that is long enough for it"),
        "alg none": forged("", "none"),
        "other algorithm": forged(algorithm="HS512"),
        "unknown key id": forged(headers={"kid": "0"}),
        "expired": forged(exp=now - 1),
        "not yet": forged(nbf=now + 600),
        "wrong audience": forged(aud="somebody"),
        "wrong issuer": forged(iss="somebody"),
        "without jti": forged(jti=None),
        "refresh as access": good["refresh_token"],
        "disabled user": disabled["access_token"],
        "revoked": revoked["access_token"],
        "good": forged(),
        "other advertiser": place.log_in("own")["access_token"],
    }


@pytest.fixture(scope="module")
def address(place: Place) -> Iterator[str]:
    with serving(Mounted(BudgetApi(lambda: place.app))) as url:
        yield f"{url}/budget/v1"


@pytest.fixture(autouse=True)
def _right_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test that uses the place begins and ends now."""
    if "place" not in request.fixturenames:
        yield
        return
    clock: MovableClock = request.getfixturevalue("place").clock
    clock.now = NOW
    yield
    clock.now = NOW


@pytest.fixture(scope="session", autouse=True)
def _quick_hashes() -> Iterator[None]:
    """A hash of a password as quick as can be: a real one takes a sixth of a second of one core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "_HASHER", QUICK_HASHER)
        passwords._hash_of_nobody.cache_clear()
        yield
    passwords._hash_of_nobody.cache_clear()


@pytest.fixture
def real_hashes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hashes as they are outside of tests."""
    monkeypatch.setattr(passwords, "_HASHER", REAL_HASHER)
    passwords._hash_of_nobody.cache_clear()
    yield
    passwords._hash_of_nobody.cache_clear()
