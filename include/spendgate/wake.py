"""When to wake the intake: as soon as a stream holds something that isn't read, and not again before it was.

A wake-up is no more than that. What is read is decided by the stored positions, so a wake-up that is lost costs
a moment, and one too many a run that finds nothing.

Each stream is looked at by itself (`Lookout.look`): what lies past its stored positions, and how far it reaches.
`WakeUps.due` then decides over all of them. News are outstanding from the wake-up that announced them until their
partition's stored position moves. Nothing is announced while fresh news are outstanding: a run that is under way,
or about to begin, will most likely read what came meanwhile, and a burst becomes one run and perhaps a second one.
News that stay outstanding (a stream that can't be read, a run that was lost) don't hold up others for long: after
`patience` they no longer count as fresh, and they are announced again after `repeat`, which doubles each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from spendgate.ingest import Intake
from spendgate.streams.base import StoredPosition, Stream

PATIENCE_SECONDS = 15.0
REPEAT_SECONDS = 60.0
MOST_REPEAT_SECONDS = 900.0

# (stream, partition)
Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class News:
    """A partition holds something beyond `position`, its stored one, and reaches as far as `reach`."""

    position: str | None
    reach: str


@dataclass(slots=True)
class _StoredWhenAsked(Mapping[str, StoredPosition]):
    """The stored positions of a stream, loaded when the first is asked for.

    A folder without anything new asks for none, and of 100,000 files they are most of what a look costs.
    """

    intake: Intake
    stream: str
    _loaded: Mapping[str, StoredPosition] | None = None

    def __getitem__(self, partition: str) -> StoredPosition:
        return self._stored()[partition]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored())

    def __len__(self) -> int:
        return len(self._stored())

    def _stored(self) -> Mapping[str, StoredPosition]:
        if self._loaded is None:
            self._loaded = self.intake.stored_positions(self.stream)
        return self._loaded


@dataclass(frozen=True, slots=True)
class Lookout:
    """Looks at one stream again and again, every `seconds`."""

    stream: Stream
    intake: Intake
    seconds: float
    _mutex: threading.Lock = field(default_factory=threading.Lock)

    def look(self) -> dict[Place, News]:
        """What the stream holds that isn't read.

        Raises:
            SpendGateError: as the stream and the warehouse say.
        """
        name = self.stream.name
        with self._mutex:
            stored = _StoredWhenAsked(self.intake, name)
            news = self.stream.news(stored)
        return {
            (name, partition): News(stored[partition].position if partition in stored else None, reach)
            for partition, reach in news.items()
        }

    def close(self) -> None:
        """Give up the stream's connection, after a look that is under way."""
        with self._mutex:
            self.stream.close()


@dataclass(slots=True)
class _Announced:
    news: News
    at: float
    repeat: float


@dataclass(slots=True)
class WakeUps:
    """Decides when a wake-up is due; `now` tells seconds, of any beginning."""

    now: Callable[[], float]
    patience: float = PATIENCE_SECONDS
    repeat: float = REPEAT_SECONDS
    _found: dict[str, Mapping[Place, News]] = field(default_factory=dict)
    _announced: dict[Place, _Announced] = field(default_factory=dict)

    def saw(self, stream: str, news: Mapping[Place, News]) -> None:
        """Take in what the latest look at a stream found, in place of the one before."""
        self._found[stream] = news

    def due(self) -> dict[Place, str]:
        """The news to announce now, and how far each reaches; empty: no wake-up is due.

        What it returns counts as announced.
        """
        now = self.now()
        current = {place: one for news in self._found.values() for place, one in news.items()}
        self._forget_read(current)
        if any(one.repeat == self.repeat and now - one.at < self.patience for one in self._announced.values()):
            return {}
        fresh = {place: news for place, news in current.items() if self._is_due(place, now)}
        for place, news in fresh.items():
            before = self._announced.get(place)
            repeat = min(before.repeat * 2, MOST_REPEAT_SECONDS) if before else self.repeat
            self._announced[place] = _Announced(news, now, repeat)
        return {place: news.reach for place, news in fresh.items()}

    def _forget_read(self, current: Mapping[Place, News]) -> None:
        for place, one in list(self._announced.items()):
            found = current.get(place)
            if found is None or found.position != one.news.position:
                del self._announced[place]

    def _is_due(self, place: Place, now: float) -> bool:
        announced = self._announced.get(place)
        return announced is None or now - announced.at >= announced.repeat
