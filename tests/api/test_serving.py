"""The API as it is served: under uvicorn at /budget, the fast lane in front of Flask; the plugin that mounts it."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, update

from spendgate.api import guard
from spendgate.api.app import create_app
from spendgate.api.asgi import FLASK_THREADS, BudgetApi
from spendgate.api.context import find_context
from spendgate.api.identity import Scope
from spendgate.errors import ServiceError
from spendgate.warehouse.tables import Outbox, ServingFlag
from tests.api.callers import KINDS, NOW, PASSWORD, Place, ask
from tests.api.conftest import flag_row


@pytest.fixture
def client(address: str, place: Place) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, headers={"X-API-Key": place.staff_key}, trust_env=False, timeout=20) as made:
        yield made


LANE = (
    "/advertisers/1/can-serve",
    "/advertisers/999/can-serve",
    "/can-serve",
    "/can-serve?changed_since=0",
    "/can-serve?fields=reason",
)


@pytest.mark.parametrize("path", LANE)
def test_the_lane_answers_what_flask_answers(client: httpx.Client, place: Place, path: str) -> None:
    fast, slow = client.get(path), place.get(f"/v1{path}", **{"Accept-Encoding": "gzip, deflate"})
    assert fast.status_code == slow.status_code == 200
    assert fast.json() == json.loads(place.get(f"/v1{path}").data)
    ignored = {"date", "content-length", "server", "content-encoding"}
    assert {n: v for n, v in fast.headers.items() if n not in ignored} == {
        n.lower(): v for n, v in slow.headers.items() if n.lower() not in ignored
    }


def test_a_list_that_is_known_is_not_sent_again(client: httpx.Client) -> None:
    etag = client.get("/can-serve").headers["ETag"]
    again = client.get("/can-serve", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["/advertisers/2/can-serve", "/can-serve", "/can-serve/stream"])
def test_the_lane_lets_in_nobody_whom_flask_would_not(
    address: str, place: Place, tokens: dict[str, str | None], kind: str, path: str
) -> None:
    headers = {} if tokens[kind] is None else {"Authorization": f"Bearer {tokens[kind]}"}
    fast = httpx.get(address + path, headers=headers, trust_env=False)
    slow = ask(place, "GET", f"/v1{path}", tokens[kind])
    assert fast.status_code == slow.status_code == 401
    told = {**slow.json, "instance": f"/budget/v1{path}"}
    assert fast.json() == told


def test_the_lane_hides_other_advertisers(address: str, tokens: dict[str, str | None]) -> None:
    headers = {"Authorization": f"Bearer {tokens['other advertiser']}"}
    assert httpx.get(f"{address}/advertisers/2/can-serve", headers=headers, trust_env=False).status_code == 404
    assert httpx.get(f"{address}/advertisers/1/can-serve", headers=headers, trust_env=False).status_code == 200


def test_what_the_lane_does_not_know_flask_answers(client: httpx.Client, address: str) -> None:
    assert client.get("/advertisers/1/can-serve?fields=can_serve").json() == {"can_serve": True}
    assert client.get("/can-serve?changed=1").status_code == 422
    assert client.get("/can-serve?fields=reason,nothing").status_code == 422
    assert client.get("/can-serve?changed_since=x").status_code == 422
    assert client.head("/can-serve").status_code == 200
    for path in ("", "/budget", "/v1/health/live", "/budget/v1/nothing", "/budget/v1/advertisers/0/can-serve"):
        answer = httpx.get(address.removesuffix("/budget/v1") + path, trust_env=False)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
    assert "openapi.json" in client.get("/docs").text
    assert client.get("/openapi.json").json()["openapi"] == "3.1.0"


@pytest.mark.parametrize("how", ["revoked here", "disabled elsewhere", "key revoked elsewhere"])
def test_who_was_let_in_is_refused_by_the_very_next_request(address: str, place: Place, how: str) -> None:
    """Elsewhere: as `./spendgate users disable` and `keys revoke` do it in a process that can't tell the server."""
    if how == "key revoked elsewhere":
        headers = {"X-API-Key": place.accounts.add_key("next", [Scope.FLAGS], is_staff=True)}
    else:
        if how == "disabled elsewhere":
            place.accounts.set_password("disabled", PASSWORD)
        headers = {"Authorization": f"Bearer {place.log_in('disabled' if how[0] == 'd' else 'staff')['access_token']}"}
    url = f"{address}/advertisers/1/can-serve"
    with (
        httpx.Client(headers=headers, trust_env=False) as client,
        client.stream("GET", f"{address}/can-serve/stream") as stream,
    ):
        assert [client.get(url).status_code for _ in range(20)] == [200] * 20
        if how == "revoked here":
            assert client.post(f"{address}/auth/revoke", json={}).status_code == 204
        elif how == "disabled elsewhere":
            place.accounts.disable_user("disabled")
        else:
            place.accounts.revoke_key(headers["X-API-Key"])
        assert client.get(url).status_code == 401
        began = time.monotonic()
        assert stream.read().count(b"event: flags") == 1
        assert time.monotonic() - began < 2, "the open stream ends"


