"""From ASGI to Flask: one request is one call in one thread, and its answer comes back whole.

a2wsgi's own middleware hands each piece of an answer from its thread to the event loop and waits until it was sent, at
least three times a request. Nothing that Flask answers here is long: lists come in pages, streams are the fast lane's.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from a2wsgi.wsgi import build_environ
from flask import Flask

from spendgate.api.problems import ProblemError
from spendgate.errors import TransientError

# The time that a client has to send the body, which is small.
BODY_SECONDS = 10.0
# The time that an answer may take: the limit of a statement (context.STATEMENT_SECONDS) and some more.
ANSWER_SECONDS = 12.0

Thing = TypeVar("Thing")


async def in_time(answer: Awaitable[Thing]) -> Thing:
    """What is awaited, unless it takes longer than any statement may: then the thread that makes it is left behind.

    Raises:
        TransientError: it isn't there; a frozen server doesn't stop its own statements.
    """
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await answer
    except TimeoutError as error:
        raise TransientError(f"The warehouse didn't answer within {ANSWER_SECONDS:g} s; ask again.") from error


class Bridge:
    """A Flask app for an event loop."""

    def __init__(self, app: Flask, threads: int, most_body_bytes: int, name: str = "spendgate-flask") -> None:
        self._app = app
        self._most = most_body_bytes
        self._threads = ThreadPoolExecutor(threads, name)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request.

        Raises:
            ProblemError: 408, its body didn't come.
            TransientError: Flask waits for a warehouse that says nothing.
        """
        environ = build_environ(scope, io.BytesIO(await self._read_body(receive)))  # type: ignore[arg-type]  # any file
        called = asyncio.get_running_loop().run_in_executor(self._threads, self._call, environ)
        status, headers, body = await in_time(called)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _read_body(self, receive: Any) -> bytes:
        """The body, or so much of it that Flask sees it is too long."""
        body = b""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while len(body) <= self._most:
                    message = await receive()
                    body += message.get("body", b"")
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            detail = f"The body didn't come within {BODY_SECONDS:g} s: send it again."
            raise ProblemError(408, "request_timeout", detail, {"Connection": "close"}) from error
        return body

    def _call(self, environ: Any) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        told: list[tuple[str, list[tuple[str, str]]]] = []
        parts: list[bytes] = []

        def start(status: str, headers: list[tuple[str, str]], _exc_info: object = None) -> Callable[[bytes], None]:
            told.append((status, headers))
            return parts.append

        answer: Iterable[bytes] = self._app(environ, start)
        try:
            parts.extend(answer)
        finally:
            getattr(answer, "close", lambda: None)()
        status, headers = told[-1]
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        return int(status.split(" ", 1)[0]), raw, b"".join(parts)
