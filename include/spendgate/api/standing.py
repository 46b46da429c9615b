"""Whether callers still stand, asked of the warehouse for all who wait at a time.

Each answer is of a look that began after its question: whoever was disabled or revoked before a request came is refused
by it, whichever process did that. A look costs as much for thirty requests as for one, and while one is under way those
that come wait for the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor

from spendgate.api.guard import Credential, Found
from spendgate.api.identity import Identity

Look = Callable[[Collection[Credential]], Mapping[Credential, Found]]


class Standing:
    """Looks of one event loop; only to be used on it."""

    def __init__(self, look: Look, threads: Executor) -> None:
        self._look = look
        self._threads = threads
        self._waiting: list[tuple[Credential, asyncio.Future[Identity]]] = []
        self._is_looking = False

    async def find(self, credential: Credential) -> Identity:
        """Who it is.

        Raises:
            ProblemError: 401, it stands no more.
            SpendGateError: the warehouse can't be asked.
        """
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Identity] = loop.create_future()
        self._waiting.append((credential, mine))
        if not self._is_looking:
            self._is_looking = True
            loop.call_soon(self._begin)  # after those whose requests came in this very turn of the loop
        return await mine

    def _begin(self) -> None:
        asked, self._waiting = self._waiting, []
        wanted = {credential for credential, _ in asked}
        looking = asyncio.get_running_loop().run_in_executor(self._threads, self._look, wanted)
        looking.add_done_callback(lambda done: self._end(asked, done))

    def _end(
        self,
        asked: list[tuple[Credential, asyncio.Future[Identity]]],
        done: asyncio.Future[Mapping[Credential, Found]],
    ) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        for credential, waiting in asked:
            if waiting.done():
                continue  # whoever asked has gone
            found = error or done.result()[credential]
            if isinstance(found, BaseException):
                waiting.set_exception(found)
            else:
                waiting.set_result(found)
        self._is_looking = bool(self._waiting)
        if self._is_looking:
            self._begin()
