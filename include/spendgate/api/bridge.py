"""From ASGI to Flask: one request is one call in one thread, and its answer comes back whole.

a2wsgi's own middleware hands each piece of an answer from its thread to the event loop and waits until it was sent, at
least three times a request. Nothing that Flask answers here is long: lists come in pages, streams are the fast lane's.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from a2wsgi.wsgi import build_environ
from flask import Flask

from spendgate.api.problems import ProblemError

# The time that a client has to send the body, which is small.
BODY_SECONDS = 10.0


class Bridge:
    """A Flask app for an event loop."""

    def __init__(self, app: Flask, threads: int, most_body_bytes: int) -> None:
        self._app = app
        self._most = most_body_bytes
        self._threads = ThreadPoolExecutor(threads, "spendgate-flask")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request.

        Raises:
            ProblemError: 408, its body didn't come.
        """
        environ = build_environ(scope, io.BytesIO(await self._read_body(receive)))  # type: ignore[arg-type]  # any file
        loop = asyncio.get_running_loop()
        status, headers, body = await loop.run_in_executor(self._threads, self._call, environ)
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