def test_a_change_is_answered_within_a_second_and_the_open_stream_says_so(client: httpx.Client, place: Place) -> None:
    def gate(can_serve: int, version: int) -> None:
        told = {"can_serve": can_serve, "reason": "ok" if can_serve else "exhausted", "version": version}
        changed = flag_row(2, **told)
        with place.warehouse.transaction() as transaction:
            which = ServingFlag.c.advertiser_id == 2
            transaction.run(update(ServingFlag).where(which).values(**told, updated_at=NOW))
            transaction.run(insert(Outbox), [changed])

    with client.stream("GET", "/can-serve/stream") as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        lines = stream.iter_lines()
        first = [next(lines) for _ in range(4)]
        assert first[1] == "event: flags"
        gate(1, 2)
        began = time.monotonic()
        told = [next(lines) for _ in range(4)]
        assert time.monotonic() - began < 2.5
        assert told[1] == "event: changes"
        assert [(f["advertiser_id"], f["can_serve"]) for f in json.loads(told[2][6:])["flags"]] == [(2, True)]
    assert client.get("/advertisers/2/can-serve").json()["can_serve"] is True
    gate(0, 3)
    time.sleep(1)
    assert client.get("/advertisers/2/can-serve").json()["can_serve"] is False
    with client.stream("GET", "/can-serve/stream", headers={"Last-Event-ID": first[0].removeprefix("id: ")}) as again:
        lines = again.iter_lines()
        assert [next(lines) for _ in range(2)][1] == "event: changes"


def test_a_body_that_does_not_come_is_waited_for_no_longer_than_it_takes(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spendgate.api.bridge.BODY_SECONDS", 0.2)
    host, _, port = address.removeprefix("http://").removesuffix("/budget/v1").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as slow:
        slow.sendall(b"POST /budget/v1/auth/token HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
        answer = slow.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def test_a_warehouse_that_says_nothing_is_waited_for_no_longer_than_patience_lasts(
    address: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spendgate.api.standing.PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr("spendgate.api.bridge.ANSWER_SECONDS", 0.6)
    thawed, find_keys = threading.Event(), guard._find_keys

    def find_frozen(*asked: Any) -> Any:
        assert thawed.wait(30)
        return find_keys(*asked)

    monkeypatch.setattr(guard, "_find_keys", find_frozen)
    with httpx.Client(base_url=address, headers={"X-API-Key": place.staff_key}, trust_env=False, timeout=20) as client:
        began = time.monotonic()
        for path, longest in (("/advertisers/1/can-serve", 0.6), ("/can-serve", 0.2), ("/me", 1.0)):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:spendgate:problem:unavailable"), path
            assert answer.headers["Retry-After"] == "5"
            assert time.monotonic() - began < longest, path
            began = time.monotonic()
        with ThreadPoolExecutor(FLASK_THREADS) as callers:
            waited = list(callers.map(lambda path: client.get(path).status_code, ["/me"] * FLASK_THREADS))
        assert set(waited) == {503}
        began = time.monotonic()
        assert client.get("/health/live").status_code == 200, "who waits doesn't hold up monitors"
        assert time.monotonic() - began < 0.5
        thawed.set()
        deadline = time.monotonic() + 5
        while client.get("/advertisers/1/can-serve").status_code != 200:
            assert time.monotonic() < deadline, "it recovers by itself"
            time.sleep(0.02)


def test_a_client_that_does_not_take_its_answer_is_let_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendgate.api.asgi.TAKEN_SECONDS", 0.1)
    monkeypatch.setattr("spendgate.api.asgi.MOST_AT_ONCE", 100)
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            await asyncio.sleep(30)

    headers = [(b"x-api-key", place.staff_key.encode())]
    scope = {"type": "http", "method": "GET", "path": "/v1/can-serve", "root_path": "", "headers": headers}
    asyncio.run(asyncio.wait_for(BudgetApi(lambda: place.app)(scope, send, send), 5))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[1]["more_body"] is True
    assert len(sent[1]["body"]) <= 100


def test_an_app_that_can_not_be_built_answers_503_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spendgate.api.asgi.REBUILD_SECONDS", 0.0)
    fails = [True]

    def make() -> object:
        if fails:
            raise ServiceError("The laptop's warehouse was never started here: run ./spendgate up.")
        raise AssertionError("tried again")

    api = BudgetApi(make)  # type: ignore[arg-type]
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        sent.append(message)  # type: ignore[arg-type]

    scope = {"type": "http", "method": "GET", "path": "/budget/v1/can-serve", "root_path": "/budget", "headers": []}
    asyncio.run(api(scope, send, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 503
    assert b"never started" not in sent[1]["body"]  # type: ignore[operator]
    fails.clear()
    with pytest.raises(AssertionError, match="tried again"):
        asyncio.run(api(scope, send, send))  # type: ignore[arg-type]


def test_the_plugin_opens_and_loads_nothing_when_airflow_imports_it(root: Path) -> None:
    """And the middlewares that its short way goes around are there by these names: renamed, it would be given up."""
    program = (
        "import sys, socket\n"
        "import airflow.plugins_manager\n"
        "before = set(sys.modules)\n"
        "socket.socket.connect = None\n"
        f"sys.path[:0] = [{str(root / 'include')!r}, {str(root / 'plugins')!r}]\n"
        "from budget_api import BudgetApiPlugin\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "mounts = [mount['url_prefix'] for mount in BudgetApiPlugin.fastapi_apps]\n"
        "from spendgate.api.mount import NEEDLESS\n"
        "import importlib\n"
        "parts = [name.rpartition('.') for name in NEEDLESS]\n"
        "there = [getattr(importlib.import_module(module), name) for module, _, name in parts]\n"
        "print(sorted(new), mounts, len(there))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["['budget_api', 'spendgate'] ['/budget'] 4"], done.stderr[-2000:]


def test_the_same_app_serves_under_any_wsgi_server(place: Place) -> None:
    app = create_app(place.settings, warehouse=place.warehouse, clock=place.clock)
    with app.test_client().get(
        "/v1/can-serve/stream", headers={"X-API-Key": place.staff_key}, buffered=False
    ) as answer:
        assert answer.mimetype == "text/event-stream"
        assert b"event: flags" in next(answer.iter_encoded())
    find_context(app).guard.close()
