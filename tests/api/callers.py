"""Who calls in these tests: an app with its users and keys, and every kind of token that is to be refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import uvicorn
from flask import Flask
from flask.testing import FlaskClient

from spendgate.api.accounts import Accounts
from spendgate.api.serve import configuration
from spendgate.local.processes import pick_port
from spendgate.settings import Settings
from spendgate.warehouse.engine import Warehouse

NOW = datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
PASSWORD = "correct horse battery"
SIGNING_KEY = "a signing key of the tests, which is long enough for any hash that there is"

KINDS = (
    "no token",
    "bad signature",
    "alg none",
    "other algorithm",
    "unknown key id",
    "expired",
    "not yet",
    "wrong audience",
    "wrong issuer",
    "without jti",
    "refresh as access",
    "disabled user",
    "revoked",
)


class MovableClock:
    """Now, as a test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class Place:
    """An app, its warehouse, its clock and its callers."""

    app: Flask
    warehouse: Warehouse
    clock: MovableClock
    accounts: Accounts
    settings: Settings
    staff_key: str
    own_key: str  # of advertiser 1

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

    def get(self, path: str, key: str | None = None, **headers: str) -> Any:
        return self.client.get(path, headers={"X-API-Key": key or self.staff_key, **headers})

    def log_in(self, username: str = "staff") -> dict[str, Any]:
        answer = self.client.post("/v1/auth/token", json={"username": username, "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json
        return told


def asked(path: str) -> str:
    return f"{path}?grain=day" if path.endswith("/spend") else path


def ask(place: Place, method: str, path: str, token: str | None) -> Any:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    body = {"json": {"everywhere": "no"}} if method == "POST" else {}
    return place.client.open(asked(path), method=method, headers=headers, **body)


@contextmanager
def serving(app: object) -> Iterator[str]:
    """An ASGI app under uvicorn, as ./spendgate api has it, in a thread."""
    port = pick_port("a port", 0)
    server = uvicorn.Server(configuration(app, "127.0.0.1", port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
