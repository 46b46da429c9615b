"""The reads that ad servers live on, as bytes: the same for Flask's routes and for the fast lane in front of it."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from spendgate.api.flags import GZIP_LEVEL, FlagList, FlagStore, Rendered, Snapshot
from spendgate.api.identity import Identity, Scope
from spendgate.api.problems import ProblemError
from spendgate.clock import Clock, parse_instant
from spendgate.errors import ConfigurationError

JSON, EVENTS = "application/json", "text/event-stream"
# A stream looks for changes so often, and says that it lives when there were none for so long.
STREAM_LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
# Less isn't worth the time.
LEAST_ZIPPED = 1_024


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})


@dataclass(frozen=True, slots=True)
class HotReads:
    """Answers about flags."""

    store: FlagStore
    clock: Clock

    def can_serve(self, snapshot: Snapshot, identity: Identity, advertiser_id: int) -> Answer:
        """One advertiser's flag; of an unknown one: no."""
        identity.require(Scope.FLAGS)
        identity.require_sight(advertiser_id)
        return Answer(200, msgspec.json.encode(snapshot.flag(advertiser_id, self.clock())))

    def bulk_at_hand(self, identity: Identity, if_none_match: str | None, accepts: str | None) -> Answer | None:
        """The whole list if it was looked at and made into bytes already; None: `bulk` may have to wait for it."""
        snapshot = self.store.at_hand()
        made = None if snapshot is None or not identity.is_staff else snapshot.rendered_at_hand(self.clock())
        if made is None:
            return None
        identity.require(Scope.FLAGS)
        return _whole(made, if_none_match, accepts)

    def bulk(
        self, identity: Identity, changed_since: str | None, if_none_match: str | None, accepts: str | None
    ) -> Answer:
        """All flags that the caller may see, or those that changed since; 304 when it has them already."""
        identity.require(Scope.FLAGS)
        if changed_since is not None:
            return _part(self._changed(identity, changed_since), accepts)
        snapshot = self.store.current()
        if not identity.is_staff:
            return _part(self._all(snapshot, identity), accepts)
        return _whole(snapshot.rendered(self.clock()), if_none_match, accepts)

    def _all(self, snapshot: Snapshot, identity: Identity) -> FlagList:
        seen = snapshot.rows if identity.is_staff else [identity.only]
        return snapshot.of(seen, self.clock(), complete=True)

    def _changed(self, identity: Identity, since: str) -> FlagList:
        parsed = parse_since(since)
        if isinstance(parsed, int):
            snapshot, found = self.store.changed_since(parsed)
            if found is None:
                return self._all(snapshot, identity)
        else:
            snapshot, found = self.store.changed_from(parsed)
        seen = found if identity.is_staff else found & {identity.only}
        return snapshot.of(seen, self.clock(), complete=False)

    def open_stream(self, identity: Identity, last_event_id: str | None) -> FlagStream:
        """A stream of flags, from a snapshot or from where the caller stood."""
        identity.require(Scope.FLAGS)
        known = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 19 else None
        return FlagStream(self, identity, known)


@dataclass(slots=True)
class FlagStream:
    """Server-sent events: `flags` with all flags, `changes` with those that changed; an event's id resumes after it."""

    reads: HotReads
    identity: Identity
    known: int | None
    _stale: bool | None = None
    _said: float = field(default_factory=time.monotonic)

    def next_events(self) -> bytes:
        """What there is to send now, may be nothing; blocks for a look at the warehouse.

        Raises:
            SpendGateError: the warehouse can't be read.
        """
        store, now = self.reads.store, self.reads.clock()
        snapshot = store.current()
        stale = snapshot.has_stale(now)
        if self.known is None or (self._stale is not None and stale != self._stale):
            return self._say("flags", self.reads._all(snapshot, self.identity), stale)
        if self.known == snapshot.version and self._stale is not None:
            return self._live()
        snapshot, found = store.changed_since(self.known)
        if found is None:
            return self._say("flags", self.reads._all(snapshot, self.identity), stale)
        seen = found if self.identity.is_staff else found & {self.identity.only}
        if not seen:
            self.known, self._stale = snapshot.version, stale
            return self._live()
        return self._say("changes", snapshot.of(seen, now, complete=False), stale)

    def _say(self, event: str, flags: FlagList, stale: bool) -> bytes:
        self.known, self._stale, self._said = flags.version, stale, time.monotonic()
        return b"id: %d\nevent: %s\ndata: %s\n\n" % (flags.version, event.encode(), msgspec.json.encode(flags))

    def _live(self) -> bytes:
        if time.monotonic() - self._said < HEARTBEAT_SECONDS:
            return b""
        self._said = time.monotonic()
        return b": nothing changed\n\n"


def _whole(made: Rendered, if_none_match: str | None, accepts: str | None) -> Answer:
    headers = {"ETag": made.etag, "Vary": "Accept-Encoding"}
    if if_none_match is not None and has_etag(if_none_match, made.etag):
        return Answer(304, b"", headers)
    headers["Content-Type"] = JSON
    if accepts is not None and accepts_gzip(accepts):
        return Answer(200, made.zipped, {**headers, "Content-Encoding": "gzip"})
    return Answer(200, made.body, headers)


def _part(flags: FlagList, accepts: str | None) -> Answer:
    body = msgspec.json.encode(flags)
    headers = {"Content-Type": JSON, "Vary": "Accept-Encoding"}
    if len(body) < LEAST_ZIPPED or accepts is None or not accepts_gzip(accepts):
        return Answer(200, body, headers)
    return Answer(200, gzip.compress(body, GZIP_LEVEL, mtime=0), {**headers, "Content-Encoding": "gzip"})


def parse_since(text: str) -> int | datetime:
    """`changed_since` as a change or an instant.

    Raises:
        ProblemError: 422, it is neither.
    """
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    try:
        return parse_instant(text)
    except ConfigurationError as error:
        errors = {"query": {"changed_since": ["Neither a version of an earlier answer nor a time with an offset."]}}
        detail = "The request is not as the API's description says: see errors."
        raise ProblemError(422, "invalid_request", detail, errors=errors) from error


def has_etag(header: str, etag: str) -> bool:
    """Whether If-None-Match names this ETag."""
    if header == etag:
        return True
    told = [part.strip().removeprefix("W/") for part in header.split(",")]
    return etag in told or "*" in told


def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding takes gzip."""
    for part in header.lower().split(","):
        name, _, weight = part.partition(";")
        if name.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
