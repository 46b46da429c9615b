"""The app under ASGI: a fast lane for the reads that ad servers live on, Flask behind a bridge for everything else.

The lane asks the same guard and answers by the same code as Flask's routes (spendgate.api.guard, .hot); what it doesn't
know to the letter it leaves to Flask. Nothing is built or connected to before the first request, so that who imports
this can't be broken by a setting or a warehouse.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from flask import Flask

from spendgate.api.access_log import log_access
from spendgate.api.app import MAX_BODY_BYTES, SECURITY_HEADERS, create_app
from spendgate.api.bridge import Bridge, in_time
from spendgate.api.context import Context, find_context
from spendgate.api.flag_store import LOOK_AGAIN_SECONDS
from spendgate.api.flags import Flag
from spendgate.api.guard import Credential
from spendgate.api.hot import EVENTS, STREAM_LOOK_SECONDS, Answer
from spendgate.api.identity import Identity
from spendgate.api.mount import MOUNTED_AT
from spendgate.api.problems import MEDIA_TYPE, ProblemError, to_problem, unavailable
from spendgate.api.snapshot import Part, Snapshot
from spendgate.api.standing import Standing
from spendgate.errors import SpendGateError

log = logging.getLogger(__name__)

Thing = TypeVar("Thing")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# How long a failure to build is remembered.
REBUILD_SECONDS = 5.0
FLASK_THREADS, LANE_THREADS = 6, 4
# A monitor doesn't wait behind requests that wait for the warehouse.
HEALTH_THREADS = 4
# Whether callers stand, and whether flags changed: nobody waits for these behind other work.
LOOK_THREADS = 2
MOST_STREAMS = 500
# In which a client has to take an answer, or an event: 20 MB by 3 Mbit/s.
TAKEN_SECONDS = 60.0
# Bytes of an answer that are handed to a connection at once; it keeps what the client doesn't take.
MOST_AT_ONCE = 512 * 1024
_ONE = re.compile(r"/v1/advertisers/([1-9][0-9]{0,9})/can-serve\Z")
_RULE = "/v1/advertisers/<advertiser_id>/can-serve"
_GREATEST_ID = 2**31 - 1
_FIELDS = frozenset(Flag.__struct_fields__)
# Of a list of flags: changed_since, fields.
_Asked = tuple[str | None, tuple[str, ...]]
_ALL: _Asked = (None, ())


@dataclass(slots=True)
class BudgetApi:
    """The ASGI app; `make_app` makes Flask's at the first request, and again when that failed."""

    make_app: Callable[[], Flask] = create_app
    _lane: Lane | None = None
    _failed: tuple[float, ProblemError] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; of anything else than HTTP only the start and end of a server are answered."""
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        lane = self._lane
        if lane is None:
            try:
                lane = await asyncio.to_thread(self._build)
            except ProblemError as problem:
                await _send(send, _as_answer(problem, scope["path"]))
                return
        await lane(scope, receive, send)

    def _build(self) -> Lane:
        with self._lock:
            if self._lane is None:
                if self._failed is not None and time.monotonic() - self._failed[0] < REBUILD_SECONDS:
                    raise self._failed[1]
                try:
                    self._lane = Lane(self.make_app())
                except SpendGateError as error:
                    self._failed = (time.monotonic(), unavailable(error))
                    raise self._failed[1] from error
            return self._lane


class Lane:
    """The fast lane in front of one Flask app."""

    def __init__(self, app: Flask) -> None:
        self._context: Context = find_context(app)
        self._flask = Bridge(app, FLASK_THREADS, MAX_BODY_BYTES)
        self._health = Bridge(app, HEALTH_THREADS, MAX_BODY_BYTES, "spendgate-health")
        # Not asyncio's own threads: others in Airflow's server wait for those.
        self._threads = ThreadPoolExecutor(LANE_THREADS, "spendgate-lane")
        self._look_threads = ThreadPoolExecutor(LOOK_THREADS, "spendgate-look")
        self._standing = Standing(self._context.guard.look, self._look_threads)
        self._looking: asyncio.Future[Snapshot] | None = None
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        path = scope["path"].removeprefix(root) if root else scope["path"]
        if scope["method"] == "GET":
            query = scope.get("query_string", b"")
            one = _ONE.match(path)
            if one is not None and not query and int(one[1]) <= _GREATEST_ID:
                return await self._answer(scope, send, _RULE, self._one(int(one[1]), scope))
            if path == "/v1/can-serve" and (asked := _asked(query)) is not None:
                return await self._answer(scope, send, path, self._bulk(asked, scope))
            if path == "/v1/can-serve/stream" and not query:
                return await self._stream(scope, receive, send)
        try:
            await (self._health if path.startswith("/v1/health/") else self._flask)(scope, receive, send)
        except (ProblemError, SpendGateError) as error:
            await _send(send, _as_answer(to_problem(error), scope["path"]), self._cors(scope))
        return None

    async def _answer(self, scope: Scope, send: Send, rule: str, answer: Awaitable[tuple[Identity, Answer]]) -> None:
        began, who = time.perf_counter(), "-"
        try:
            identity, made = await answer
            who = identity.label
        except Exception as error:  # whatever it is, the caller gets a problem, and the log the rest
            made = _as_answer(to_problem(error), scope["path"])
        await _send(send, made, self._cors(scope))
        log_access("GET", rule, made.status, began, who, (scope.get("client") or ("-",))[0])

    async def _one(self, advertiser_id: int, scope: Scope) -> tuple[Identity, Answer]:
        identity = await self._identity(_headers(scope))
        return identity, self._context.hot.can_serve(await self._snapshot(), identity, advertiser_id)

    async def _bulk(self, asked: _Asked, scope: Scope) -> tuple[Identity, Answer]:
        headers = _headers(scope)
        identity = await self._identity(headers)
        await self._snapshot()
        known, accepts = headers.get(b"if-none-match"), headers.get(b"accept-encoding")
        if asked == _ALL and (made := self._context.hot.bulk_at_hand(identity, known, accepts)) is not None:
            return identity, made
        return identity, await self._in_thread(self._context.hot.bulk, identity, *asked, known, accepts)

    async def _identity(self, headers: _Headers) -> Identity:
        self._standing.require_heard()
        identity = await self._standing.find(await self._credential(headers))
        self._context.guard.limits.count_request(identity)
        return identity

    async def _credential(self, headers: _Headers) -> Credential:
        token, key = headers.get(b"authorization"), headers.get(b"x-api-key")
        if (known := self._context.guard.recall(token, key)) is not None:
            return known
        return await self._in_thread(self._context.guard.remember, token, key)

    async def _snapshot(self) -> Snapshot:
        """A snapshot young enough; looks again beside the requests before it is too old, once at a time."""
        store = self._context.store
        known = store.at_hand()
        if store.at_hand(LOOK_AGAIN_SECONDS) is None and self._looking is None:
            looking = asyncio.get_running_loop().run_in_executor(self._look_threads, store.current, LOOK_AGAIN_SECONDS)
            self._looking = looking
            looking.add_done_callback(self._looked)
        if known is not None:
            return known
        if self._looking is not None:
            return await in_time(asyncio.shield(self._looking))
        return await self._in_thread(store.current)

    def _looked(self, done: asyncio.Future[Snapshot]) -> None:
        self._looking = None
        if not done.cancelled() and done.exception() is not None:
            log.warning("Flags couldn't be looked at: %s", done.exception())

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, began = _headers(scope), time.perf_counter()
        gone = asyncio.ensure_future(_gone(receive))
        self._streams += 1
        started, who, status = False, "-", 200
        try:
            if self._streams > MOST_STREAMS:
                raise ProblemError(503, "too_many_streams", "As many streams as this server holds are open.")
            identity = await self._identity(headers)
            who = identity.label
            stream = self._context.hot.open_stream(identity, headers.get(b"last-event-id"))
            events = await self._in_thread(stream.next_events)
            start = {"Content-Type": EVENTS, "X-Accel-Buffering": "no", **self._cors(scope)}
            await send({"type": "http.response.start", "status": 200, "headers": _raw(start)})
            started = True
            while not gone.done():
                if events and not await _send_parts(send, events):
                    return
                await asyncio.wait([gone], timeout=STREAM_LOOK_SECONDS)
                await self._standing.find(await self._credential(headers))
                await self._snapshot()
                events = await self._in_thread(stream.next_events)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Exception as error:  # as in _answer; in the middle of a stream all we can do is end it
            problem = to_problem(error)
            status = problem.status
            if started:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await _send(send, _as_answer(problem, scope["path"]), self._cors(scope))
        finally:
            self._streams -= 1
            gone.cancel()
            log_access("GET", "/v1/can-serve/stream", status, began, who, (scope.get("client") or ("-",))[0])

    def _cors(self, scope: Scope) -> dict[str, str]:
        allowed = self._context.settings.api_cors_origins
        origin = _headers(scope).get(b"origin") if allowed else None
        if origin not in allowed:
            return {}
        told = {"Access-Control-Allow-Origin": origin or "", "Access-Control-Expose-Headers": "ETag, Retry-After"}
        return {**told, "Cross-Origin-Resource-Policy": "cross-origin", "Vary": "Origin, Accept-Encoding"}

    async def _in_thread(self, call: Callable[..., Thing], *given: object) -> Thing:
        return await in_time(asyncio.get_running_loop().run_in_executor(self._threads, call, *given))


class _Headers:
    """Request headers by lower-case name; one that comes twice counts once, joined, as WSGI has it."""

    __slots__ = ("_pairs",)

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._pairs = pairs

    def get(self, name: bytes) -> str | None:
        """The value; None: it wasn't sent."""
        found = [value for given, value in self._pairs if given == name]
        return b",".join(found).decode("latin-1") if found else None


