"""Simulated days of a small ad market, seeded: what tests of the gate feed, good and bad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random

from tests.factories import HOUR, advertiser, budget, click

ADVERTISERS = 12
# Relative traffic at each hour, UTC.
RHYTHM = (30, 20, 14, 10, 9, 12, 22, 38, 48, 52, 55, 60, 68, 64, 58, 57, 62, 74, 88, 100, 104, 96, 74, 48)


class Market:
    """Advertisers of different sizes and prices; click ids never come twice."""

    def __init__(self, seed: int = 7) -> None:
        self.random = Random(seed)
        self.prices = [0.2 + 0.3 * number for number in range(ADVERTISERS)]
        self.sizes = [1 / (1 + number) for number in range(ADVERTISERS)]
        self._next = 0

    def announcements(self, time: datetime) -> list[bytes]:
        """Every advertiser, and its budget."""
        return [
            body
            for number in range(1, ADVERTISERS + 1)
            for body in (
                advertiser(time, advertiser_id=number, industry="games", country="NL"),
                budget(number, time, "500", advertiser_id=number, source="ui"),
            )
        ]

    def clicks(self, hour: datetime, count: int, *, price: float = 1.0, only: int | None = None) -> list[bytes]:
        """Clicks within an hour; `only`: 95 of 100 are that advertiser's."""
        owners = self.random.choices(range(1, ADVERTISERS + 1), weights=self.sizes, k=count)
        if only is not None:
            owners = [only if place % 20 else owner for place, owner in enumerate(owners)]
        return [self._click(owner, hour + HOUR * self.random.random(), price) for owner in owners]

    def _click(self, owner: int, time: datetime, price: float) -> bytes:
        self._next += 1
        amount = f"{self.prices[owner - 1] * price * self.random.uniform(0.6, 1.4):.4f}"
        return click(self._next, time, amount, advertiser_id=owner, ad_id=100 + owner)

    def day(
        self, midnight: datetime, clicks: int, hours: Sequence[int] = range(24)
    ) -> Iterator[tuple[datetime, list[bytes]]]:
        """(hour, its clicks) for the hours of a day of about so many clicks."""
        for number in hours:
            hour = midnight + timedelta(hours=number)
            expected = clicks * RHYTHM[number] / sum(RHYTHM)
            yield hour, self.clicks(hour, max(1, round(self.random.gauss(expected, expected**0.5))))
