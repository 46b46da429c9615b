"""Whether ads may be served: one advertiser, all of them, and as a stream."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Response, request, stream_with_context

from spendgate.api.context import caller, here
from spendgate.api.hot import EVENTS, JSON, STREAM_LOOK_SECONDS, Answer, FlagStream
from spendgate.api.identity import Scope
from spendgate.api.problems import ProblemError
from spendgate.api.routes import ADVERTISER, GUARDED_ERRORS, Routes, publish, reads, selected, with_errors
from spendgate.api.schemas import Asked, FlagOut, FlagsAsked, FlagsOut, Selection, StreamAsked
from spendgate.errors import SpendGateError

log = logging.getLogger(__name__)

routes = Routes("flags", __name__, url_prefix="/v1", description="Whether ads may be served. Only true means yes.")

# Each holds a thread of the server here; the ASGI lane in front has no such limit.
_THREADS_FOR_STREAMS = threading.BoundedSemaphore(4)


def _respond(made: Answer) -> Response:
    answer = Response((bytes(part) for part in made.parts), made.status, headers=dict(made.headers))
    if made.parts:
        answer.content_length = made.length  # the parts are others' too, and aren't put together for it
    return answer


@reads(routes, f"/advertisers/{ADVERTISER}/can-serve", FlagOut, Scope.FLAGS, Selection)
def can_serve(asked: Mapping[str, Any], advertiser_id: int) -> Response:
    """Whether an advertiser's ads may be served now.

    An advertiser without a flag answers false with reason `unknown`; a flag that was not decided for longer than
    SPENDGATE_FLAG_MAX_AGE answers false with reason `stale`. An answer is at most a second older than the table.
    """
    made = here().hot.can_serve(here().store.current(), caller(), advertiser_id)
    names = selected(FlagOut, asked)
    if names is not None:
        told = json.loads(b"".join(made.parts))
        return Response(json.dumps({name: told[name] for name in names}), mimetype=JSON)
    return _respond(made)


def _bulk(asked: Mapping[str, Any]) -> Response:
    """All flags that the caller may see, by advertiser.

    Send `version` back as `changed_since` to get only what changed; when that is too far back, or nearly everything
    changed, the answer is complete again. With If-None-Match an unchanged list is 304.
    """
    told, names = request.headers, tuple(selected(FlagOut, asked) or ())
    known, accepts = told.get("If-None-Match"), told.get("Accept-Encoding")
    return _respond(here().hot.bulk(caller(), asked.get("changed_since"), names, known, accepts))


_etag = {"ETag": {"description": "Of the whole list.", "schema": {"type": "string"}}}
_documented = routes.response(200, FlagsOut, headers=_etag)(_bulk)
_documented = routes.alt_response(304, description="Nothing changed.", success=True)(_documented)
_documented = routes.arguments(FlagsAsked, location="query")(with_errors(routes, _documented, GUARDED_ERRORS))
publish(routes, "/can-serve", _documented, Scope.FLAGS)


def _stream(_query: Mapping[str, Any], asked: Mapping[str, Any]) -> Response:
    """Flags as server-sent events: first `flags` with all of them, then `changes` as they are decided.

    An event's id is its `version`; send the last one as Last-Event-ID to go on from there. A comment comes every 15 s
    when nothing changes. The stream ends when its token does.
    """
    stream = here().hot.open_stream(caller(), asked.get("last_event_id"))
    if not _THREADS_FOR_STREAMS.acquire(blocking=False):
        raise ProblemError(
            503, "too_many_streams", "As many streams as this server holds are open.", {"Retry-After": "5"}
        )
    answer = Response(stream_with_context(_events(stream)), mimetype=EVENTS)
    # Not by the events themselves: of an answer to HEAD none is ever asked for.
    answer.call_on_close(_THREADS_FOR_STREAMS.release)
    return answer


def _events(stream: FlagStream) -> Iterator[bytes]:
    guard, told = here().guard, request.headers
    try:
        while True:
            yield from map(bytes, stream.next_events() or (b"",))
            time.sleep(STREAM_LOOK_SECONDS)
            guard.check_again(told.get("Authorization"), told.get("X-API-Key"))
    except (ProblemError, SpendGateError) as error:
        log.info("A stream ends: %s", error)


_documented = routes.response(200, {"type": "string"}, content_type=EVENTS)(_stream)
_documented = routes.arguments(StreamAsked, location="headers")(with_errors(routes, _documented, GUARDED_ERRORS))
_documented = routes.arguments(Asked, location="query")(_documented)
publish(routes, "/can-serve/stream", _documented, Scope.FLAGS)
