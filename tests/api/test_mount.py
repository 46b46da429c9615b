"""The mount in a server like Airflow's: reads about flags go around its middlewares, if none of those is for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from spendgate.api import mount
from spendgate.api.asgi import BudgetApi
from spendgate.api.mount import MOUNTED_AT, BarePath, LazyApi
from tests.api.callers import Place

App = Callable[[Any, Any, Any], Awaitable[None]]


class Counting:
    """A middleware of somebody else, that sees which paths pass."""

    seen: list[str]

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.append(scope["path"])
        await self.app(scope, receive, send)


class Server:
    """FastAPI with middlewares, the API mounted, and a page of its own."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch, root: str = "") -> None:
        self.app = FastAPI(root_path=root)
        self.root = root
        lazy = LazyApi()
        monkeypatch.setattr(lazy, "_load", lambda: BudgetApi(lambda: place.app))
        self.app.mount(MOUNTED_AT, lazy)
        self.app.add_api_route("/can-serve", lambda: "a page of the server")
        self.app.add_middleware(GZipMiddleware)
        self.app.add_middleware(BarePath, api=lazy)
        self.app.add_middleware(Counting)
        Counting.seen = []

    def ask(self, *paths: str, key: str) -> list[httpx.Response]:
        async def all_of_them() -> list[httpx.Response]:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://x", headers={"X-API-Key": key}
            ) as client:
                return [await client.get(self.root + path) for path in paths]

        return asyncio.run(all_of_them())


HOT, OTHER = "/budget/v1/advertisers/1/can-serve", "/budget/v1/me"


@pytest.mark.parametrize("root", ["", "/airflow"])
def test_reads_about_flags_go_around_middlewares_that_do_nothing_for_them(
    place: Place, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.setattr(mount, "NEEDLESS", mount.NEEDLESS | {f"{__name__}.Counting"})
    server = Server(place, monkeypatch, root)
    answers = server.ask(HOT, HOT, OTHER, "/can-serve", "/budget/v1/can-serve", key=place.staff_key)
    assert [answer.status_code for answer in answers] == [200] * 5
    assert answers[0].content == answers[1].content
    assert answers[3].json() == "a page of the server"
    assert [path.removeprefix(root) for path in Counting.seen] == [HOT, OTHER, "/can-serve"]


def test_a_middleware_that_may_be_needed_sees_all_of_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Server(place, monkeypatch).ask(HOT, HOT, OTHER, key=place.staff_key)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert Counting.seen == [HOT, HOT, OTHER]


@pytest.mark.parametrize("root", ["", "/airflow"])
def test_the_path_of_the_mount_is_the_apis_without_a_slash_too(
    place: Place, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    server = Server(place, monkeypatch, root)
    bare, slashed, page = server.ask("/budget", "/budget/", "/can-serve", key=place.staff_key)
    assert (bare.status_code, bare.headers["content-type"]) == (404, "application/problem+json")
    assert (bare.content, page.status_code) == (slashed.content, 200)
