"""What the plugin of Airflow mounts: loads the API, Flask and all, only when the first request comes.

Airflow's server wraps all that it serves, mounts too, in middlewares of its own, which take five times as long as an
answer about a flag. The first request therefore puts a short way in front of them, for the reads about flags alone, and
only if each of these middlewares is known to do nothing for them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spendgate.api.asgi import BudgetApi

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOUNTED_AT = "/budget"

# Ends of the paths that the short way is for.
HOT = ("/can-serve", "/can-serve/stream")
# What isn't needed there. An access log: ours has the request. Compression: our lists come compressed, a flag is short.
# Renewal of the cookie by which Airflow's UI is logged in: the API takes no cookies. Ours is for another path.
NEEDLESS = frozenset(
    {
        "airflow.api_fastapi.common.http_access_log.HttpAccessLogMiddleware",
        "starlette.middleware.gzip.GZipMiddleware",
        "airflow.api_fastapi.auth.middlewares.refresh_token.JWTRefreshMiddleware",
        "spendgate.api.mount.BarePath",
    }
)


class LazyApi:
    """An ASGI app that imports nothing but itself until it is called."""

    def __init__(self) -> None:
        self._api: BudgetApi | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        # Half a second of imports: not on the loop that serves Airflow's UI.
        api = self._api
        if api is None:
            api = await asyncio.to_thread(self._load)
            shorten(scope.get("app"), api)
        await api(scope, receive, send)

    def _load(self) -> BudgetApi:
        from spendgate.api.access_log import write_as_it_is
        from spendgate.api.asgi import BudgetApi

        write_as_it_is()
        with self._lock:
            if self._api is None:
                self._api = BudgetApi()
            return self._api


@dataclass(frozen=True, slots=True)
class BarePath:
    """A middleware: /budget alone is the API's too. A mount takes only what comes after a slash."""

    app: App
    api: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or a server's start and end."""
        if scope["type"] == "http" and scope["path"].endswith(MOUNTED_AT):
            root = scope.get("root_path", "") + MOUNTED_AT
            if scope["path"] == root:
                await self.api({**scope, "root_path": root, "path": root + "/"}, receive, send)
                return
        await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class ShortWay:
    """Stands before the middlewares of a server: reads about flags go to `api`, all else the usual way."""

    usual: App
    api: App

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or a server's start and end."""
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith(HOT):
            # As a mount does it: the path stays, the root grows.
            root = scope.get("root_path", "") + MOUNTED_AT
            if scope["path"].startswith(root + "/"):
                await self.api({**scope, "root_path": root}, receive, send)
                return
        await self.usual(scope, receive, send)


def shorten(server: Any, api: App) -> bool:
    """Put the short way before the middlewares of the Starlette app `server`; False: one of them may be needed."""
    usual = getattr(server, "middleware_stack", None)
    if usual is None or isinstance(usual, ShortWay):
        return False
    around = {f"{one.cls.__module__}.{one.cls.__qualname__}" for one in server.user_middleware}
    if needed := sorted(around - NEEDLESS):
        log.info("Reads about flags pass through all middlewares, which is slower, because of %s.", ", ".join(needed))
        return False
    server.middleware_stack = ShortWay(usual, api)
    return True
