"""How often one may ask: requests in a fixed window, counted in this process.

Limits are read by the library `limits`. Its own store in memory isn't used: it starts a thread every hundredth of a
second, which took a seventh of the fast lane's time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from limits import RateLimitItem, parse

from spendgate.api.identity import Identity
from spendgate.api.problems import ProblemError

# Callers that are counted at a time, at a hundred bytes each. Whoever comes from more addresses isn't stopped by one.
MOST_COUNTED = 100_000


@dataclass(slots=True)
class Windows:
    """Requests of each caller in its current window."""

    limit: RateLimitItem
    _windows: dict[str, tuple[float, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, who: str) -> None:
        """Raise a 429 problem if `who` asks too often."""
        now = time.monotonic()
        with self._lock:
            ends, counted = self._windows.get(who, (0.0, 0))
            if now >= ends:
                if len(self._windows) >= MOST_COUNTED:
                    self._make_room(now)
                ends, counted = now + self.limit.get_expiry(), 0
            self._windows[who] = ends, counted + 1
        if counted >= self.limit.amount:
            seconds = int(ends - now) + 1
            period = self.limit.GRANULARITY.name
            detail = f"More than {self.limit.amount} requests a {period}: try again in {seconds} s."
            raise ProblemError(429, "too_many_requests", detail, {"Retry-After": str(seconds)})

    def _make_room(self, now: float) -> None:
        self._windows = {who: window for who, window in self._windows.items() if window[0] > now}
        if len(self._windows) >= MOST_COUNTED:
            self._windows.clear()


class Limits:
    """Requests of an identity, and log-ins of an address."""

    def __init__(self, requests: str, log_ins: str) -> None:
        self._requests, self._log_ins = Windows(parse(requests)), Windows(parse(log_ins))

    def count_request(self, identity: Identity) -> None:
        """Raise a 429 problem if this identity asks too often."""
        self._requests.count(identity.label)

    def count_log_in(self, address: str) -> None:
        """Raise a 429 problem if log-ins come from this address too often."""
        self._log_ins.count(address)