def _headers(scope: Scope) -> _Headers:
    return _Headers(scope["headers"])


def _asked(query: bytes) -> _Asked | None:
    """`changed_since` and `fields` of a list of flags; None: there is more, or something is wrong: Flask says what."""
    if not query:
        return _ALL
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    told = dict(pairs)
    if len(told) < len(pairs) or told.keys() - {"changed_since", "fields"}:
        return None
    since, fields = told.get("changed_since"), told.get("fields")
    names = () if fields is None else tuple(dict.fromkeys(fields.split(",")))
    fits = (since is None or 0 < len(since) <= 40) and _FIELDS.issuperset(names)
    return (since, names) if fits else None


def _as_answer(problem: ProblemError, path: str) -> Answer:
    return Answer(problem.status, (problem.body(path),), {"Content-Type": MEDIA_TYPE, **problem.headers})


_SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    told = {name.lower().encode(): value.encode("latin-1") for name, value in headers.items()}
    return [*told.items(), *(header for header in _SECURITY if header[0] not in told)]


async def _send(send: Send, made: Answer, more: dict[str, str] | None = None) -> None:
    headers = {**made.headers, **(more or {})}
    if made.status != 304:
        headers["Content-Length"] = str(made.length)
    await send({"type": "http.response.start", "status": made.status, "headers": _raw(headers)})
    if made.length <= MOST_AT_ONCE:
        await send({"type": "http.response.body", "body": b"".join(made.parts)})
    else:
        await _send_parts(send, made.parts, is_all=True)


