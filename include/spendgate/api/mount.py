"""What the plugin of Airflow mounts: loads the API, Flask and all, only when the first request comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spendgate.api.asgi import BudgetApi

MOUNTED_AT = "/budget"


class LazyApi:
    """An ASGI app that imports nothing but itself until it is called."""

    def __init__(self) -> None:
        self._api: BudgetApi | None = None
        self._lock = threading.Lock()

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """One request."""
        # Half a second of imports: not on the loop that serves Airflow's UI.
        api = self._api
        if api is None:
            api = await asyncio.to_thread(self._load)
        await api(scope, receive, send)

    def _load(self) -> BudgetApi:
        from spendgate.api.asgi import BudgetApi

        with self._lock:
            if self._api is None:
                self._api = BudgetApi()
            return self._api
