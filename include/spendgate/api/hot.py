"""The reads that ad servers live on, as bytes: the same for Flask's routes and for the fast lane in front of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from spendgate.api.flag_store import FlagStore
from spendgate.api.identity import Identity, Scope
from spendgate.api.problems import ProblemError
from spendgate.api.snapshot import Part, Rendered, Snapshot, zip_parts
from spendgate.clock import Clock, parse_instant
from spendgate.errors import ConfigurationError

JSON, EVENTS = "application/json", "text/event-stream"
# A stream looks for changes so often, and says that it lives when there were none for so long.
STREAM_LOOK_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
# Less isn't worth the time.
LEAST_ZIPPED = 1_024
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; its body is these parts, which others may be sending too."""

    status: int
    parts: tuple[Part, ...]
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": JSON})

    @property
    def length(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class HotReads:
    """Answers about flags."""

    store: FlagStore
    clock: Clock

    def can_serve(self, snapshot: Snapshot, identity: Identity, advertiser_id: int) -> Answer:
        """One advertiser's flag; of an unknown one: no."""
        identity.require(Scope.FLAGS)
        identity.require_sight(advertiser_id)
        return Answer(200, (snapshot.flag(advertiser_id, self.clock()),))

    def bulk_at_hand(self, identity: Identity, if_none_match: str | None, accepts: str | None) -> Answer | None:
        """The whole list if it was looked at and made into bytes already; None: `bulk` may have to wait for it."""
        snapshot = self.store.at_hand()
        made = None if snapshot is None or not identity.is_staff else snapshot.rendered_at_hand(self.clock())
        if made is None:
            return None
        identity.require(Scope.FLAGS)
        if made.zipped_at_hand is None and not _is_known(made, if_none_match) and _takes_gzip(accepts):
            return None  # a second's work
        return _whole(made, if_none_match, accepts)

    def bulk(
        self,
        identity: Identity,
        changed_since: str | None,
        names: tuple[str, ...],
        if_none_match: str | None,
        accepts: str | None,
    ) -> Answer:
        """All flags that the caller may see, or those that changed since, of all fields or these; 304: it has them."""
        identity.require(Scope.FLAGS)
        if changed_since is not None:
            told = self.listed(*self._changed(changed_since), identity, names)
            return _part(told, accepts) if isinstance(told, bytes) else _zipped_or_not(told, accepts)
        told = self.listed(self.store.current(), None, identity, names)
        return _part(told, accepts) if isinstance(told, bytes) else _whole(told, if_none_match, accepts)

    def listed(
        self, snapshot: Snapshot, found: set[int] | None, identity: Identity, names: tuple[str, ...] = ()
    ) -> Rendered | bytes:
        """The flags of those who were found, None: of all, that the caller may see; the whole list is ready-made."""
        now = self.clock()
        if not identity.is_staff:
            mine = {identity.only} if found is None else found & {identity.only}
            return snapshot.some(mine, now, complete=found is None, names=names)
        if found is None or snapshot.is_most(found):
            return snapshot.rendered(now, names)
        return snapshot.some(found, now, complete=False, names=names)

    def _changed(self, since: str) -> tuple[Snapshot, set[int] | None]:
        parsed = parse_since(since)
        return self.store.changed_since(parsed) if isinstance(parsed, int) else self.store.changed_from(parsed)

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

    def next_events(self) -> Sequence[Part]:
        """What there is to send now, in parts, may be nothing; blocks for a look at the warehouse.

        Raises:
            SpendGateError: the warehouse can't be read.
        """
        store = self.reads.store
        snapshot = store.current()
        stale = snapshot.has_stale(self.reads.clock())
        if self.known is None or (self._stale is not None and stale != self._stale):
            return self._say(snapshot, None, stale)
        if self.known == snapshot.version and self._stale is not None:
            return self._live()
        snapshot, found = store.changed_since(self.known)
        if found is None or (self.identity.is_staff and found) or self.identity.only in found:
            return self._say(snapshot, found, stale)
        self.known, self._stale = snapshot.version, stale
        return self._live()

    def _say(self, snapshot: Snapshot, found: set[int] | None, stale: bool) -> Sequence[Part]:
        self.known, self._stale, self._said = snapshot.version, stale, time.monotonic()
        told = self.reads.listed(snapshot, found, self.identity)
        parts, event = ((told,), "changes") if isinstance(told, bytes) else (told.parts, "flags")
        head = f"id: {snapshot.version}\nevent: {'flags' if found is None else event}\ndata: "
        return (head.encode(), *parts, b"\n\n")

    def _live(self) -> Sequence[Part]:
        if time.monotonic() - self._said < HEARTBEAT_SECONDS:
            return ()
        self._said = time.monotonic()
        return (b": nothing changed\n\n",)


def _is_known(made: Rendered, if_none_match: str | None) -> bool:
    return if_none_match is not None and has_etag(if_none_match, made.etag)


def _takes_gzip(accepts: str | None) -> bool:
    return accepts is not None and accepts_gzip(accepts)


def _whole(made: Rendered, if_none_match: str | None, accepts: str | None) -> Answer:
    if _is_known(made, if_none_match):
        return Answer(304, (), {"ETag": made.etag, "Vary": "Accept-Encoding"})
    return _zipped_or_not(made, accepts, {"ETag": made.etag})


def _zipped_or_not(made: Rendered, accepts: str | None, more: Mapping[str, str] = _NOTHING) -> Answer:
    headers = {**more, "Vary": "Accept-Encoding", "Content-Type": JSON}
    if _takes_gzip(accepts):
        return Answer(200, made.zipped(), {**headers, "Content-Encoding": "gzip"})
    return Answer(200, made.parts, headers)


def _part(body: bytes, accepts: str | None) -> Answer:
    headers = {"Content-Type": JSON, "Vary": "Accept-Encoding"}
    if len(body) < LEAST_ZIPPED or not _takes_gzip(accepts):
        return Answer(200, (body,), headers)
    return Answer(200, zip_parts([body]), {**headers, "Content-Encoding": "gzip"})


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