async def _send_parts(send: Send, parts: Iterable[Part], *, is_all: bool = False) -> bool:
    """Send parts of a body, each when the one before is on its way; False: the client doesn't take them.

    Then there is nothing to do but to leave the rest out, and the server ends the connection once the client, or the
    kernel, lets go of what was sent. Until then the client holds a list of flags that may have been replaced many times
    since.
    """
    try:
        async with asyncio.timeout(TAKEN_SECONDS):
            for part in _slices(parts):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            if is_all:
                await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        log.info("A client didn't take its answer within %g s, and was let go.", TAKEN_SECONDS)
        return False
    return True


def _slices(parts: Iterable[Part]) -> Iterator[Part]:
    """The same bytes in parts that are no longer than what may wait in a connection's buffer."""
    for part in parts:
        if len(part) <= MOST_AT_ONCE:
            yield part
        else:
            whole = memoryview(part)
            yield from (whole[at : at + MOST_AT_ONCE] for at in range(0, len(whole), MOST_AT_ONCE))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


@dataclass(slots=True)
class Mounted:
    """The same app standing alone, under the path that it has in Airflow."""

    inner: BudgetApi = field(default_factory=BudgetApi)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As `BudgetApi`; a path outside of the mount is answered by it too, which finds nothing there."""
        if scope["type"] == "http":
            inside = scope["path"].startswith(MOUNTED_AT + "/")
            # A root that can't be: the whole path is looked for, and isn't there.
            scope = {**scope, "root_path": MOUNTED_AT if inside else ""}
            if not inside:
                scope["path"] = "/outside" + scope["path"]
        await self.inner(scope, receive, send)


# What a server with several workers imports: `uvicorn spendgate.api.asgi:application`.
application = Mounted()
