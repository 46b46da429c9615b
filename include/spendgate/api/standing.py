"""Whether callers still stand, asked of the warehouse for all who wait at a time.

Each answer is of a look that began after its question: whoever was disabled or revoked before a request came is refused
by it, whichever process did that. A look costs as much for thirty requests as for one, and while one is under way those
that come wait for the next.

A warehouse that says nothing, not even no, is waited for so long and no longer: a driver can't be told to give up, so
its thread stays where it is, and until it comes back every question is answered by an error, at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor

from spendgate.api.guard import Credential, Found
from spendgate.api.identity import Identity
from spendgate.errors import TransientError

# A look takes a millisecond.
PATIENCE_SECONDS = 2.0

Look = Callable[[Collection[Credential]], Mapping[Credential, Found]]
_Waiting = list[tuple[Credential, asyncio.Future[Identity]]]


class Standing:
    """Looks of one event loop; only to be used on it."""

    def __init__(self, look: Look, threads: Executor) -> None:
        self._look = look
        self._threads = threads
        self._waiting: _Waiting = []
        self._is_looking = False
        self._is_silent = False

    async def find(self, credential: Credential) -> Identity:
        """Who it is.

        Raises:
            ProblemError: 401, it stands no more.
            SpendGateError: the warehouse can't be asked, or doesn't answer.
        """
        self.require_heard()
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[Identity] = loop.create_future()
        self._waiting.append((credential, mine))
        if not self._is_looking:
            self._is_looking = True
            loop.call_soon(self._begin)  # after those whose requests came in this very turn of the loop
        return await mine

    def require_heard(self) -> None:
        """Nothing, unless a look is waited for longer than it may take.

        Raises:
            SpendGateError: the warehouse doesn't answer.
        """
        if self._is_silent:
            raise _silent()

    def _begin(self) -> None:
        asked, self._waiting = self._waiting, []
        wanted = {credential for credential, _ in asked}
        loop = asyncio.get_running_loop()
        looking = loop.run_in_executor(self._threads, self._look, wanted)
        patience = loop.call_later(PATIENCE_SECONDS, self._give_up, asked)
        looking.add_done_callback(lambda done: self._end(asked, patience, done))

    def _give_up(self, asked: _Waiting) -> None:
        self._is_silent = True
        given_up, self._waiting = [*asked, *self._waiting], []
        for _, waiting in given_up:
            if not waiting.done():
                waiting.set_exception(_silent())

    def _end(
        self, asked: _Waiting, patience: asyncio.TimerHandle, done: asyncio.Future[Mapping[Credential, Found]]
    ) -> None:
        patience.cancel()
        self._is_silent = False
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


def _silent() -> TransientError:
    return TransientError(f"The warehouse didn't say within {PATIENCE_SECONDS:g} s who calls; ask again.")
